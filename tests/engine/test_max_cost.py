"""A run never spends more than it may: it stops before, says so, and goes on from there when the sum is raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.client import Client
from penstock.errors import RequestError, RunStopped, UsageError
from penstock.options import Lane, Timeouts
from penstock.ports import Ledger
from penstock.records import HttpAnswer, HttpCall, Result, Usage
from penstock.simulator.behaviour import Faults, Settings, Spread
from penstock.simulator.clock import VirtualClock, run
from penstock.simulator.local import LocalTransport
from penstock.testing import MemoryLedger, ScriptedTransport, completion, error
from tests.kit.rows import prompts, tasks_left

INPUT_USD, OUTPUT_USD = 2e-6, 8e-6
"""Dollars a token."""

OUTPUT_TOKENS = 100
ANSWER_USD = OUTPUT_TOKENS * OUTPUT_USD
LATENCY = Spread(0.8, 0.4)
ROWS = 1_000
WHOLE_USD = ROWS * ANSWER_USD
"""Dollars for all rows, but for their few input tokens."""


class PerToken:
    """Prices of one model; that of any other is not known."""

    def cost(self, model: str, usage: Usage | None) -> float | None:
        if model != "m" or usage is None:
            return None
        return usage.input_tokens * INPUT_USD + usage.output_tokens * OUTPUT_USD


class Session:
    """One run to its end, or to where it stopped."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.stopped: RunStopped | None = None

    async def spend(
        self, client: Client, rows: Any, max_cost: float | None, ledger: Any = None, **options: Any
    ) -> None:
        try:
            async for result in client.map(rows, max_cost=max_cost, ledger=ledger, **options):
                self.results.append(result)
        except RunStopped as stopped:
            self.stopped = stopped

    @property
    def cost(self) -> float:
        """Dollars for all answers that this session has paid."""
        return sum(result.cost or 0.0 for result in self.results if not result.reused)


def paid_answer(_: HttpCall) -> HttpAnswer:
    return completion("tea", output_tokens=OUTPUT_TOKENS)


def priced_client(transport: Any, **options: Any) -> Client:
    return Client("openai/m", transport=transport, clock=VirtualClock(), prices=PerToken(), **options)


def provider(seed: int, **settings: Any) -> LocalTransport:
    """Answers of about 100 tokens, in memory; must be made on the virtual loop."""
    chosen = {"latency": LATENCY, "output_tokens": OUTPUT_TOKENS, "seed": seed} | settings
    return LocalTransport(Settings(**chosen), VirtualClock())


async def session(transport: LocalTransport, max_cost: float | None, ledger: Ledger | None = None) -> Session:
    """A new client's run over the same rows."""
    one = Session()
    async with priced_client(transport) as client:
        await one.spend(client, prompts(ROWS), max_cost, ledger)
    assert tasks_left() == set()
    return one


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_the_run_stops_before_the_sum_is_exceeded_and_uses_nearly_all_of_it(share: float, seed: int) -> None:
    most = share * WHOLE_USD

    async def main() -> None:
        one = await session(provider(seed), most)
        assert one.stopped is not None
        assert one.stopped.reason == "cost"
        assert one.cost <= most, f"seed {seed}"
        # What is left is less than the upper range of one request's estimate.
        assert one.cost >= most - 4_096 * 1.1 * OUTPUT_USD, f"seed {seed}"

    run(main(), seed=seed)


