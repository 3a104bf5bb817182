"""A run that leaves a part of the limit to others: at no moment has the provider let in more than its share."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.kit.journey import command, write_input, wrong_lines
from tests.kit.simulated import Simulated, simulated

ROWS = 300
REQUESTS_PER_MINUTE = 6_000
BURST_SECONDS = 1
SHARE = 0.6
RATE = SHARE * REQUESTS_PER_MINUTE / 60
BURST = BURST_SECONDS * REQUESTS_PER_MINUTE / 60
"""Requests at once. At the whole limit all rows would be there after 2.0 to 2.4 s, when the share allows 244."""

SAMPLE_SECONDS = 0.02


def accounts(process: subprocess.Popen[bytes], provider: Simulated) -> list[dict[str, Any]]:
    """The provider's account again and again until a run has ended."""
    seen = []
    while process.returncode is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(SAMPLE_SECONDS)
        seen.append(provider.stats())
    return seen


@pytest.mark.parametrize("told", [("--rpm", REQUESTS_PER_MINUTE), ()], ids=["told", "learned from headers"])
def test_a_share_of_the_limit_is_not_exceeded(told: tuple[object, ...], tmp_path: Path) -> None:
    """With `--share 0.6`, arrivals are never above 60 % of the rate and one burst; every row is answered, none throttled."""
    source, output = write_input(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    limits = ("--rpm", str(REQUESTS_PER_MINUTE), "--burst", str(BURST_SECONDS))
    with simulated(*limits, "--latency", "0.02") as provider:
        run = command("run", source, "-o", output, "-m", "custom/m", "--base-url", provider.base_url, "--no-progress")
        with subprocess.Popen([*run, *map(str, ("--share", SHARE, *told))], stderr=subprocess.DEVNULL) as process:
            try:
                seen = accounts(process, provider)
                assert process.returncode == 0
            finally:
                process.kill()
    above = max(seen, key=lambda account: account["arrived"] - RATE * account["elapsed"])
    assert above["arrived"] <= BURST + RATE * above["elapsed"]
    assert (seen[-1]["arrived"], seen[-1]["throttled"]) == (ROWS, 0)
    assert wrong_lines(output, ROWS) == []
