"""Many rows on virtual time: bounded, retried by the rules, stopped when all are doomed, never losing a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.client import Client
from penstock.engine.run import Run
from penstock.errors import BadAnswer, DeadlineExceeded, NoAnswer, NotSent, Refused, RunStopped, Unavailable
from penstock.options import Limits, Timeouts
from penstock.ports import Transport
from penstock.records import Entry, HttpAnswer, HttpCall, RawRow, Result
from penstock.rules.asking import Asking
from penstock.rules.identity import ANSWERED, FAILED, REFUSED
from penstock.rules.tally import Tally
from penstock.simulator.behaviour import Faults, Settings, expected_text
from penstock.simulator.clock import VirtualClock, run
from penstock.testing import MemoryLedger, ScriptedTransport, completion, error
from tests.kit.rows import VirtualClient, collect, prompts, tasks_left


def raw_rows(texts: list[str]) -> Iterator[RawRow]:
    return (RawRow(index, f"row {index}", text) for index, text in enumerate(texts))


async def everything(started: Run) -> list[Result]:
    return [result async for result in started.results()]


def test_each_row_gets_its_own_answer_as_they_complete() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0), max_concurrency=100) as client:
            results = await collect(client, prompts(250))
            assert sorted(result.index for result in results) == list(range(250))
            assert all(result.text == expected_text(f"Tell me fact {result.index}") for result in results)
            assert client.clock.now() == pytest.approx(3.0, abs=0.1)
            assert client.stats.peak == 100

    run(main())


def test_faults_of_every_sort_cost_retries_and_no_row() -> None:
    faults = Faults(
        error_500=0.05, reset=0.02, truncate=0.02, stall=0.01, throttle=0.002, throttle_bare=0.001, html=0.01
    )

    async def main(seed: int) -> None:
        tally = Tally()
        async with VirtualClient(Settings(latency=0.5, faults=faults, seed=seed), timeout=5.0) as client:
            results = await everything(await client.start(raw_rows(prompts(2_000)), Asking(), tally))
            assert all(result.ok for result in results)
            assert len({result.index for result in results}) == 2_000
            stats = client.stats
            assert tally.sent == stats.arrived
            assert tally.throttled == stats.throttled > 0
            assert tally.totals.ambiguous == sum(stats.failed[name] for name in ("reset", "truncate", "stall")) > 0
            assert stats.duplicates == 0

    for seed in range(3):
        run(main(seed), seed=seed)


def test_rows_that_wait_to_be_tried_again_hold_back_no_others() -> None:
    """Every place is taken by rows whose 500s wait for their next try: others go out meanwhile, and few tasks are too many."""

    async def main() -> None:
        failing = [f"[[simulate:500*3]] {index}" for index in range(4)]
        async with VirtualClient(Settings(latency=0.01), max_concurrency=4) as client:
            order = [result.index async for result in client.map([*prompts(1), *failing, *prompts(40)])]
            assert sorted(order) == list(range(45))
            assert set(order[-4:]) == {1, 2, 3, 4}
            assert client.stats.peak <= 4

    run(main())


@pytest.mark.parametrize(
    ("marker", "kind"),
    [("400", "invalid_request"), ("too-long", "context_too_long"), ("content-filter", "content_blocked")],
)
def test_what_is_refused_for_ever_is_tried_once(marker: str, kind: str) -> None:
    async def main() -> None:
        async with VirtualClient() as client:
            rows = [*prompts(5), f"[[simulate:{marker}]]", *prompts(5, " again")]
            results = sorted(await collect(client, rows), key=lambda result: result.index)
            assert [result.ok for result in results] == [True] * 5 + [False] + [True] * 5
            assert isinstance(results[5].error, Refused)
            assert (results[5].error.kind, results[5].attempts) == (kind, 1)
            assert client.stats.arrived == 11

    run(main())


def test_a_row_that_fails_for_good_has_used_every_retry() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=0.2), max_retries=3) as client:
            rows = [*prompts(3_000), "[[simulate:500]]"]
            rows.insert(0, rows.pop())
            failed = [result for result in await collect(client, rows) if not result.ok]
            assert [(r.index, type(r.error), r.attempts) for r in failed] == [(0, Unavailable, 4)]

    run(main())


def test_a_refused_key_stops_the_run_after_what_was_in_flight() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=0.1, key_refused_after=30), max_concurrency=10) as client:
            ledger, tally = MemoryLedger(), Tally()
            started = await client.start(raw_rows(prompts(500)), Asking(), tally, ledger=ledger)
            with pytest.raises(RunStopped, match="refused the key") as stopped:
                await everything(started)
            assert stopped.value.reason == "auth"
            assert client.stats.arrived <= 30 + 10
            assert (tally.totals.ok, tally.totals.failed, len(ledger.entries)) == (30, 0, 30)
            assert not tasks_left()

    run(main())


def test_an_unknown_model_stops_the_run_but_a_rows_own_fails_the_row() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(models=("m",)), model="openai/nope") as client:
            with pytest.raises(RunStopped, match="does not know the model"):
                await collect(client, prompts(3))
        async with VirtualClient(Settings(models=("m",))) as client:
            rows = [{"prompt": "a"}, {"prompt": "b", "model": "nope"}, {"prompt": "c", "model": "openai/m"}]
            results = sorted(await collect(client, rows), key=lambda result: result.index)
            assert [result.ok for result in results] == [True, False, True]

    run(main())


class Down(ScriptedTransport):
    """A provider that is down in a span of virtual time."""

    def __init__(self, clock: VirtualClock, since: float, until: float, kind: Any = "server_error") -> None:
        super().__init__(lambda _: error(kind) if since <= clock.now() < until else completion("fine"))
        self._clock = clock

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        await self._clock.sleep(0.1)
        return await super().send(call, timeouts)


@pytest.mark.parametrize("kind", ["server_error", "connect"])
def test_an_outage_of_ten_minutes_fails_no_row_and_costs_few_sends(kind: str) -> None:
    async def main() -> None:
        client = VirtualClient(transport=(down := Down(VirtualClock(), 5.0, 605.0, kind)), max_concurrency=20)
        results = await collect(client, prompts(2_000))
        assert all(result.ok for result in results)
        assert len(down.calls) <= 2_000 * 1.10
        assert client.clock.now() < 605 + 60 + 20

    run(main())


@pytest.mark.parametrize("in_flight", [2, 64, 500])
def test_after_a_short_outage_the_run_goes_on_within_seconds(in_flight: int) -> None:
    async def main() -> None:
        client = VirtualClient(transport=Down(VirtualClock(), 5.0, 5.3), max_concurrency=in_flight)
        results = await collect(client, prompts(100 * in_flight))
        assert all(result.ok for result in results)
        assert client.clock.now() < 5.3 + 5 + 100 * 0.1 + 1

    run(main())


def test_an_address_that_never_answers_stops_the_run_within_forty_seconds() -> None:
    async def main() -> None:
        client = VirtualClient(transport=Down(VirtualClock(), 0.0, 1e9, "connect"))
        with pytest.raises(RunStopped, match="never answered") as stopped:
            await collect(client, prompts(1_000))
        assert stopped.value.reason == "unreachable"
        assert 30 <= client.clock.now() <= 40

    run(main())


def test_nothing_but_server_errors_from_the_start_stops_the_run_after_ten_minutes() -> None:
    async def main() -> None:
        client = VirtualClient(transport=Down(VirtualClock(), 0.0, 1e9))
        with pytest.raises(RunStopped, match="nothing but server errors"):
            await collect(client, prompts(10))
        assert 600 <= client.clock.now() <= 720

    run(main())


def test_rows_that_the_server_cannot_digest_do_not_hold_the_end_for_ever() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=0.1)) as client:
            results = await collect(client, [*prompts(20), "[[simulate:500]] a", "[[simulate:500]] b"])
            assert sorted(result.index for result in results if not result.ok) == [20, 21]
            assert client.clock.now() < 3_600

    run(main())


def test_known_limits_are_kept_and_cause_no_throttle() -> None:
    limits = Limits(requests_per_minute=600, tokens_per_minute=100_000)

    async def main() -> None:
        world = Settings(requests_per_minute=600, tokens_per_minute=100_000, burst_seconds=1.0, latency=1.0)
        async with VirtualClient(world, limits=limits) as client:
            assert all(result.ok for result in await collect(client, prompts(1_200)))
            assert client.stats.throttled == 0
            assert client.clock.now() < 1_200 / 10 * 1.05 + 2

    run(main())


def test_unknown_limits_are_obeyed_by_their_throttles_which_cost_no_retry() -> None:
    async def main() -> None:
        world = Settings(requests_per_minute=300, burst_seconds=1, latency=0.2, headers="none")
        async with VirtualClient(world, max_retries=0) as client:
            results = await collect(client, prompts(400))
            assert all(result.ok and result.attempts == 1 for result in results)
            assert client.stats.throttled > 0

    run(main())


class Slots(ScriptedTransport):
    """A provider that works on a few requests at once and refuses the others without naming a wait."""

    def __init__(self, clock: VirtualClock, slots: int, latency: float) -> None:
        super().__init__(lambda _: completion("fine"))
        self._clock, self._free, self._latency = clock, slots, latency
        self.throttled = 0

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        if not self._free:
            self.throttled += 1
            raise error("rate_limited")
        self._free -= 1
        try:
            await self._clock.sleep(self._latency)
            return await super().send(call, timeouts)
        finally:
            self._free += 1


@pytest.mark.parametrize(
    ("rows", "in_flight", "slots", "latency", "within"),
    [(20, 8, 2, 0.05, 10), (200, 8, 2, 0.05, 20), (2_000, 100, 16, 0.5, 130)],
)
def test_a_provider_with_few_places_that_names_no_wait_is_not_left_idle(
    rows: int, in_flight: int, slots: int, latency: float, within: float
) -> None:
    async def main() -> None:
        client = VirtualClient(transport=(server := Slots(VirtualClock(), slots, latency)), max_concurrency=in_flight)
        assert all(result.ok for result in await collect(client, prompts(rows)))
        assert client.clock.now() < within
        assert server.throttled < rows

    run(main())


def test_a_request_that_never_fits_is_an_error_at_once() -> None:
    async def main() -> None:
        async with VirtualClient(limits=Limits(tokens_per_minute=1_000)) as client:
            [result] = await collect(client, ["x" * 40_000])
            assert isinstance(result.error, Refused)
            assert result.error.kind == "never_fits"
            assert "shorten it" in result.error.message
            assert client.stats.arrived == 0

    run(main())


def test_a_deadline_ends_a_row_with_all_its_attempts() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0), deadline=20.0) as client:
            tally = Tally()
            [result] = await everything(await client.start(raw_rows(["[[simulate:stall]]"]), Asking(), tally))
            assert isinstance(result.error, DeadlineExceeded)
            assert tally.sent == client.stats.arrived == 1
            assert client.clock.now() == pytest.approx(20.0)
            assert client.stats.in_flight == 0
            assert result.ambiguous == 1

    run(main())


def test_a_time_out_ends_an_attempt_and_the_row_is_tried_again() -> None:
    async def main() -> None:
        async with VirtualClient(timeout=2.0, max_retries=1) as client:
            [result] = await collect(client, ["[[simulate:stall]]"])
            assert isinstance(result.error, NoAnswer)
            assert (result.attempts, result.ambiguous) == (2, 2)

    run(main())


def test_rows_are_drawn_only_as_fast_as_they_are_used() -> None:
    drawn = 0

    def rows() -> Iterator[str]:
        nonlocal drawn
        for index in range(100_000):
            drawn += 1
            yield f"row {index}"

    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0), max_concurrency=8) as client:
            taken = 0
            async for _ in client.map(rows()):
                taken += 1
                if taken == 50:
                    break
            assert drawn <= 50 + 11 * 5

    run(main())


def test_a_consumer_that_leaves_early_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0)) as client:
            results = client.map(prompts(500))
            async for _ in results:
                break
            await results.aclose()
            assert not tasks_left()
            assert client.statistics()["in_flight"] == 0
            assert client.stats.in_flight == 0

    run(main())


@pytest.mark.parametrize("ledger", [None, "memory"])
def test_ordered_results_come_in_input_order(ledger: str | None) -> None:
    faults = Faults(error_500=0.1)

    async def main() -> None:
        async with VirtualClient(Settings(latency=0.5, faults=faults), max_concurrency=7) as client:
            store = MemoryLedger() if ledger else None
            results = await collect(client, prompts(300), ordered=True, ledger=store)
            assert [result.index for result in results] == list(range(300))
            assert all(result.text == expected_text(f"Tell me fact {result.index}") for result in results)

    run(main())


def test_with_a_ledger_a_slow_first_row_does_not_stall_the_source() -> None:
    async def main(ledger: MemoryLedger | None) -> float:
        async with VirtualClient(Settings(latency=0.1), timeout=60.0, max_concurrency=4, max_retries=0) as client:
            rows = ["[[simulate:stall]]", *prompts(1_000)]
            results = await collect(client, rows, ordered=True, ledger=ledger)
            assert [result.index for result in results] == list(range(1_001))
            return client.clock.now()

    assert run(main(MemoryLedger())) == pytest.approx(60.0, abs=1.0)
    assert run(main(None)) > 80


def test_an_async_source_and_rows_that_are_wrong_give_a_result_each() -> None:
    async def rows() -> AsyncIterator[Any]:
        for row in ("good", {"prompt": ""}, 7, {"messages": [{"role": "user", "content": "hi"}]}):
            await asyncio.sleep(1)
            yield row

    async def main() -> None:
        async with VirtualClient() as client:
            results = sorted(await collect(client, rows()), key=lambda result: result.index)  # type: ignore[arg-type]
            assert [result.ok for result in results] == [True, False, False, True]
            assert all(result.error is None or result.error.kind == "input" for result in results)

    run(main())


def test_a_source_that_raises_ends_the_run_with_its_error() -> None:
    def rows() -> Iterator[str]:
        yield from prompts(3)
        raise LookupError("the cursor is gone")

    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0)) as client:
            with pytest.raises(LookupError, match="cursor"):
                await collect(client, rows())
            assert not tasks_left()

    run(main())


def test_recorded_answers_are_not_sent_again_and_those_given_up_are() -> None:
    async def main() -> None:
        ledger, rows = MemoryLedger(), [*prompts(50), "[[simulate:400]]", "[[simulate:reset*3]]"]
        async with VirtualClient(max_retries=0) as client:
            await collect(client, rows, ledger=ledger)
            assert [ledger.state(index) for index in (0, 50, 51)] == [ANSWERED, REFUSED, FAILED]
            assert client.stats.arrived == 52
            again = await collect(client, rows, ledger=ledger)
            assert client.stats.arrived == 53
            assert sum(result.reused for result in again) == 51
            await collect(client, rows, ledger=ledger, retry_failed=True)
            assert client.stats.arrived == 55
            assert not ledger.marked

    run(main())


def test_an_answer_belongs_to_its_content_and_not_to_its_place() -> None:
    async def main() -> None:
        ledger = MemoryLedger()
        async with VirtualClient() as client:
            await collect(client, prompts(20), ledger=ledger)
            moved = ["a new row", *prompts(20)]
            results = sorted(await collect(client, moved, ledger=ledger), key=lambda result: result.index)
            assert client.stats.duplicates == 0
            assert [result.text for result in results] == [expected_text(prompt) for prompt in moved]

    run(main())


def test_equal_rows_are_sent_once_if_so_asked() -> None:
    async def main(ledger: MemoryLedger | None) -> None:
        async with VirtualClient(Settings(latency=1.0), max_concurrency=5) as client:
            results = await collect(client, ["same", "other"] * 50, dedupe=True, ledger=ledger)
            assert len(results) == 100
            assert all(result.text == expected_text(["same", "other"][result.index % 2]) for result in results)
            assert client.stats.arrived == 2
            assert sum(result.cost or 0 for result in results) == 0
            assert sum(result.reused for result in results) == 98

    run(main(MemoryLedger()))
    run(main(None))


def test_when_the_first_of_equal_rows_fails_the_others_tell_the_same() -> None:
    async def main() -> None:
        async with VirtualClient() as client:
            results = await collect(client, ["[[simulate:400]]"] * 10, dedupe=True)
            assert {result.error.kind for result in results if result.error} == {"invalid_request"}
            assert client.stats.arrived == 1

    run(main())


def test_a_single_call_raises_what_a_run_would_record() -> None:
    async def main() -> None:
        async with VirtualClient(max_retries=1) as client:
            assert (await client.generate("hello")).text == expected_text("hello")
            for marker, kind in (("500", Unavailable), ("400", Refused), ("truncate", BadAnswer), ("reset", NoAnswer)):
                with pytest.raises(kind):
                    await client.generate(f"[[simulate:{marker}]]")
            assert not tasks_left()

    run(main())


def test_a_single_call_to_an_origin_that_refuses_connections_gives_up() -> None:
    async def main() -> None:
        client = VirtualClient(transport=Down(VirtualClock(), 0.0, 1e9, "connect"), max_retries=2)
        with pytest.raises(NotSent):
            await client.generate("hello")

    run(main())


def test_a_row_is_marked_while_it_is_sent_and_for_as_long_as_it_may_be_billed() -> None:
    class Watching(ScriptedTransport):
        async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
            seen.append(dict(ledger.marked))
            return await super().send(call, timeouts)

    seen: list[dict[int, int]] = []
    ledger = MemoryLedger()

    async def main(script: Transport) -> None:
        client = VirtualClient(transport=script)
        [result] = await collect(client, ["one"], ledger=ledger)
        assert result.ok

    script = ["connect", "timeout", "server_error", "truncated", "rate_limited"]
    billed = ("timeout", "truncated")
    run(main(Watching([*(error(kind, maybe_billed=kind in billed) for kind in script), completion("x")])))
    assert seen == [{0: 1}, {0: 1}, {0: 2}, {0: 2}, {0: 3}, {0: 3}]
    assert not ledger.marked


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 400), seed=st.integers(0, 1_000))
def test_cancelling_at_any_moment_leaves_nothing_behind(steps: int, seed: int) -> None:
    faults = Faults(error_500=0.1, reset=0.05, throttle=0.02)

    async def main() -> None:
        async with VirtualClient(Settings(latency=0.1, faults=faults, seed=seed), max_concurrency=5) as client:
            work = asyncio.create_task(collect(client, prompts(60), ledger=MemoryLedger()))
            for _ in range(steps):
                await asyncio.sleep(0)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            assert not tasks_left()
            assert client.statistics() | {"free": 5} == client.statistics()
            assert client.stats.in_flight == 0
            assert (await client.generate("still works")).text == expected_text("still works")

    run(main(), seed=seed)


def test_a_client_belongs_to_one_loop() -> None:
    from penstock.errors import LoopMismatch

    client = Client("openai/m", transport=ScriptedTransport(lambda _: completion("x")))

    async def ask() -> str:
        return (await client.generate("hi")).text

    assert asyncio.run(ask()) == "x"
    with pytest.raises(LoopMismatch, match="one Client for each loop"):
        asyncio.run(ask())


def test_closing_the_client_under_a_run_ends_it_with_an_error_and_not_silently() -> None:
    async def main() -> None:
        client = VirtualClient(Settings(latency=1.0), max_concurrency=5)
        results = client.map(prompts(100))
        for _ in range(7):
            await anext(results)
        await client.aclose()
        with pytest.raises(RunStopped, match="closed before its end"):
            await anext(results)
        assert not tasks_left()

    run(main())


class SlowLedger(MemoryLedger):
    """A disk that takes its time: what comes back meanwhile waits for the next commit."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    async def commit(self, entries: Sequence[Entry]) -> None:
        await self._clock.sleep(5.0)
        await super().commit(entries)


def test_an_answer_that_came_back_is_recorded_even_if_the_run_is_given_up_at_that_moment() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0), max_concurrency=10) as client:
            ledger = SlowLedger(client.clock)
            work = asyncio.create_task(collect(client, prompts(100), ledger=ledger))
            await client.clock.sleep(2.5)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            assert client.stats.answered == len(ledger.entries) == 20
            assert not tasks_left()

    run(main())
