"""A server that dies in the middle of a batch, again and again, by `kill -9` and by SIGTERM: the next one goes on.

The oracle stands outside: what the provider remembers, and what lies on the disk after each death.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from penstock.simulator.behaviour import Settings, Spread, expected_text, prompt_digest
from tests.journeys.recording import RecordingProvider, recording
from tests.kit.batching import UPLOAD, form, lines
from tests.kit.journey import SEED, answered_rows, marked_rows, note
from tests.kit.serving import Process, serving_process

ROWS = 900
KILLS = int(os.environ.get("PENSTOCK_BATCH_KILLS", "4"))
CONCURRENCY = 32
LAST_KILL = ROWS - 150
"""What is left after the last kill must be enough that it finds a batch under way."""

MOST_MARKED = 5 * (CONCURRENCY + CONCURRENCY // 4 + 1)
"""In flight, and four times as many that wait for their commit; a worker more for each four that may wait for a retry."""

THINKING = Settings(latency=Spread.between(0.001, 0.02))
INDEX_OF = {int(prompt_digest(f"prompt {index}"), 16): index for index in range(ROWS)}
QUESTIONS = 100_000


def ask(port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    """The body of an answer, which must be a good one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        told = response.read()
        assert response.status == 200, told
        return told
    finally:
        connection.close()


class Session(msgspec.Struct, frozen=True):
    """One life of the server, in row indices: what arrived at the provider, what it answered, and what its death left."""

    arrived: Counter[int]
    answered: set[int]
    recorded: set[int]
    marked: set[int]


class Lives:
    """One batch over the lives of many servers, in one folder, against one provider."""

    def __init__(self, folder: Path, provider: RecordingProvider) -> None:
        self.data, self._scratch, self._provider = folder / "data", folder / "scratch", provider
        self._options = ("-m", "custom/m", "--base-url", provider.base_url, "--data", str(self.data), "--grace", "5")
        self._options += ("--max-concurrency", str(CONCURRENCY))
        self.batch_id = ""

    def live(self, meanwhile: Callable[[Process], Any], kill_after: int | None = None) -> tuple[Any, Session]:
        """Start a server and do this with it; returns what came of that, and the evidence."""
        simulator = self._provider.simulator
        simulator.begin(kill_after)
        with serving_process(*self._options) as server:
            if kill_after is not None:
                simulator.client_is(server.process.pid)
            came = meanwhile(server)
        self._provider.settle()
        return came, self._evidence()

    def _evidence(self) -> Session:
        simulator, output = self._provider.simulator, self.data / "batches" / self.batch_id
        under_way = output.with_name(f"{output.name}.ledger").exists()
        return Session(
            arrived=Counter(map(INDEX_OF.__getitem__, simulator.arrived)),
            answered=set(map(INDEX_OF.__getitem__, simulator.answered)),
            recorded=answered_rows(output, self._scratch) if under_way else set(range(ROWS)),
            marked=marked_rows(output) if under_way else set(),
        )

    def begin(self, server: Process) -> None:
        """Upload the input and make the batch."""
        file = json.loads(ask(server.port, "POST", "/v1/files", form(lines(ROWS, model="m")), UPLOAD))
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        kind = {"content-type": "application/json"}
        self.batch_id = json.loads(ask(server.port, "POST", "/v1/batches", json.dumps(asked).encode(), kind))["id"]

    def begin_and_die(self, server: Process) -> int:
        """The first life."""
        self.begin(server)
        return server.process.wait(timeout=60)

    def finish(self, server: Process) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The last life: the batch at its end, and its output."""
        for _ in range(QUESTIONS):
            batch = json.loads(ask(server.port, "GET", f"/v1/batches/{self.batch_id}"))
            if batch["status"] not in ("in_progress", "finalizing"):
                break
        assert batch["status"] == "completed", batch
        content = ask(server.port, "GET", f"/v1/files/{batch['output_file_id']}/content")
        return batch, [json.loads(text) for text in content.splitlines()]


def die(server: Process) -> int:
    """Any life but the first: wait for its end."""
    return server.process.wait(timeout=60)


def check_death(session: Session, before: set[int]) -> None:
    """What must hold on the disk after each death; `before` is what was recorded when the life began."""
    sent = set(session.arrived)
    assert before <= session.recorded, "a recorded answer is gone"
    assert not sent & before, "a row was sent again whose answer was recorded"
    assert sent <= session.recorded | session.marked, "a row was sent and neither its answer nor its name is left"
    assert session.recorded - before <= session.answered, "an answer is recorded that was never given"
    assert len(session.marked) <= MOST_MARKED
    assert max(session.arrived.values(), default=1) == 1, "one life sent a row twice, though nothing failed"


def check_output(batch: dict[str, Any], output: list[dict[str, Any]]) -> None:
    """Each row once, with its own answer; the account of the batch says so too."""
    told = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in output}
    assert len(output) == ROWS
    assert told == {f"row-{n}": expected_text(f"prompt {n}") for n in range(ROWS)}
    assert batch["error_file_id"] is None
    assert batch["request_counts"] == {"total": ROWS, "completed": ROWS, "failed": 0}
    assert batch["usage"]["output_tokens"] > 0


def places(seed: int, deaths: int) -> list[int]:
    """The distances between so many different places, drawn among the answers of the whole batch."""
    drawn = sorted(Random(seed).sample(range(1, LAST_KILL), deaths))
    return [place - before for before, place in zip([0, *drawn], drawn, strict=False)]


@pytest.mark.timeout(300)
def test_kills_lose_no_answer_of_a_batch_and_pay_for_none_again(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The batch is completed by the last of several servers; what was recorded before a kill was not sent after it."""
    note(record_property, PENSTOCK_SEED=SEED)
    with recording(THINKING) as provider:
        lives = Lives(tmp_path, provider)
        sessions: list[Session] = []
        recorded: set[int] = set()
        for kill_after in places(SEED, KILLS):
            status, session = lives.live(die if sessions else lives.begin_and_die, kill_after)
            assert status == -signal.SIGKILL
            check_death(session, recorded)
            recorded = session.recorded
            sessions.append(session)
        (batch, output), last = lives.live(lives.finish)
    check_output(batch, output)
    assert not set(last.arrived) & recorded
    arrived = sum((session.arrived for session in [*sessions, last]), Counter())
    cut = sum(len(session.marked - session.recorded) for session in sessions)
    note(record_property, kills=KILLS, sent=arrived.total(), cut=cut)
    assert set(arrived) == set(range(ROWS))
    assert arrived.total() <= ROWS + cut
    assert {path.name for path in (lives.data / "files").iterdir()} == {batch["input_file_id"], batch["output_file_id"]}
    assert list((lives.data / "batches").iterdir()) == []


