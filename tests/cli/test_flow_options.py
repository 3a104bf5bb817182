"""The options of `penstock run` that bound its speed: what is refused, what a row that never fits gets, what a run waits for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.jobs import progress
from tests.kit.command import Command, Recorder, json_lines, read_lines, snapshot

REFUSED = {
    "no share": ("--share", "0"),
    "a negative share": ("--share", "-0.6"),
    "more than the whole": ("--share", "1.1"),
    "a share that is no number": ("--share", "nan"),
    "a share in words": ("--share", "60%"),
    "no input tokens": ("--input-tpm", "0"),
    "endless input tokens": ("--input-tpm", "inf"),
    "negative output tokens": ("--output-tpm", "-1"),
    "no requests a day": ("--rpd", "0"),
    "no money": ("--max-cost", "0"),
    "negative money": ("--max-cost", "-1"),
    "endless money": ("--max-cost", "inf"),
    "money that is no number": ("--max-cost", "nan"),
    "money in words": ("--max-cost", "$5"),
}

WAITS = {
    "requests": ("--rpm", "600", "requests a minute"),
    "tokens": ("--tpm", "8000", "tokens a minute"),
    "input tokens": ("--input-tpm", "8000", "input tokens a minute"),
    "output tokens": ("--output-tpm", "6000", "output tokens a minute"),
}
"""Limits that let about ten rows go in a second, and how a person is told of each."""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")


def run_over(base_url: str, rows: int, *options: str, model: str = "openai/m") -> list[str]:
    """The command line for so many rows, which it writes."""
    Path("in.jsonl").write_bytes(json_lines({"prompt": f"row {index}"} for index in range(rows)))
    return ["run", "in.jsonl", "-o", "out.jsonl", "-m", model, "--base-url", base_url, *options]


@pytest.mark.parametrize(("option", "value"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_a_limit_is_refused(
    option: str, value: str, penstock: Command, provider: Recorder, folder: Path
) -> None:
    """Exit 2 that names the option and the value; nothing is sent, no file is made."""
    arguments = run_over(provider.base_url, 1, option, value, model="openai/gpt-5-mini")
    before = snapshot(folder)
    ran = penstock(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert f"'{option}'" in ran.err
    assert value in ran.err
    assert provider.connections == 0
    assert snapshot(folder) == before


@pytest.mark.parametrize("option", ["--tpm", "--input-tpm"])
def test_a_row_that_is_larger_than_a_limit_fails_at_once(option: str, penstock: Command, provider: Recorder) -> None:
    """Waiting would last for ever: exit 1, the row's error is `never_fits` and names the limit, nothing is sent."""
    ran = penstock(*run_over(provider.base_url, 1, option, "2", "--max-tokens", "1", "--no-progress"))
    [line] = read_lines("out.jsonl")
    assert ran.status == 1, ran.err
    assert line["error"]["kind"] == "never_fits"
    assert "tokens" in line["error"]["message"]
    assert provider.connections == 0


@pytest.mark.parametrize(("option", "limit", "name"), WAITS.values(), ids=WAITS.keys())
def test_a_line_without_a_terminal_says_what_the_run_waits_for(
    option: str, limit: str, name: str, penstock: Command, provider: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binding limit in a person's words and the seconds until the next request: `requests a minute, next in 0.4 s`."""
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.02)
    ran = penstock(*run_over(provider.base_url, 12, option, limit, "--max-tokens", "10"))
    assert ran.status == 0, ran.err
    assert re.search(rf"\d+/12 rows: .* · waits for {name}, next in \d+\.\d s$", ran.err, re.MULTILINE)
    assert "\x1b" not in ran.err


def test_a_run_that_waits_for_nothing_says_so_by_silence(
    penstock: Command, provider: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of progress without a limit name none."""
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.001)
    ran = penstock(*run_over(provider.base_url, 60, "--max-concurrency", "4"))
    assert ran.status == 0, ran.err
    assert "/60 rows: " in ran.err
    assert "waits for" not in ran.err
