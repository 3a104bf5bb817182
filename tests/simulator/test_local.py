"""The simulator in memory, on virtual time: answers, typed errors at their time, and an hour of traffic in a moment."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from penstock.errors import RequestError
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall
from penstock.simulator.behaviour import Faults, Phase, Settings, Spread, Stats, expected_text
from penstock.simulator.clock import VirtualClock, run
from penstock.simulator.local import LocalTransport

URL = "http://simulated/v1/chat/completions"
TIMEOUTS = Timeouts(first_byte=10.0, between_bytes=3.0)


def call(prompt: str, key: str = "any", **more: Any) -> HttpCall:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **more}).encode()
    return HttpCall(URL, (("Authorization", f"Bearer {key}"),), body)


def send(settings: Settings, sent: HttpCall, timeouts: Timeouts = TIMEOUTS) -> tuple[Any, float, Stats]:
    """The answer or the error of one call, the virtual seconds that it took, and the account after it."""

    async def main() -> tuple[Any, float, Stats]:
        clock = VirtualClock()
        transport = LocalTransport(settings, clock)
        try:
            outcome: Any = await transport.send(sent, timeouts)
        except RequestError as error:
            outcome = error
        await transport.aclose()
        return outcome, clock.now(), transport.simulator.stats(clock.now())

    return run(main())


def test_an_answer_comes_after_its_latency() -> None:
    """Status, body and time are those of the plan."""
    answer, seconds, stats = send(Settings(latency=1.5), call("hello"))
    assert isinstance(answer, HttpAnswer)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == expected_text("hello")
    assert (answer.status, seconds, stats.answered, stats.in_flight) == (200, 1.5, 1, 0)


def test_a_stream_is_joined_after_all_its_time() -> None:
    """The transport brings whole answers; the events are all there."""
    answer, seconds, _ = send(Settings(latency=1.0, token_latency=0.5), call("hello there", stream=True))
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert seconds > 1.0 + 0.5 * 5


@pytest.mark.parametrize(
    ("prompt", "latency", "timeouts", "kind", "seconds"),
    [
        ("[[simulate:reset]]", 1.0, TIMEOUTS, "disconnected", 1.0),
        ("[[simulate:truncate]]", 1.0, TIMEOUTS, "truncated", 1.0),
        ("[[simulate:garbage]]", 1.0, TIMEOUTS, "malformed", 1.0),
        ("[[simulate:stall]]", 1.0, TIMEOUTS, "timeout", 10.0),
        ("[[simulate:stall]]", 1.0, Timeouts(first_byte=10.0, total=4.0), "timeout", 4.0),
        ("slow", 11.0, TIMEOUTS, "timeout", 10.0),
        ("slow", 5.0, Timeouts(first_byte=10.0, total=4.0), "timeout", 4.0),
    ],
)
def test_faults_are_typed_errors_at_their_time(
    prompt: str, latency: float, timeouts: Timeouts, kind: str, seconds: float
) -> None:
    """Each may have been billed, and nothing stays in flight."""
    error, took, stats = send(Settings(latency=latency), call(prompt), timeouts)
    assert (error.kind, error.maybe_billed, took) == (kind, True, seconds)
    assert (stats.in_flight, stats.answered) == (0, 0)


def test_a_stream_that_pauses_too_long_is_cut_by_the_time_between_bytes() -> None:
    """The first pause above the limit ends it, at the limit."""
    error, took, _ = send(Settings(token_latency=2.0), call("hello there"), TIMEOUTS)
    assert error.kind == "timeout"
    error, took, _ = send(Settings(token_latency=2.0), call("hello there", stream=True), TIMEOUTS)
    assert error.kind == "timeout"
    assert took < 10


def test_the_key_is_read_and_other_paths_are_not_found() -> None:
    """Bearer keys reach the settings; only chat completions are served."""
    assert send(Settings(api_key="right"), call("x", "right"))[0].status == 200
    assert send(Settings(api_key="right"), call("x", "wrong"))[0].status == 401
    assert send(Settings(), HttpCall("http://simulated/v1/other", (), b"{}"))[0].status == 404


def test_a_cancelled_call_is_abandoned() -> None:
    """Cancelling passes through at once and the account says so."""

    async def main() -> Stats:
        clock = VirtualClock()
        transport = LocalTransport(Settings(latency=60.0), clock)
        task = asyncio.create_task(transport.send(call("x"), Timeouts()))
        await clock.sleep(1)
        assert transport.simulator.stats(clock.now()).in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.now() == 1
        return transport.simulator.stats(clock.now())

    stats = run(main())
    assert (stats.abandoned, stats.in_flight, stats.peak) == (1, 0, 1)


def hour(seed: int) -> tuple[Stats, list[tuple[int, float]]]:
    """An hour at 20 requests a minute by 5 workers that obey retry-after, with faults."""
    settings = Settings(
        requests_per_minute=20,
        burst_seconds=3,
        latency=Spread(2.0, 0.5),
        faults=Faults(error_500=0.1, reset=0.05, throttle=0.05),
        seed=seed,
    )
    log: list[tuple[int, float]] = []

    async def work(transport: LocalTransport, clock: VirtualClock, rows: Any) -> None:
        for row in rows:
            while not await attempt(transport, clock, row):
                pass
            if clock.now() > 3600:
                return

    async def attempt(transport: LocalTransport, clock: VirtualClock, row: int) -> bool:
        try:
            answer = await transport.send(call(f"row {row}"), Timeouts())
        except RequestError:
            return False
        if answer.status == 200:
            log.append((row, clock.now()))
            return True
        await clock.sleep(float(answer.header(b"retry-after-ms") or 1000) / 1000)
        return False

    async def main() -> Stats:
        clock = VirtualClock()
        transport = LocalTransport(settings, clock)
        rows = iter(range(100_000))
        await asyncio.gather(*[work(transport, clock, rows) for _ in range(5)])
        return transport.simulator.stats(clock.now())

    return run(main(), seed=seed), log


def test_an_hour_of_traffic_replays_and_keeps_the_limit() -> None:
    """About 20 a minute get in, less the faults; each row once; the same seed gives the same hour."""
    stats, log = hour(seed=1)
    assert hour(seed=1) == (stats, log)
    assert hour(seed=2)[1] != log
    admitted = stats.answered + sum(stats.failed.values())
    assert 1100 < admitted <= 1 + 20 * stats.elapsed / 60
    assert stats.throttled > 0
    assert stats.duplicates == 0
    assert sorted(row for row, _ in log) == list(range(len(log)))


# -- arrival, queue and refusal


async def answered_at(transport: LocalTransport, clock: VirtualClock, prompt: str, timeouts: Timeouts) -> Any:
    """When the answer was there, or the kind of error and when."""
    try:
        await transport.send(call(prompt), timeouts)
    except RequestError as error:
        return error.kind, clock.now()
    return clock.now()


def together(settings: Settings, count: int, timeouts: Timeouts = TIMEOUTS, delay: Any = 0.0) -> list[Any]:
    """What so many calls at once come to, each as in `answered_at`."""

    async def main() -> list[Any]:
        clock = VirtualClock()
        transport = LocalTransport(settings, clock, delay)
        calls = [answered_at(transport, clock, f"{index}", timeouts) for index in range(count)]
        times = await asyncio.gather(*calls)
        assert transport.simulator.stats(clock.now()).in_flight == 0
        return times

    return run(main())


def test_requests_arrive_after_a_delay_that_differs() -> None:
    """Within the spread, and not in the order in which they were sent."""
    times = together(Settings(), 200, delay=Spread.between(0.02, 0.35))
    assert 0.02 <= min(times) < 0.05
    assert max(times) == 0.35
    assert times != sorted(times)
    assert together(Settings(), 2, delay=0.1) == [0.1, 0.1]


def test_who_finds_no_slot_waits_for_one() -> None:
    """Two slots of one second: two answers a second."""
    assert together(Settings(slots=2, latency=1.0), 5) == [1.0, 1.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("timeouts", "third"),
    [
        (Timeouts(first_byte=1.5), ("timeout", 1.5)),
        (Timeouts(first_byte=2.5), ("timeout", 2.5)),
        (Timeouts(first_byte=9.0, total=1.5), ("timeout", 1.5)),
        (Timeouts(first_byte=9.0, total=2.5), ("timeout", 2.5)),
        (Timeouts(first_byte=3.0), 3.0),
    ],
)
def test_the_time_in_the_queue_counts(timeouts: Timeouts, third: Any) -> None:
    """The third of one slot gives up in the queue or while it is answered, at its time-out since it arrived."""
    assert together(Settings(slots=1, latency=1.0), 3, timeouts)[2] == third


def test_a_client_that_goes_away_frees_its_slot() -> None:
    """From the queue and from the slot itself: the next one begins at once."""

    async def main() -> Any:
        clock = VirtualClock()
        transport = LocalTransport(Settings(slots=1, latency=10.0), clock)
        tasks = [asyncio.create_task(answered_at(transport, clock, f"{k}", Timeouts())) for k in range(3)]
        await clock.sleep(1)
        tasks[1].cancel()
        await clock.sleep(1)
        tasks[0].cancel()
        return await tasks[2], transport.simulator.stats(clock.now()).in_flight

    assert run(main()) == (12.0, 0)


def test_a_refused_connection_sends_nothing() -> None:
    """It bills nothing and is a failure to connect; one that breaks may have been billed."""
    outage = Settings(schedule=(Phase(at=0.0, outage="refused"),))
    error, seconds, stats = send(outage, call("x"))
    assert (error.kind, error.maybe_billed, seconds, stats.failed) == ("connect", False, 0.0, {"refused": 1})
    error, _, _ = send(Settings(schedule=(Phase(at=0.0, outage="reset"),)), call("x"))
    assert (error.kind, error.maybe_billed) == ("disconnected", True)
