"""A run with a sum that it may spend: it ends before it would spend more, loses nothing, and goes on once the sum is raised."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.kit.command import read_lines, snapshot
from tests.kit.journey import penstock, write_input, wrong_lines
from tests.kit.simulated import Simulated, simulated

ROWS = 600
ENOUGH_USD = 1.0
MOST_OF_ONE_REQUEST_USD = 0.0001
"""More than what a request is reserved for once lengths are known, or once it names its own limit of 32 tokens."""

SITTINGS = 3
SUMS = {"32 tokens at most": (0.005, ("--max-tokens", 32)), "no limit of tokens": (0.012, ())}
"""What may be spent, in US dollars; all rows cost 0.015. Before it knows lengths, a request without a limit is held to cost
0.008."""


class Sittings:
    """`penstock run --max-cost USD` on one input and one OUTPUT, once or again."""

    def __init__(self, folder: Path, provider: Simulated, *options: object) -> None:
        self.output = folder / "out.jsonl"
        self._summary = folder / "summary.json"
        self._run = ["run", write_input(folder / "in.jsonl", ROWS), "-o", self.output, "--no-progress", *options]
        self._run += ["--base-url", provider.base_url, "--summary", self._summary]

    def sit(self, max_cost: float, model: str = "openai/gpt-5-mini") -> CompletedProcess[str]:
        return penstock(*self._run, "-m", model, "--max-cost", max_cost, env={"OPENAI_API_KEY": "unused"})

    def summary(self) -> dict[str, Any]:
        return json.loads(self._summary.read_bytes())


@pytest.mark.parametrize(("max_cost", "options"), SUMS.values(), ids=SUMS.keys())
def test_a_run_ends_before_it_would_cost_more_and_goes_on_with_more(
    max_cost: float, options: tuple[object, ...], tmp_path: Path
) -> None:
    """Exit 3 with all but one request's worth spent and every answer kept; with a larger sum each other row is sent once."""
    with simulated("--latency", "0.01") as provider:
        run = Sittings(tmp_path, provider, *options)
        stopped = run.sit(max_cost)
        assert stopped.returncode == 3, stopped.stderr
        assert "Raise --max-cost and run the same command again" in stopped.stderr
        first = run.summary()
        assert max_cost - MOST_OF_ONE_REQUEST_USD < first["cost"] <= max_cost
        seen = provider.stats()
        assert first["ok"] == first["sent"] == seen["arrived"] == seen["answered"]
        assert (first["failed"], first["left"], run.output.exists()) == (0, ROWS - first["ok"], False)

        assert run.sit(max_cost).returncode == 3
        assert run.summary()["cost"] == pytest.approx(first["cost"])
        assert provider.stats()["arrived"] == first["sent"]

        done = run.sit(ENOUGH_USD)
        assert done.returncode == 0, done.stderr
        assert provider.stats()["arrived"] == ROWS
    assert wrong_lines(run.output, ROWS) == []
    assert penstock("verify", run.output).returncode == 0
    assert run.summary()["cost"] == pytest.approx(sum(line["cost"] for line in read_lines(run.output)))


def test_sends_that_may_be_billed_count_although_their_answers_are_lost(tmp_path: Path) -> None:
    """What is recorded and what the lost answers cost, as long as the others, are within the sum, over all sittings."""
    max_cost, options = SUMS["32 tokens at most"]
    with simulated("--latency", "0.01", "--fault", "reset=0.3") as provider:
        run = Sittings(tmp_path, provider, *options)
        for _ in range(SITTINGS):
            stopped = run.sit(max_cost)
            assert stopped.returncode == 3, stopped.stderr
        seen, told = provider.stats(), run.summary()
    assert told["ambiguous"] == seen["failed"]["reset"] > 0
    assert told["cost"] * seen["arrived"] / seen["answered"] <= max_cost


def test_a_sum_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """A model of unknown price: exit 2 that names it, nothing sent, no file made."""
    with simulated() as provider:
        run = Sittings(tmp_path, provider)
        before = snapshot(tmp_path)
        refused = run.sit(ENOUGH_USD, "openai/of-unknown-price")
        assert refused.returncode == 2, refused.stderr
        assert "the price of 'of-unknown-price' is not known" in refused.stderr
        assert snapshot(tmp_path) == before
        assert provider.stats()["arrived"] == 0
