"""The request log: a line for each exchange, nothing lost in silence, nobody waits for it; and post-processing beside it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import UsageError
from penstock.records import Usage
from penstock.server.exchange import Exchange
from penstock.server.request_log import LogFile, PostProcessing, RequestLog, line_of
from penstock.testing import ManualClock
from tests.kit.disk import EIO_FROM_THEN_ON, FULL_FROM_THEN_ON, SHORT_THEN_FULL, built_shim
from tests.security.capturing import KEY, found_in
from tests.server.log_on_a_bad_disk import EXCHANGES

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0
HOSTILE = "a\r\nb\x00\x1b[31m\x7f\x85\u2028\u2029\u202e end"


def exchange(number: int = 0, **fields: Any) -> Exchange:
    """One that went well, but for these fields."""
    common = {"request_id": f"r-{number}", "route": "/generate", "status": 200, "duration_s": 2.0}
    return Exchange(**{**common, "began_at": 1_767_225_600.0, "attempts": 1, **fields})


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; each is JSON on its own."""
    content = path.read_bytes()
    assert not content or content.endswith(b"\n")
    return [json.loads(line) for line in content.decode().splitlines()]


async def logged(path: Path, *exchanges: Exchange, **options: Any) -> RequestLog:
    """A log that was open just for these."""
    log = RequestLog(path, **options)
    await log.start()
    for one in exchanges:
        log.record(one)
    await log.aclose()
    return log


async def test_each_exchange_is_a_line_in_order(tmp_path: Path) -> None:
    log = await logged(tmp_path / "log", *map(exchange, range(1_200)))
    assert [line["request_id"] for line in lines_of(tmp_path / "log")] == [f"r-{number}" for number in range(1_200)]
    assert log.statistics() == {"written": 1_200, "dropped": 0, "failures": 0, "waiting": 0}


def test_a_line_says_what_became_of_the_request() -> None:
    told = exchange(
        model="gpt",
        provider="openai",
        key_name="team",
        streamed=True,
        queue_s=0.1,
        first_token_s=0.5,
        usage=Usage(1, 2, 3, 4),
        cost=0.25,
        finish_reason="stop",
        upstream_request_id="up-1",
    )
    assert json.loads(line_of(told, content=False)) == {
        "time": "2026-01-01T00:00:00.000Z",
        "request_id": "r-0",
        "method": "POST",
        "route": "/generate",
        "status": 200,
        "error_kind": None,
        "model": "gpt",
        "provider": "openai",
        "key_name": "team",
        "streamed": True,
        "duration_s": 2.0,
        "queue_s": 0.1,
        "first_token_s": 0.5,
        "input_tokens": 1,
        "output_tokens": 2,
        "cached_tokens": 3,
        "reasoning_tokens": 4,
        "cost": 0.25,
        "attempts": 1,
        "finish_reason": "stop",
        "upstream_request_id": "up-1",
    }


def test_what_is_not_known_is_null_and_never_zero() -> None:
    told = json.loads(line_of(exchange(), content=False))
    unknown = ("cost", "input_tokens", "output_tokens", "queue_s", "first_token_s", "error_kind", "model")
    assert {name: told[name] for name in unknown} == dict.fromkeys(unknown)


