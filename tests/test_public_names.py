"""The public names: complete, there, and nothing else."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

import penstock
from penstock import errors

VALUES = {"Chunk", "Client", "Limits", "Llm", "Request", "Response", "Result", "RowChunk", "ToolCall", "Usage"}
ERRORS = {
    name
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.PenstockError) and not name.startswith("_")
}


def test_the_names_are_the_values_and_every_error() -> None:
    """Each error of the tree is exported, each name once."""
    assert len(ERRORS) > 10
    assert sorted(penstock.__all__) == sorted({*VALUES, *ERRORS, "__version__"})


@pytest.mark.parametrize("name", penstock.__all__)
def test_every_name_is_there(name: str) -> None:
    """It loads, and it is called what it is called."""
    value = getattr(penstock, name)
    assert name == "__version__" or value.__name__ == name


def test_dir_and_star_show_the_names() -> None:
    """`dir` tells them sorted; `import *` brings them."""
    assert dir(penstock) == sorted(penstock.__all__)
    script = "from penstock import *; print(all(n in globals() for n in __import__('penstock').__all__))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "True"


def test_type_checkers_see_the_same_names() -> None:
    """What stands under TYPE_CHECKING is what is loaded late."""
    source = inspect.getsource(penstock)
    seen = re.findall(r"^    from ([\w.]+) import (\w+) as \2$", source, re.MULTILINE)
    assert {name: home for home, name in seen} == penstock._HOME_OF


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'Clint'"):
        _ = penstock.Clint


def test_the_errors_stand_in_the_tree_of_the_docstring() -> None:
    """The drawing in the module's docstring names every class."""
    assert errors.__doc__ is not None
    assert [name for name in ERRORS if name not in errors.__doc__] == []
