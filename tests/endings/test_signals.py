"""SIGINT and SIGTERM at drawn moments of the real command: what was in flight is recorded, and the same command goes on."""

from __future__ import annotations

import os
import shlex
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from penstock.simulator.behaviour import Settings, Spread, prompt_digest
from tests.endings.signalling import SignallingSimulator, signalling
from tests.journeys.recording import RecordingProvider
from tests.kit.journey import (
    SEED,
    answered_rows,
    finish,
    marked_rows,
    note,
    prompt_of,
    under_way,
    write_input,
    wrong_lines,
)

SIGNALS = int(os.environ.get("PENSTOCK_SIGNALS", "20"))
CONCURRENCY = 8
ROUNDS = 4
EACH = -(-SIGNALS // ROUNDS)
ROWS = 120 * EACH
"""So many that every signal finds a run to end, however many come."""

MOST_CUT_AT_ONCE = 5 * CONCURRENCY
"""The third signal leaves at once: four times as many answers as are in flight may wait for their commit."""

THINKING = Settings(latency=Spread.between(0.002, 0.01))
INDEX_OF = {int(prompt_digest(prompt_of(index)), 16): index for index in range(ROWS)}
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Journey:
    """One run over many sittings, and what is known of it from outside."""

    def __init__(self, folder: Path, provider: RecordingProvider, simulator: SignallingSimulator) -> None:
        self.output = folder / "out.jsonl"
        self.recorded: set[int] = set()
        self._scratch = folder / "scratch"
        self._provider, self._simulator = provider, simulator
        self.arguments = ["run", str(write_input(folder / "in.jsonl", ROWS)), "-o", str(self.output), "-m", "custom/m"]
        self.arguments += ["--base-url", provider.base_url, "--max-concurrency", str(CONCURRENCY), "--no-progress"]

    def sit(self, after: dict[int, signal.Signals]) -> tuple[int, str]:
        """Start or resume, with these signals after so many answers; no sitting may lose or pay again what was recorded."""
        before = self.recorded
        self._simulator.begin_signalling(after)
        with under_way(*self.arguments) as process:
            self._simulator.client_is(process.pid)
            status, told = finish(process)
        self._provider.settle()
        self.recorded = answered_rows(self.output, self._scratch)
        assert before <= self.recorded, "a recorded answer is gone"
        assert not before & self.rows_of(self._simulator.arrived), "a row was sent again whose answer was recorded"
        assert max(Counter(self._simulator.arrived).values(), default=1) == 1
        return status, told

    @staticmethod
    def rows_of(digests: list[int]) -> set[int]:
        return {INDEX_OF[digest] for digest in digests}

    @property
    def new(self) -> int:
        """Answers of the last sitting."""
        return len(self._simulator.answered)

    def check_drained(self, after: int, before: set[int]) -> None:
        """The last sitting sent nothing after its signal was handled, and recorded all that it had sent."""
        arrived, answered = self.rows_of(self._simulator.arrived), self.rows_of(self._simulator.answered)
        assert arrived == answered == self.recorded - before, "what was in flight did not finish or is not recorded"
        # An answer that was on its way with the signal lets one more row go; a full round of those is what can be.
        assert len(arrived) <= after + 3 * CONCURRENCY
        assert self._simulator.arrived_at_signal


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_the_first_signal_drains_and_the_same_command_goes_on(
    tmp_path: Path, round_number: int, record_property: Callable[[str, object], None]
) -> None:
    """Exit 130 or 143, the account and the resume command told, everything in flight recorded; at the end every row once."""
    note(record_property, PENSTOCK_SEED=SEED)
    chance = Random(SEED + round_number)
    most = ROWS // EACH - 4 * CONCURRENCY
    with signalling(THINKING) as (provider, simulator):
        journey = Journey(tmp_path, provider, simulator)
        for _ in range(EACH):
            number, after, before = chance.choice(sorted(ENDS)), chance.randint(1, most), journey.recorded
            status, told = journey.sit({after: number})
            assert status == ENDS[number], told
            journey.check_drained(after, before)
            recorded, left = len(journey.recorded), ROWS - len(journey.recorded)
            assert f"{ROWS:,} rows = {recorded:,} ok + 0 failed + {left:,} left" in told
            assert f"resume with: {shlex.join(['penstock', *journey.arguments])}" in told
            assert not journey.output.exists()
        check_finished(journey)


def check_finished(journey: Journey) -> None:
    status, told = journey.sit({})
    assert status == 0, told
    assert wrong_lines(journey.output, ROWS) == []


def test_further_signals_at_drawn_moments_leave_the_ledger_whole(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Two signals, or three, a few answers apart: nothing recorded is lost, what is cut leaves its name, the run can be ended."""
    note(record_property, PENSTOCK_SEED=SEED)
    chance = Random(SEED)
    with signalling(THINKING) as (provider, simulator):
        journey = Journey(tmp_path, provider, simulator)
        for sitting in range(max(4, SIGNALS // 4)):
            first = chance.choice(sorted(ENDS))
            at = chance.randint(1, 40)
            later = sorted(at + gap for gap in chance.sample(range(1, CONCURRENCY), 1 + sitting % 2))
            before = journey.recorded
            status, told = journey.sit({at: first, **{place: chance.choice(sorted(ENDS)) for place in later}})
            assert status in ENDS.values(), told
            cut = journey.rows_of(simulator.arrived) - journey.recorded
            assert len(cut) <= (MOST_CUT_AT_ONCE if len(later) > 1 else CONCURRENCY)
            assert cut <= marked_rows(journey.output), "a row was cut and its name is not left"
            assert journey.recorded - before <= journey.rows_of(simulator.answered)
            assert not journey.output.exists()
        check_finished(journey)
