"""`penstock plan` as a user types it: no key, no socket, nothing written; what a run recorded is learned from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import COMMANDS
from penstock.planning import simulation
from penstock.testing import no_network
from tests.kit.command import Command, Ran, Recorder

ASK = ("-m", "openai/gpt-5-mini", "--prompt", "Summarise: {text}")


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no way out, and few rows simulated, so that the tests are quick."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setitem(COMMANDS, "plan", "Tell what a run would take; sends nothing.")
    monkeypatch.setattr(simulation, "ROWS", 200)
    with no_network():
        yield


def write_rows(count: int, path: str = "rows.jsonl") -> None:
    lines = (json.dumps({"id": f"r{k}", "text": f"{k} " + "water " * (k % 50 + 1)}) for k in range(count))
    Path(path).write_text("\n".join(lines) + "\n")


def told(ran: Ran) -> dict[str, Any]:
    """The one object that `--json` prints."""
    assert ran.status == 0, ran.err
    (line,) = ran.out.splitlines()
    return dict(json.loads(line))


def test_it_tells_and_leaves_nothing_behind(penstock: Command) -> None:
    """The table, what sets the time and the first request, without a key; the folder is as it was."""
    write_rows(300)
    ran = penstock("plan", "rows.jsonl", *ASK, "--rpm", "60")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("300 rows for openai/gpt-5-mini; nothing was sent\n")
    assert "the time is set by requests a minute (60)" in ran.out
    assert "Summarise: 0 water" in ran.out
    assert "at batch price" in ran.out
    assert [path.name for path in Path().iterdir()] == ["rows.jsonl"]


def test_json_is_one_object_with_every_field(penstock: Command) -> None:
    write_rows(20)
    forecast = told(penstock("plan", "rows.jsonl", *ASK, "--json", "--max-tokens", "50", "--limit", "9"))
    assert (forecast["rows"], forecast["left"], forecast["recorded"], forecast["learned_from"]) == (9, 9, 0, 0)
    assert forecast["output_tokens"]["high"] == 9 * 50
    assert forecast["first_request"]["max_completion_tokens"] == 50
    assert 0 < forecast["cost"]["low"] < forecast["cost"]["likely"] < forecast["cost"]["high"]
    assert set(forecast["seconds"]) == {"low", "likely", "high"}


def test_options_of_the_engine_count(penstock: Command) -> None:
    """More at once take less time."""
    write_rows(200)
    few, many = (
        told(penstock("plan", "rows.jsonl", *ASK, "--json", "--max-concurrency", number)) for number in ("5", "50")
    )
    assert few["seconds"]["likely"] > 5 * many["seconds"]["likely"]
    assert few["bound_by"].startswith("concurrency x latency (5 at once")


@pytest.fixture
def standard_input() -> Iterator[None]:
    """Twelve rows on file descriptor 0."""
    write_rows(12)
    saved = os.dup(0)
    with Path("rows.jsonl").open("rb") as rows:
        os.dup2(rows.fileno(), 0)
    yield
    os.dup2(saved, 0)
    os.close(saved)


@pytest.mark.usefixtures("standard_input")
def test_rows_may_come_from_standard_input(penstock: Command) -> None:
    assert told(penstock("plan", "-", *ASK, "--json"))["rows"] == 12


def test_what_a_run_has_recorded_is_learned_from(penstock: Command, provider: Recorder) -> None:
    """After `--limit 60`, the same rows take what is left, and their figures are those of the answers."""
    write_rows(200)
    asking = ("-m", "custom/m", "--base-url", provider.base_url, "--prompt", "Summarise: {text}", "--id", "id")
    assert penstock("run", "rows.jsonl", "-o", "out.jsonl", *asking, "--limit", "60", "--no-progress").status == 0
    before = sorted((path.name, path.stat().st_size) for path in Path().iterdir() if "ledger" not in path.name)
    forecast = told(penstock("plan", "rows.jsonl", "-o", "out.jsonl", *asking, "--json", "--max-concurrency", "4"))
    assert (forecast["rows"], forecast["recorded"], forecast["left"]) == (200, 60, 140)
    assert forecast["learned_from"] == 60
    assert forecast["cost"] is None
    answers = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    output = sum(answer["usage"]["output_tokens"] for answer in answers) / 60
    assert forecast["output_tokens"]["likely"] == pytest.approx(140 * output, rel=0.01)
    after = sorted((path.name, path.stat().st_size) for path in Path().iterdir() if "ledger" not in path.name)
    assert after == before
    assert penstock("run", "rows.jsonl", "-o", "out.jsonl", *asking, "--no-progress").status == 0


def test_without_a_ledger_yet_there_is_nothing_to_learn(penstock: Command) -> None:
    write_rows(5)
    assert told(penstock("plan", "rows.jsonl", "-o", "out.jsonl", *ASK, "--json"))["learned_from"] == 0
    assert not Path("out.jsonl.ledger").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rows.jsonl", "-m", "openai/m"), "no prompt and no messages"),
        (("rows.jsonl", "-m", "openai/m", "--prompt", "{nothing}"), "rows.jsonl:1: there is no column 'nothing'"),
        (("rows.jsonl", "-m", "nobody/m", "--prompt", "{text}"), "unknown provider 'nobody'"),
        (("missing.jsonl", *ASK), "missing.jsonl"),
        (("rows.jsonl", *ASK, "--rpm", "0"), "0"),
        (("rows.jsonl", *ASK, "-o", "rows.jsonl"), "rows.jsonl"),
        (("empty.jsonl", *ASK), "no rows"),
    ],
)
def test_what_cannot_be_right_ends_with_two(penstock: Command, arguments: tuple[str, ...], says: str) -> None:
    write_rows(3)
    Path("empty.jsonl").write_text("")
    ran = penstock("plan", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err


def test_another_run_than_the_recorded_one_is_refused(penstock: Command, provider: Recorder) -> None:
    """It would not tell what is left of it; the message says what changed and what to do."""
    write_rows(5)
    asking = ("-m", "custom/m", "--base-url", provider.base_url, "--prompt", "Summarise: {text}")
    assert penstock("run", "rows.jsonl", "-o", "out.jsonl", *asking, "--no-progress").status == 0
    write_rows(6)
    ran = penstock("plan", "rows.jsonl", "-o", "out.jsonl", *asking, "--temperature", "0")
    assert ran.status == 2
    assert "params and the rows changed" in ran.err
    assert "leave -o out" in ran.err


def test_help_has_examples(penstock: Command) -> None:
    ran = penstock("plan", "--help")
    assert ran.status == 0
    assert "Examples:" in ran.out
    assert "penstock plan articles/" in ran.out