def test_a_sum_that_is_enough_stops_nothing() -> None:
    async def main() -> None:
        one = await session(provider(0), 1.1 * WHOLE_USD)
        assert one.stopped is None
        assert len(one.results) == ROWS

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_with_a_larger_sum_the_run_goes_on_and_pays_nothing_twice(seed: int) -> None:
    async def main() -> None:
        transport, ledger = provider(seed), MemoryLedger()
        first = await session(transport, 0.4 * WHOLE_USD, ledger)
        assert first.stopped is not None
        paid = transport.simulator.stats(0.0).answered
        assert len(first.results) == paid == len(ledger.entries)
        second = await session(transport, 2.0 * WHOLE_USD, ledger)
        assert second.stopped is None
        assert sorted(result.index for result in second.results) == list(range(ROWS))
        stats = transport.simulator.stats(0.0)
        assert (stats.answered, stats.duplicates, stats.arrived) == (ROWS, 0, ROWS)

    run(main(), seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_send_whose_answer_is_lost_counts_in_full(seed: int) -> None:
    """As many dollars as `max_tokens` would cost, because it may be billed."""
    most = 0.3 * WHOLE_USD

    async def main() -> None:
        transport, one = provider(seed, faults=Faults(reset=0.2)), Session()
        async with priced_client(transport) as client:
            await one.spend(client, prompts(ROWS), most, params={"max_tokens": 2 * OUTPUT_TOKENS})
        assert one.stopped is not None
        lost = transport.simulator.stats(0.0).failed["reset"]
        assert lost > 20
        assert one.cost + lost * 2 * OUTPUT_TOKENS * OUTPUT_USD <= most, f"seed {seed}"
        assert one.cost > 0.2 * most

    run(main(), seed=seed)


def test_what_was_refused_or_throttled_costs_nothing() -> None:
    async def main() -> None:
        transport = provider(0, faults=Faults(error_500=0.1, throttle=0.05))
        one = await session(transport, 1.1 * WHOLE_USD)
        assert one.stopped is None
        assert all(result.ok for result in one.results)

    run(main())


class SlowOnce(ScriptedTransport):
    """Answers after a second, but after fifty the first time after a hundred sends."""

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        slow = len(self.calls) == 100
        answer = await super().send(call, timeouts)
        await asyncio.sleep(50.0 if slow else 1.0)
        return answer


def test_a_hedge_sets_its_own_money_aside() -> None:
    """Both sends may be billed: the one that was closed counts in full, and leaves too little for another row."""

    async def rows() -> AsyncIterator[str]:
        yield "one more"
        await asyncio.sleep(5.0)
        yield "too dear"

    async def main() -> None:
        transport, one = SlowOnce(paid_answer), Session()
        async with priced_client(transport, hedge=True, max_concurrency=10) as client:
            await Session().spend(client, prompts(100), None)
            # Each send sets two answers' cost aside and a little for its prompt: two of them fit, and one costs an answer.
            await one.spend(client, rows(), 4.5 * ANSWER_USD, params={"max_tokens": 2 * OUTPUT_TOKENS})
        assert [(result.attempts, result.ambiguous) for result in one.results] == [(2, 1)]
        assert one.stopped is not None
        assert len(transport.calls) == 102

    run(main())


@pytest.mark.parametrize("model", [None, "unpriced"])
def test_without_a_known_price_nothing_is_sent(model: str | None) -> None:
    async def main() -> None:
        transport, one = provider(0), Session()
        if model is None:
            async with Client("openai/other", transport=transport, clock=VirtualClock(), prices=PerToken()) as client:
                with pytest.raises(UsageError, match="the price of 'other' is not known"):
                    await one.spend(client, prompts(5), 1.0)
        else:
            rows = [{"messages": [{"role": "user", "content": "Hi"}], "model": f"openai/{model}"}]
            async with priced_client(transport) as client:
                await one.spend(client, rows, 1.0)
            assert one.stopped is not None
            assert "'unpriced'" in str(one.stopped)
        assert transport.simulator.stats(0.0).arrived == 0

    run(main())


@pytest.mark.parametrize("most", [0, -1.0, float("nan"), float("inf"), "1"])
def test_a_sum_that_is_none_is_refused(most: Any) -> None:
    async def main() -> None:
        async with priced_client(provider(0)) as client:
            with pytest.raises(UsageError, match="max_cost"):
                await Session().spend(client, prompts(5), most)

    run(main())


# -- over a ledger on disk, where what earlier sessions have spent is recorded


async def recorded_session(
    path: Path, answer: Callable[[Any], Any], most: float, **options: Any
) -> tuple[Session, int]:
    """A run of 50 rows with a ledger in a file, and how many sends it took."""
    one, transport = Session(), ScriptedTransport(answer)
    async with Client("openai/m", transport=transport, prices=PerToken(), **options) as client:
        await one.spend(client, prompts(50), most, path, params={"max_tokens": OUTPUT_TOKENS})
    return one, len(transport.calls)


async def test_the_sum_is_of_all_sessions_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.ledger"
    first, sends = await recorded_session(path, paid_answer, 20.5 * ANSWER_USD)
    assert first.stopped is not None
    assert len(first.results) == sends == 20
    again, sends = await recorded_session(path, paid_answer, 20.5 * ANSWER_USD)
    assert again.stopped is not None
    assert sends == 0
    more, sends = await recorded_session(path, paid_answer, 30.9 * ANSWER_USD)
    assert more.stopped is not None
    assert sends == 10
    last, sends = await recorded_session(path, paid_answer, 60 * ANSWER_USD)
    assert last.stopped is None
    assert sends == 20
    assert sorted(result.index for result in last.results) == list(range(50))


async def test_what_earlier_sessions_may_have_been_billed_counts_too(tmp_path: Path) -> None:
    """The answers of the first session were all lost: the sum is used up, and the next session sends nothing."""
    path = tmp_path / "run.ledger"

    def lost(_: HttpCall) -> RequestError:
        return error("timeout", maybe_billed=True)

    first, sends = await recorded_session(path, lost, 20.5 * ANSWER_USD, max_retries=0)
    assert 15 <= sends <= 20
    assert first.stopped is not None
    _, sends = await recorded_session(path, paid_answer, 20.5 * ANSWER_USD, max_retries=0)
    assert sends == 0


# -- beside others


@pytest.mark.parametrize("lane", [None, Lane(name="other")])
def test_a_run_that_is_short_of_money_holds_up_nobody_else(lane: Lane | None) -> None:
    """While its next row waits for what is under way to turn out cheaper, the rows of another run pass it."""

    async def main() -> None:
        clock, poor = VirtualClock(), Session()
        async with priced_client(provider(0, latency=30.0), max_concurrency=50) as client:
            run_of_poor = asyncio.create_task(poor.spend(client, prompts(ROWS), 0.05))
            await clock.sleep(0.1)
            await client.gather(prompts(200, " of another"), lane=lane)
            # Four rounds of fifty, and one for what the other had under way.
            assert clock.now() <= 5 * 30.0 + 1.0
            await run_of_poor

    run(main())
