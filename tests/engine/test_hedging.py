"""Hedging on virtual time: it cuts the longest waits, costs two sends in a hundred, and every send is accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from penstock.errors import NoAnswer
from penstock.options import Limits, Timeouts
from penstock.records import HttpAnswer, HttpCall, RawRow, Result
from penstock.rules.asking import Asking
from penstock.rules.tally import Tally
from penstock.simulator.behaviour import Plan, Settings, Simulator, Spread
from penstock.simulator.chance import chances
from penstock.simulator.clock import VirtualClock, run
from penstock.testing import completion
from tests.kit.rows import VirtualClient, tasks_left

SEEDS = range(3)
ROWS = 2_000
SLOW_SHARE, SLOWER = 0.02, 20.0
NOT_SPARED, SPARED = 10.0, 5.0
"""Seconds that 99 of 100 answers take at most: without hedging more than the former, with it less than the latter."""


class Uneven(Simulator):
    """A provider that takes twenty times as long for two answers in a hundred."""

    def arrive(self, now: float, body: bytes, key: str | None = None) -> Plan:
        plan = super().arrive(now, body, key)
        turn = self._account.turns(plan.digest)
        if chances(b"%d" % self.settings.seed, plan.digest.to_bytes(8), turn, b"slow")[0] < SLOW_SHARE:
            plan.delay *= SLOWER
        return plan


def uneven_client(seed: int, **options: Any) -> VirtualClient:
    settings = Settings(latency=Spread(0.8, 0.3), seed=seed)
    client = VirtualClient(settings, **options)
    client.local.simulator = Uneven(settings)
    return client


async def a_run(client: VirtualClient) -> tuple[list[Result], Tally]:
    """All results of a run, and its tally."""
    tally = Tally()
    rows = (RawRow(index, f"row {index}", f"row {index}") for index in range(ROWS))
    started = await client.start(rows, Asking(), tally)
    return [result async for result in started.results()], tally


async def single_calls(client: VirtualClient) -> list[float]:
    """The latencies of calls that come by chance, twenty a second."""
    clock, latencies = client.clock, []

    async def call(index: int) -> None:
        began = clock.now()
        await client.generate(f"row {index}")
        latencies.append(clock.now() - began)

    calls = []
    for index in range(ROWS):
        await clock.sleep(0.1 * clock.random())
        calls.append(asyncio.create_task(call(index)))
    await asyncio.gather(*calls)
    return latencies


def slowest_percent(latencies: list[float]) -> float:
    """Seconds that 99 of 100 do not exceed."""
    return sorted(latencies)[int(0.99 * len(latencies))]


@pytest.mark.parametrize("seed", SEEDS)
def test_single_calls_are_spared_the_slow_answers(seed: int) -> None:
    """For 2 % more sends."""

    async def main() -> None:
        async with uneven_client(seed, hedge=True, max_concurrency=200) as client:
            latencies = await single_calls(client)
            more = client.stats.arrived - ROWS
            assert 0 < more <= 0.02 * ROWS
            assert more == client.statistics()["hedged"]
            assert (client.stats.abandoned, client.stats.in_flight, tasks_left()) == (more, 0, set())
            assert slowest_percent(latencies) <= SPARED, f"seed {seed}"

    run(main(), seed=seed)


BINDS: dict[str, dict[str, Any]] = {
    "slots": {"max_concurrency": 50},
    "rate": {"limits": Limits(requests_per_minute=3_000)},
}


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("binds", BINDS)
def test_rows_are_spared_the_slow_answers_while_the_run_uses_all_that_it_may(binds: str, seed: int) -> None:
    """A second send must find its way though every slot is taken, and every turn of a limit has somebody waiting for it."""

    async def main() -> None:
        async with uneven_client(seed, hedge=True, **BINDS[binds]) as client:
            results, _ = await a_run(client)
            assert client.stats.arrived <= 1.02 * ROWS
            assert client.statistics()["hedged"] == client.stats.arrived - ROWS
            assert slowest_percent([result.latency_s for result in results]) <= SPARED, f"seed {seed}"

    run(main(), seed=seed)


@pytest.mark.parametrize(("binds", "seed"), [("slots", 0), ("rate", 1), ("nothing", 2)])
def test_every_send_is_in_the_account_and_every_loser_is_closed(binds: str, seed: int) -> None:
    """Sends by the rows, by the tally and by the server agree; what was closed may be billed; nothing is left in flight."""

    async def main() -> None:
        async with uneven_client(seed, hedge=True, **BINDS.get(binds, {"max_concurrency": ROWS})) as client:
            results, tally = await a_run(client)
            stats, more = client.stats, client.stats.arrived - ROWS
            assert sorted(result.index for result in results) == list(range(ROWS))
            assert all(result.ok for result in results)
            assert tally.sent == sum(result.attempts for result in results) == stats.arrived
            assert tally.totals.ambiguous == sum(result.ambiguous for result in results) == stats.abandoned == more
            assert (stats.in_flight, stats.duplicates) == (0, 0)
            assert client.statistics()["in_flight"] == 0
            assert tasks_left() == set()

    run(main(), seed=seed)


# -- one pair of sends

Step = tuple[float, HttpAnswer | NoAnswer]
WON = completion("second")
LOST = NoAnswer("timeout", "no answer", maybe_billed=True)


class Scripted:
    """A `Transport` that answers at once, but by steps (seconds, what comes) once some are set."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.steps: list[Step] = []
        self.open = 0

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        seconds, what = self.steps.pop(0) if self.steps else (1.0, completion("usual"))
        self.open += 1
        try:
            await self._clock.sleep(seconds)
        finally:
            self.open -= 1
        if isinstance(what, NoAnswer):
            raise what
        return what

    async def aclose(self) -> None:
        """Nothing is open."""