async def test_content_is_logged_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Also where the record has it already."""
    told = exchange(prompt=f"keep {KEY}".encode(), answer=b"half \xff")
    await logged(tmp_path / "without", told)
    assert found_in((tmp_path / "without").read_bytes(), KEY) == []
    assert {"prompt", "answer"}.isdisjoint(lines_of(tmp_path / "without")[0])
    await logged(tmp_path / "with", told, content=True)
    assert lines_of(tmp_path / "with")[0]["prompt"] == f"keep {KEY}"
    assert lines_of(tmp_path / "with")[0]["answer"] == "half \ufffd"


async def test_no_text_makes_a_second_line(tmp_path: Path) -> None:
    names = ("request_id", "route", "model", "key_name", "finish_reason", "upstream_request_id")
    forged = dict.fromkeys(names, HOSTILE + '\n{"request_id": "forged"}')
    await logged(tmp_path / "log", exchange(**forged, prompt=HOSTILE.encode()), content=True)
    (line,) = lines_of(tmp_path / "log")
    assert line["key_name"] == forged["key_name"]
    assert line["prompt"] == HOSTILE


async def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await logged(tmp_path / "log", exchange())
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


async def test_it_goes_on_after_what_is_there_and_a_torn_line_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    await logged(path, exchange(1))
    with path.open("ab") as file:
        file.write(b'{"request_id": "r-2", "rou')
    await logged(path, exchange(3))
    first, torn, last = path.read_text().splitlines()
    assert json.loads(first)["request_id"] == "r-1"
    assert torn == '{"request_id": "r-2", "rou'
    assert json.loads(last)["request_id"] == "r-3"


# -- where the file is moved


def _rename(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


@pytest.mark.parametrize(
    "move", [_rename, Path.unlink, lambda path: os.truncate(path, 0)], ids=["renamed", "deleted", "cut"]
)
def test_whoever_moves_the_file_gets_a_new_one(move: Callable[[Path], None], tmp_path: Path) -> None:
    """As logrotate does it: no signal, no restart, no hole of zeroes."""
    path = tmp_path / "log"
    file = LogFile(path)
    file.append(b'"old"\n')
    move(path)
    file.append(b'"new"\n')
    file.close()
    assert path.read_bytes() == b'"new"\n'
    assert path.stat().st_mode & 0o777 == 0o600


# -- paths that cannot be a log


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("make", [lambda p: p / "no" / "folder", lambda p: p, lambda p: _pipe(p / "pipe")])
async def test_a_path_that_cannot_be_a_log_is_refused_at_the_start(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    log = RequestLog(make(tmp_path))
    with pytest.raises(UsageError, match="cannot be the request log"):
        await log.start()


# -- a full queue, a full disk


async def test_a_full_queue_drops_the_newest_and_says_so_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    log = RequestLog(tmp_path / "log", capacity=10, clock=clock)
    await log.start()
    for number in range(15):
        log.record(exchange(number))
    assert [record.getMessage() for record in caplog.records] == ["request log: 1 dropped: its queue is full"]
    clock.advance(60.0)
    log.record(exchange(15))
    assert caplog.records[-1].getMessage() == "request log: 5 dropped: its queue is full"
    log.record(exchange(16))
    assert len(caplog.records) == 2
    await log.aclose()
    assert caplog.records[-1].getMessage() == "request log: 1 dropped"
    assert [line["request_id"] for line in lines_of(tmp_path / "log")] == [f"r-{number}" for number in range(10)]
    assert log.statistics() == {"written": 10, "dropped": 7, "failures": 0, "waiting": 0}


async def test_what_comes_after_the_end_is_counted_too(tmp_path: Path) -> None:
    log = await logged(tmp_path / "log", exchange())
    log.record(exchange())
    assert log.statistics()["dropped"] == 1


async def test_a_write_that_hangs_holds_up_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grace bounds the end; what was not written by then is counted as lost."""
    begun, go_on = threading.Event(), threading.Event()

    def hang(self: LogFile, lines: bytes) -> int:
        begun.set()
        go_on.wait(PATIENCE_SECONDS)
        return len(lines)

    monkeypatch.setattr(LogFile, "append", hang)
    log = RequestLog(tmp_path / "log")
    await log.start()
    log.record(exchange())
    await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
    log.record(exchange())
    await log.aclose(grace_s=0.0)
    go_on.set()
    assert log.statistics()["dropped"] == 2


def on_a_bad_disk(folder: Path, how: int, at: int, ending: str) -> tuple[dict[str, float], str]:
    """What the log counted, and what it told."""
    environment = {**os.environ, "LD_PRELOAD": str(built_shim(folder)), "PYTHONPATH": str(ROOT)}
    there = folder / "there"
    there.mkdir()
    command = [sys.executable, "-m", "tests.server.log_on_a_bad_disk", there, str(how), str(at), ending]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


