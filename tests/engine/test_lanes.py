"""F8 on virtual time: single calls do not stand behind a batch, and runs share by weight whatever their length."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock.options import Lane, Limits
from penstock.simulator.behaviour import Settings
from penstock.simulator.clock import run
from tests.kit.rows import VirtualClient

LATENCY = 1.0
WARM = 10.0
CALLS = 120
SEEDS = range(3)


@asynccontextmanager
async def going_on(client: VirtualClient, rows: Iterator[Any], **options: Any) -> AsyncIterator[list[int]]:
    """A run that is under way, with the rows it has had answered so far; given up at the end."""
    answered: list[int] = []

    async def consume() -> None:
        async for result in client.map(rows, **options):
            assert result.ok
            answered.append(result.index)

    task = asyncio.create_task(consume())
    try:
        yield answered
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def endless(seed: int, most_words: int = 1) -> Iterator[str]:
    """Rows without an end, of up to so many words."""
    chance, index = random.Random(seed), 0
    while True:
        yield f"row {index} " + "word " * chance.randrange(most_words)
        index += 1


async def waits_of_calls(client: VirtualClient, gap: float) -> list[float]:
    """How long each of many single calls waited for its turn, shortest first; `gap` seconds lie between two in the mean."""
    clock, waits = client.clock, []

    async def call(index: int) -> None:
        began = clock.now()
        await client.generate(f"call {index}")
        waits.append(clock.now() - began - LATENCY)

    calls = []
    for index in range(CALLS):
        await clock.sleep(2 * gap * clock.random())
        calls.append(asyncio.create_task(call(index)))
    await asyncio.gather(*calls)
    return sorted(waits)


async def beside_a_batch(
    settings: Settings, limits: Limits, gap: float, most_words: int = 1
) -> tuple[list[float], int, float, dict[str, Any]]:
    """Waits of single calls, and what the server saw in the meantime."""
    async with (
        VirtualClient(settings, limits=limits) as client,
        going_on(client, endless(settings.seed, most_words)),
    ):
        await client.clock.sleep(WARM)
        before, began = client.stats, client.clock.now()
        waits = await waits_of_calls(client, gap)
        after, seconds = client.stats, client.clock.now() - began
    seen = {
        "requests": after.arrived - before.arrived,
        "tokens": after.input_tokens - before.input_tokens + after.output_tokens - before.output_tokens,
        "throttled": after.throttled,
    }
    return waits, len(waits), seconds, seen


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rpm", "known"), [(3_000.0, True), (3_000.0, False), (600.0, True)])
def test_while_a_batch_fills_the_limit_a_single_call_waits_at_most_250_ms_in_95_of_100(
    rpm: float, known: bool, seed: int
) -> None:
    settings = Settings(requests_per_minute=rpm, burst_seconds=1.0, latency=LATENCY, seed=seed)
    limits = Limits(requests_per_minute=rpm) if known else Limits()
    waits, calls, seconds, seen = run(beside_a_batch(settings, limits, gap=450 / rpm), seed=seed)
    assert waits[int(0.95 * calls)] <= 0.25, f"seed {seed}"
    assert seen["requests"] >= 0.97 * rpm / 60 * seconds, f"seed {seed}: the batch does not fill the limit"
    assert seen["throttled"] <= (0 if known else 5), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_nor_does_it_wait_longer_behind_rows_of_thousands_of_tokens(seed: int) -> None:
    """The limit is one of tokens, and each row of the batch takes up to half a second of it."""
    tpm = 600_000.0
    settings = Settings(tokens_per_minute=tpm, charge="actual", latency=LATENCY, seed=seed)
    waits, calls, seconds, seen = run(beside_a_batch(settings, Limits(tokens_per_minute=tpm), 0.5, 4_000), seed=seed)
    assert waits[int(0.95 * calls)] <= 0.25, f"seed {seed}"
    assert seen["tokens"] >= 0.95 * tpm / 60 * seconds, f"seed {seed}: the batch does not fill the limit"


LONG, SHORT = 30_000, 300


async def two_runs(client: VirtualClient, long: Lane, short: Lane) -> float:
    """The long run's share of all that was answered while both were under way; it has a hundred times the rows."""
    async with going_on(client, (f"long {index}" for index in range(LONG)), lane=long) as of_long:
        await client.clock.sleep(WARM)
        async with going_on(client, (f"short {index}" for index in range(SHORT)), lane=short) as of_short:
            while not of_short:
                await client.clock.sleep(0.01)
            before = len(of_long)
            while len(of_short) < SHORT:
                await client.clock.sleep(0.01)
            during = len(of_long) - before
    return during / (during + SHORT)


@pytest.mark.parametrize(
    ("long", "short", "share", "seed"),
    [(1.0, 1.0, 0.5, 0), (1.0, 1.0, 0.5, 1), (1.0, 1.0, 0.5, 2), (2.0, 1.0, 2 / 3, 0), (1.0, 3.0, 0.25, 0)],
)
def test_two_runs_share_the_limit_by_weight_within_3_percent(
    long: float, short: float, share: float, seed: int
) -> None:
    """One has a hundred times the rows and was there first."""

    async def main() -> float:
        settings = Settings(requests_per_minute=3_000, burst_seconds=1.0, latency=LATENCY, seed=seed)
        async with VirtualClient(settings, limits=Limits(requests_per_minute=3_000)) as client:
            return await two_runs(client, Lane(name="long", weight=long), Lane(name="short", weight=short))

    assert run(main(), seed=seed) == pytest.approx(share, abs=0.03), f"seed {seed}"


def test_two_runs_share_the_slots_where_no_limit_binds() -> None:
    async def main() -> float:
        async with VirtualClient(Settings(latency=LATENCY), max_concurrency=20) as client:
            return await two_runs(client, Lane(name="long"), Lane(name="short"))

    assert run(main()) == pytest.approx(0.5, abs=0.03)


def test_statistics_tell_limits_estimates_waiters_and_how_many_may_go() -> None:
    async def main() -> None:
        settings = Settings(requests_per_minute=600, tokens_per_minute=60_000, latency=LATENCY)
        client = VirtualClient(settings, limits=Limits(requests_per_minute=900))
        assert client.statistics() == {}
        async with client, going_on(client, endless(0)) as answered:
            await client.clock.sleep(30.0)
            told, words = client.statistics(), client.waiting_for()
        assert told["requests_per_minute"] == 600
        assert told["tokens_per_minute"] == 60_000
        assert told["throttled_s"] == 0.0
        assert told["in_flight"] == pytest.approx(10, abs=2)
        assert told["ready"] > 100
        assert told["answers"] == pytest.approx(len(answered), abs=3)
        assert told["output_tokens_per_answer"] > 0
        assert "allowed" not in told
        assert re.fullmatch(r"requests a minute, next in 0\.\d s", words)

    run(main())


def test_statistics_tell_how_many_may_go_where_no_limit_is_known() -> None:
    async def main() -> dict[str, float]:
        async with VirtualClient(Settings(latency=LATENCY, slots=20)) as client, going_on(client, endless(0)):
            await client.clock.sleep(120.0)
            return client.statistics()

    told = run(main())
    assert 12 <= told["allowed"] <= 60
    assert told["in_flight"] <= told["allowed"]
    assert "requests_per_minute" not in told
