"""`kill -9` of a run whose one row had lost answers before: each of those sends stays counted."""

from __future__ import annotations

import re
from pathlib import Path

from tests.kit.journey import penstock, under_way, wait_until, write_input
from tests.kit.simulated import simulated

LOST_BEFORE_THE_KILL = 3


def test_each_answer_that_a_row_lost_before_the_kill_stays_counted(tmp_path: Path) -> None:
    """What arrived at the provider is the one answer plus the sends that `verify` counts."""
    output = tmp_path / "out.jsonl"
    source = write_input(tmp_path / "in.jsonl", 1, {0: {"prompt": "[[simulate:reset*5]] please"}})
    with simulated() as provider:
        run = ["run", source, "-o", output, "-m", "custom/m", "--base-url", provider.base_url, "--max-retries", 9]
        with under_way(*run, "--no-progress") as process:
            wait_until(provider, "arrived", LOST_BEFORE_THE_KILL)
            process.kill()
        done = penstock(*run, "--no-progress")
        seen = provider.stats()
    assert (done.returncode, seen["answered"]) == (0, 1), done.stderr
    told = re.search(r"^(\d+) sends may be billed", penstock("verify", output).stdout, re.MULTILINE)
    assert told is not None
    assert int(told[1]) == seen["arrived"] - 1