FAULTS = [(FULL_FROM_THEN_ON, 1), (FULL_FROM_THEN_ON, 3), (SHORT_THEN_FULL, 2), (EIO_FROM_THEN_ON, 2)]


@pytest.mark.parametrize(("how", "at"), FAULTS)
def test_a_full_disk_delays_the_log_and_loses_nothing(how: int, at: int, tmp_path: Path) -> None:
    """Every line once, whole and in order, although a write stopped in the middle of one."""
    told, stderr = on_a_bad_disk(tmp_path, how, at, "mended")
    assert [line["request_id"] for line in lines_of(tmp_path / "there" / "requests.jsonl")] == [
        f"r-{number}" for number in range(EXCHANGES)
    ]
    assert (told["written"], told["dropped"]) == (EXCHANGES, 0)
    assert told["failures"] >= 3
    assert "failed and will be tried again" in stderr


def test_a_line_cut_by_a_full_disk_is_whole_in_the_new_file(tmp_path: Path) -> None:
    """Somebody makes room by moving the log away: the old file keeps a torn line, the new one has it whole."""
    told, _ = on_a_bad_disk(tmp_path, SHORT_THEN_FULL, 2, "moved")
    *whole, torn = (tmp_path / "there" / "requests.jsonl.1").read_text().split("\n")
    rest = lines_of(tmp_path / "there" / "requests.jsonl")
    found = [json.loads(line)["request_id"] for line in whole] + [line["request_id"] for line in rest]
    assert torn
    assert found == [f"r-{number}" for number in range(EXCHANGES)]
    assert told["written"] == EXCHANGES


@pytest.mark.parametrize(("how", "at"), FAULTS)
def test_what_never_found_room_is_counted_and_told(how: int, at: int, tmp_path: Path) -> None:
    told, stderr = on_a_bad_disk(tmp_path, how, at, "never")
    content = (tmp_path / "there" / "requests.jsonl").read_bytes()
    assert told["written"] == content.count(b"\n")
    assert told["dropped"] == EXCHANGES - told["written"] > 0
    assert "dropped" in stderr


# -- post-processing


async def test_every_step_gets_every_exchange_whatever_another_does(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, str, bool]] = []
    loop_thread = threading.get_ident()

    def note(step: str, told: Exchange) -> None:
        seen.append((step, told.request_id, threading.get_ident() == loop_thread))

    async def on_the_loop(told: Exchange) -> None:
        await asyncio.sleep(0)
        note("async", told)

    def in_a_thread(told: Exchange) -> None:
        note("plain", told)

    async def breaks(told: Exchange) -> None:
        raise ValueError(told.request_id)

    def breaks_too(told: Exchange) -> None:
        raise KeyError(told.request_id)

    after = PostProcessing([breaks, on_the_loop, breaks_too, in_a_thread])
    await after.start()
    for number in range(3):
        after.record(exchange(number))
    await after.aclose()
    expected = [(step, f"r-{n}", on) for n in range(3) for step, on in (("async", True), ("plain", False))]
    assert seen == expected
    assert after.statistics() == {"done": 3, "dropped": 0, "failures": 6, "waiting": 0}
    assert {record.request_id for record in caplog.records} == {"r-0", "r-1", "r-2"}
    assert all(record.levelno == logging.ERROR for record in caplog.records)


async def test_slow_post_processing_is_waited_for_within_the_grace_and_then_counted() -> None:
    started, never = asyncio.Event(), asyncio.Event()

    async def slow(_: Exchange) -> None:
        started.set()
        await never.wait()

    after = PostProcessing([slow], capacity=2)
    await after.start()
    after.record(exchange(0))
    await started.wait()
    for number in range(1, 5):
        after.record(exchange(number))
    assert after.statistics()["dropped"] == 2
    await after.aclose(grace_s=0.0)
    assert after.statistics() == {"done": 0, "dropped": 5, "failures": 0, "waiting": 0}


def test_the_page_on_monitoring_names_every_field() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    fields = json.loads(line_of(exchange(), content=True))
    assert [name for name in fields if f"`{name}`" not in page] == []
