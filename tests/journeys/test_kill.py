"""`kill -9`, fifty times in one run of 20,000 rows, each time when the provider has sent the k-th answer since the last one.

The oracle stands outside of the run: what the provider remembers, and what lies on the disk after each death.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from penstock.simulator.behaviour import Settings, Spread, prompt_digest
from tests.journeys.recording import RecordingProvider, recording
from tests.kit.journey import (
    SEED,
    answered_rows,
    marked_rows,
    note,
    penstock,
    prompt_of,
    write_input,
    wrong_lines,
)

ROWS = 20_000
KILLS = int(os.environ.get("PENSTOCK_KILLS", "50"))
"""`make torture` sets more."""

CONCURRENCY = 64
LAST_KILL = ROWS - 500
"""What is left after the last kill must be enough that every kill finds a run to end."""

MOST_MARKED = 5 * (CONCURRENCY + CONCURRENCY // 4 + 1)
"""In flight, and four times as many that wait for their commit; a worker more for each four that may wait for a retry."""

INDEX_OF = {int(prompt_digest(prompt_of(index)), 16): index for index in range(ROWS)}
THINKING = Settings(latency=Spread.between(0.001, 0.02))
"""Answers that take a moment, so that a kill also cuts requests whose answer the provider still owes."""


class Session(msgspec.Struct, frozen=True):
    """One sitting of the run, in row indices: what arrived at the provider, what it answered, and what its death left."""

    arrived: Counter[int]
    answered: Counter[int]
    recorded: set[int]
    marked: set[int]

    @property
    def cut(self) -> set[int]:
        """Rows that were being sent and have no recorded answer: they may be billed twice."""
        return self.marked - self.recorded


class Journey:
    """One run over many sittings, on one OUTPUT, against one provider."""

    def __init__(self, folder: Path, provider: RecordingProvider, *options: object) -> None:
        self.output = folder / "out.jsonl"
        self.summary = folder / "summary.json"
        self._scratch = folder / "scratch"
        self._provider = provider
        self._run = ["run", write_input(folder / "in.jsonl", ROWS), "-o", self.output, "-m", "custom/m"]
        self._run += ["--base-url", provider.base_url, "--max-concurrency", CONCURRENCY, "--no-progress"]
        self._run += ["--summary", self.summary, *options]

    def sit(self, kill_after: int | None = None) -> tuple[int, str, Session]:
        """Start or resume, to the end or to the kill; returns exit status, what was told, and the evidence."""
        simulator = self._provider.simulator
        status, told = self._provider.sitting(self._run, kill_after)
        session = Session(
            arrived=Counter(map(INDEX_OF.__getitem__, simulator.arrived)),
            answered=Counter(map(INDEX_OF.__getitem__, simulator.answered)),
            recorded=answered_rows(self.output, self._scratch),
            marked=marked_rows(self.output),
        )
        return status, told, session


def answers_before_each_kill(seed: int, kills: int) -> list[int]:
    """The distances between so many different places, drawn among the answers of the whole run."""
    places = sorted(Random(seed).sample(range(1, LAST_KILL), kills))
    return [place - before for before, place in zip([0, *places], places, strict=False)]


def check_death(session: Session, before: set[int]) -> None:
    """What must hold on the disk after each kill; `before` is what was recorded when the session began."""
    sent = set(session.arrived)
    assert before <= session.recorded, "a recorded answer is gone"
    assert not sent & before, "a row was sent again whose answer was recorded"
    assert sent <= session.recorded | session.marked, "a row was sent and neither its answer nor its name is left"
    assert session.recorded - before <= set(session.answered), "an answer is recorded that was never given"
    assert len(session.marked) <= MOST_MARKED
    assert max(session.arrived.values()) == 1, "one sitting sent a row twice, though nothing failed"


@pytest.mark.timeout(300 + 3 * KILLS)
@pytest.mark.parametrize(("processes", "kills"), [(1, KILLS), (2, KILLS // 10)])
def test_kills_lose_no_answer_and_pay_for_none_twice_unseen(
    tmp_path: Path, record_property: Callable[[str, object], None], processes: int, kills: int
) -> None:
    """Each row stands once in OUTPUT with its own answer; every answer paid for twice is one that `verify` counts.

    Those that send for the run are gone with it: the provider sees no connection of theirs any more.
    """
    note(record_property, PENSTOCK_SEED=SEED)
    with recording(THINKING) as provider:
        journey = Journey(tmp_path, provider, "--processes", processes)
        sessions: list[Session] = []
        recorded: set[int] = set()
        for kill_after in answers_before_each_kill(SEED, kills):
            status, told, session = journey.sit(kill_after)
            assert status == -signal.SIGKILL, told
            check_death(session, recorded)
            assert not journey.output.exists()
            recorded = session.recorded
            sessions.append(session)
        status, told, last = journey.sit()
    assert status == 0, told
    assert not last.marked
    assert not set(last.arrived) & recorded
    assert wrong_lines(journey.output, ROWS) == []
    check_account(journey, [*sessions, last])


def check_account(journey: Journey, sessions: list[Session]) -> None:
    arrived = sum((session.arrived for session in sessions), Counter())
    answered = sum((session.answered for session in sessions), Counter())
    cut = Counter(row for session in sessions for row in session.cut)
    paid_twice = {row: times - 1 for row, times in answered.items() if times > 1}
    assert all(times <= cut[row] for row, times in paid_twice.items()), "a row was answered twice that no kill had cut"
    assert set(arrived) == set(range(ROWS))
    assert arrived.total() - ROWS == sum(len(set(session.arrived) & session.cut) for session in sessions)
    summary = json.loads(journey.summary.read_bytes())
    assert [summary[name] for name in ("rows", "ok", "failed", "left")] == [ROWS, ROWS, 0, 0]
    assert (summary["sent"], summary["ambiguous"]) == (sessions[-1].arrived.total(), cut.total())
    verified = penstock("verify", journey.output)
    assert verified.returncode == 0, verified.stdout
    assert f"{ROWS:,} rows = {ROWS:,} ok + 0 failed + 0 left" in verified.stdout
    told = re.search(r"^([\d,]+) sends may be billed without an answer", verified.stdout, re.MULTILINE)
    assert told is not None
    assert int(told[1].replace(",", "")) == cut.total() >= arrived.total() - ROWS