async def after_a_hundred(check: Callable[[VirtualClient, Scripted], Any], **options: Any) -> None:
    """A client whose answers have taken a second each so far, so that a second send follows after 1.09 s at most."""
    transport = Scripted(VirtualClock())
    async with VirtualClient(transport=transport, hedge=True, max_concurrency=10, **options) as client:
        await asyncio.gather(*(client.generate(f"row {index}") for index in range(100)))
        await check(client, transport)


def test_the_first_answer_wins_and_the_other_send_is_closed_in_the_same_moment() -> None:
    async def check(client: VirtualClient, transport: Scripted) -> None:
        began = client.clock.now()
        transport.steps = [(100.0, completion("first")), (1.0, WON)]
        assert (await client.generate("one more")).text == "second"
        assert client.clock.now() - began <= 2.1
        assert transport.open == 0
        assert client.statistics()["in_flight"] == 0

    run(after_a_hundred(check))


def test_where_one_send_is_lost_the_other_answers_without_a_retry() -> None:
    async def check(client: VirtualClient, transport: Scripted) -> None:
        transport.steps = [(3.0, LOST), (5.0, WON)]
        [result] = await client.gather(["one more"])
        assert result.text == "second"
        assert (result.attempts, result.ambiguous) == (2, 1)
        assert result.latency_s == pytest.approx(6.05, abs=0.05)

    run(after_a_hundred(check))


def test_where_both_are_lost_it_counts_as_one_retry() -> None:
    async def check(client: VirtualClient, transport: Scripted) -> None:
        transport.steps = [(3.0, LOST), (5.0, LOST)]
        [result] = await client.gather(["one more"])
        assert result.text == "usual"
        assert (result.attempts, result.ambiguous) == (3, 2)

    run(after_a_hundred(check, max_retries=1))


def test_a_request_that_is_given_up_closes_both_sends() -> None:
    async def check(client: VirtualClient, transport: Scripted) -> None:
        transport.steps = [(100.0, WON), (100.0, WON)]
        call = asyncio.create_task(client.generate("one more"))
        await client.clock.sleep(2.0)
        assert transport.open == 2
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert transport.open == 0
        assert client.statistics()["in_flight"] == 0

    run(after_a_hundred(check))


def test_without_being_asked_for_nothing_is_sent_twice_and_nothing_spared() -> None:
    async def main() -> None:
        async with uneven_client(0, max_concurrency=200) as client:
            results, _ = await a_run(client)
            assert client.stats.arrived == ROWS
            assert {result.attempts for result in results} == {1}
            assert slowest_percent([result.latency_s for result in results]) > NOT_SPARED

    run(main())
