"""`kill -9` in the middle of a two-step workflow, again and again, each time when the provider has sent the k-th answer.

The oracle stands outside of the run: what the provider remembers, and what lies on the disk after each death.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec
import pytest

from penstock.simulator.behaviour import Settings, Spread, expected_text, prompt_digest
from tests.journeys.recording import RecordingProvider, recording
from tests.kit.journey import INDEX_MASK, SEED, beside, marked_rows, note, penstock, row_id

STEPS = 2
CONCURRENCY = 32
WORKFLOW = """
async def review(row, llm):
    first = await llm.generate(f"Summarise {row['text']}.")
    second = await llm.generate(f"Classify this: {first.text}")
    return {"summary": first.text, "label": second.text}
"""
THINKING = Settings(latency=Spread.between(0.001, 0.02))
Asked = tuple[int, int]
"""A row, and the step that it asked in."""


def prompts_of(index: int) -> list[str]:
    """What the steps of a row ask."""
    first = f"Summarise row number {index}."
    return [first, f"Classify this: {expected_text(first)}"]


class Session(msgspec.Struct, frozen=True):
    """One sitting: what arrived at the provider and was answered, and what its death left recorded and marked."""

    arrived: Counter[Asked]
    answered: Counter[Asked]
    recorded: set[Asked]
    marked: set[int]


class Journey:
    """One run over many sittings, on one OUTPUT, against one provider; the current folder has the workflow."""

    def __init__(self, folder: Path, provider: RecordingProvider, rows: int) -> None:
        self.output, self._scratch, self._provider = folder / "out.jsonl", folder / "scratch", provider
        self.summary = folder / "summary.json"
        (folder / "reviews.py").write_text(WORKFLOW)
        lines = [{"id": row_id(index), "text": f"row number {index}"} for index in range(rows)]
        (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        asked = {(index, step): prompt for index in range(rows) for step, prompt in enumerate(prompts_of(index))}
        self._by_prompt = {int(prompt_digest(prompt), 16): key for key, prompt in asked.items()}
        self._by_answer = {expected_text(prompt): key for key, prompt in asked.items()}
        assert len(self._by_prompt) == len(self._by_answer) == STEPS * rows
        self._run = ["run", folder / "in.jsonl", "-o", self.output, "-m", "custom/m", "--workflow", "reviews:review"]
        self._run += ["--base-url", provider.base_url, "--max-concurrency", CONCURRENCY, "--no-progress"]
        self._run += ["--summary", self.summary]

    def sit(self, kill_after: int | None = None) -> tuple[int, str, Session]:
        """Start or resume, to the end or to the kill."""
        simulator = self._provider.simulator
        status, told = self._provider.sitting(self._run, kill_after)
        session = Session(
            arrived=Counter(map(self._by_prompt.__getitem__, simulator.arrived)),
            answered=Counter(map(self._by_prompt.__getitem__, simulator.answered)),
            recorded=self._recorded(),
            marked=marked_rows(self.output),
        )
        return status, told, session

    def _recorded(self) -> set[Asked]:
        """The calls whose answer lies in the ledger, each under the row that asked it."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        for suffix in (".ledger", ".ledger-wal"):
            if beside(self.output, suffix).exists():
                shutil.copy(beside(self.output, suffix), self._scratch)
        with closing(sqlite3.connect(self._scratch / f"{self.output.name}.ledger")) as database:
            calls = database.execute("SELECT position, body FROM calls WHERE state = 1").fetchall()
        answers = [(at & INDEX_MASK, json.loads(body)["choices"][0]["message"]["content"]) for at, body in calls]
        recorded = [self._by_answer[text] for _, text in answers]
        assert [row for row, _ in answers] == [row for row, _ in recorded], "an answer lies under another row"
        assert len(set(recorded)) == len(recorded), "an answer is recorded twice"
        return set(recorded)


def _check_death(session: Session, before: set[Asked]) -> None:
    """What must hold on the disk after each kill; `before` is what was recorded when the session began."""
    sent = set(session.arrived)
    assert before <= session.recorded, "a recorded answer is gone"
    assert not sent & before, "a call was sent again whose answer was recorded"
    nameless = {key for key in sent - session.recorded if key[0] not in session.marked}
    assert not nameless, "a send left neither answer nor name"
    assert session.recorded - before <= set(session.answered), "an answer is recorded that was never given"
    assert max(session.arrived.values()) == 1, "one sitting sent a call twice, though nothing failed"


@pytest.mark.parametrize(
    ("rows", "kills"), [(300, 6), pytest.param(2_000, 30, marks=pytest.mark.conformance)], ids=["some", "all"]
)
@pytest.mark.timeout(600)
def test_kills_cost_no_recorded_answer_of_a_workflow(
    rows: int,
    kills: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Each value is that of a run that nothing disturbed; no answer that was recorded is asked for again."""
    note(record_property, PENSTOCK_SEED=SEED)
    monkeypatch.chdir(tmp_path)
    places = sorted(Random(SEED).sample(range(1, STEPS * rows - 2 * CONCURRENCY), kills))
    with recording(THINKING) as provider:
        journey = Journey(tmp_path, provider, rows)
        sessions: list[Session] = []
        recorded: set[Asked] = set()
        for before, after in pairwise([0, *places]):
            status, told, session = journey.sit(after - before)
            assert status == -signal.SIGKILL, told
            _check_death(session, recorded)
            assert not journey.output.exists()
            recorded = session.recorded
            sessions.append(session)
        status, told, last = journey.sit()
    assert status == 0, told
    assert not last.marked
    assert not set(last.arrived) & recorded
    lines = [json.loads(line) for line in journey.output.read_bytes().splitlines()]
    assert [line["id"] for line in lines] == [row_id(index) for index in range(rows)]
    for index, line in enumerate(lines):
        summary, label = map(expected_text, prompts_of(index))
        assert (line["value"], line["error"]) == ({"summary": summary, "label": label}, None)
    _check_account(journey, [*sessions, last], rows)


def _check_account(journey: Journey, sessions: list[Session], rows: int) -> None:
    answered = sum((session.answered for session in sessions), Counter())
    paid_twice = answered.total() - len(answered)
    marked = sum(len(session.marked) for session in sessions)
    summary = json.loads(journey.summary.read_bytes())
    assert [summary[name] for name in ("rows", "ok", "failed", "left")] == [rows, rows, 0, 0]
    assert summary["calls"] == {"answers": STEPS * rows, "dropped": 0, "unused": 0, "unused_cost": 0.0}
    verified = penstock("verify", journey.output)
    assert verified.returncode == 0, verified.stdout
    assert f"{STEPS * rows:,} answers to the calls of rows" in verified.stdout
    told = re.search(r"^([\d,]+) sends may be billed without an answer", verified.stdout, re.MULTILINE)
    assert told is not None
    assert paid_twice <= int(told[1].replace(",", "")) == summary["ambiguous"] <= marked