@pytest.mark.timeout(120)
def test_a_graceful_stop_loses_nothing_of_a_batch(tmp_path: Path) -> None:
    """SIGTERM: exit 143 within the grace; everything that arrived at the provider was waited for and recorded."""

    def stop(server: Process) -> int:
        lives.begin(server)
        while len(provider.simulator.answered) < ROWS // 3:
            ask(server.port, "GET", f"/v1/batches/{lives.batch_id}")
        server.process.send_signal(signal.SIGTERM)
        return server.process.wait(timeout=30)

    with recording(THINKING) as provider:
        lives = Lives(tmp_path, provider)
        status, first = lives.live(stop)
        assert status == 143
        assert first.arrived.total() < ROWS
        assert set(first.arrived) == first.answered == first.recorded
        assert first.marked == set()
        (batch, output), last = lives.live(lives.finish)
    check_output(batch, output)
    assert set(first.arrived) | set(last.arrived) == set(range(ROWS))
    assert (first.arrived + last.arrived).total() == ROWS


def test_a_second_signal_gives_up_what_is_under_way(tmp_path: Path) -> None:
    """It does not wait for the grace: a provider that never answers holds nothing up."""

    def stop(server: Process) -> int:
        lives.begin(server)
        while not provider.simulator.arrived:
            ask(server.port, "GET", "/healthz")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stderr is not None
        for text in server.process.stderr:
            if "stopping" in text:
                break
        server.process.send_signal(signal.SIGTERM)
        return server.process.wait(timeout=4)

    with recording(Settings(latency=3_600.0)) as provider:
        lives = Lives(tmp_path, provider)
        status, session = lives.live(stop)
    assert status == 143
    assert session.recorded == set()
    assert session.marked >= set(session.arrived) >= {0}
