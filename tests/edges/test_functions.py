"""A user's function: found, checked and known again, or told clearly why not."""

from __future__ import annotations

import functools
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from penstock.edges.functions import identity_of, load_function, require_workflow, trace_of
from penstock.errors import UsageError
from penstock.workflows import summarise


async def plain(row: Any, llm: Any) -> str:
    return "one"


def made_of(body: str) -> Any:
    """A function that was typed at a prompt: there is no source to read."""
    names: dict[str, Any] = {}
    exec(f"async def typed(row, llm):\n    {body}", names)
    return names["typed"]


def test_a_function_is_known_by_its_name_and_its_source() -> None:
    known = identity_of(plain)
    assert known["workflow"] == f"{__name__}:plain"
    assert known == identity_of(plain)
    assert known["code"] != identity_of(summarise)["code"]


def test_a_changed_source_is_another_identity_and_a_moved_one_is_not(tmp_path: Path) -> None:
    """The hash is over the function's own lines, wherever they stand, however deep they are indented."""
    code = "async def f(row, llm):\n    return {}\n"
    seen = []
    for number, text in enumerate((code.format(1), "\n\n# moved\n" + code.format(1), code.format(2))):
        path = tmp_path / f"mod{number}.py"
        path.write_text(text)
        names: dict[str, Any] = {"__name__": "mod"}
        exec(compile(text, str(path), "exec"), names)
        seen.append(identity_of(names["f"]))
    assert seen[0] == seen[1] != seen[2]


def test_a_function_without_source_is_known_by_its_code() -> None:
    one, same, other = made_of("return [1, 'x']"), made_of("return [1, 'x']"), made_of("return [2, 'x']")
    nested = [made_of(f"return [i + {n} for i in row]") for n in (1, 1, 2)]
    assert identity_of(one) == identity_of(same) != identity_of(other)
    assert identity_of(nested[0]) == identity_of(nested[1]) != identity_of(nested[2])


def test_bound_arguments_are_part_of_the_identity() -> None:
    few, many = partial(summarise, part_tokens=10), partial(summarise, part_tokens=20)
    assert identity_of(few) == identity_of(partial(summarise, part_tokens=10)) != identity_of(many)
    assert identity_of(few)["workflow"] == identity_of(summarise)["workflow"]
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        identity_of(partial(summarise, part_tokens=object()))


def test_a_wrapped_function_is_known_by_what_is_inside() -> None:
    @functools.wraps(plain)
    async def wrapped(*given: Any) -> str:
        return await plain(*given)

    require_workflow(wrapped)
    assert identity_of(wrapped) == identity_of(plain)


@pytest.mark.parametrize("good", [plain, summarise, partial(summarise, part_tokens=5)])
def test_what_is_a_workflow_passes(good: Any) -> None:
    require_workflow(good)


def test_a_ready_made_one_is_found_by_its_bare_name() -> None:
    assert load_function("summarise") is summarise
    assert load_function("penstock.workflows:summarise") is summarise


def test_the_current_folder_is_looked_in_from_the_installed_command(tmp_path: Path) -> None:
    """A command that is installed has its own folder on the path, not the user's."""
    (tmp_path / "mine.py").write_text("class Reviews:\n    @staticmethod\n    async def one(row, llm): ...\n")
    script = "import sys; sys.path.pop(0); from penstock.edges.functions import load_function as l; print(l('mine:Reviews.one'))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Reviews.one" in done.stdout, done.stderr


def test_a_trace_shows_the_users_code_alone() -> None:
    def inner() -> None:
        raise KeyError("x")

    try:
        inner()
    except KeyError as error:
        told = trace_of(error)
    assert 'raise KeyError("x")' in told
    assert "inner()" not in told.splitlines()[1]
    assert isinstance(inner, FunctionType)
