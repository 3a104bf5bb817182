"""Every public coroutine, cancelled before every turn of the loop: nothing is left, and the same object goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.errors import NoAnswer
from penstock.options import Limits
from penstock.ports import Ledger
from penstock.records import Entry
from penstock.rules.identity import ANSWERED
from penstock.simulator.behaviour import Faults, Settings, expected_text
from penstock.testing import MemoryLedger
from tests.kit.endings import cancelled_after, open_files, run_in_turns, settle
from tests.kit.rows import VirtualClient, collect, prompts, tasks_left

WORLD = Settings(latency=0.5, faults=Faults(error_500=0.2, reset=0.1, throttle=0.05), seed=3)
MOST_TURNS = 4_000

Use = Callable[[VirtualClient], Awaitable[object]]


async def leave_after_two(client: VirtualClient) -> None:
    results = client.map(prompts(9), ordered=True)
    await anext(results)
    await anext(results)
    await results.aclose()


async def close_under_way(client: VirtualClient) -> None:
    results = client.map(prompts(9))
    await anext(results)
    await client.aclose()
    with pytest.raises(Exception, match="closed"):
        await anext(results)


async def open_and_close(client: VirtualClient) -> None:
    async with client:
        await client.generate("inside")


async def with_deduping(client: VirtualClient) -> None:
    await client.gather(["same", "other"] * 4, dedupe=True)


USES: dict[str, Use] = {
    "generate": lambda client: client.generate("alone"),
    "gather": lambda client: client.gather(prompts(9)),
    "map": lambda client: collect(client, prompts(9)),
    "dedupe": with_deduping,
    "leave": leave_after_two,
    "close": close_under_way,
    "with": open_and_close,
}


def check_nothing_is_left(client: VirtualClient) -> None:
    assert not tasks_left()
    assert client.statistics().get("in_flight", 0) == 0
    assert client.stats.in_flight == 0


@pytest.mark.parametrize("limits", [None, Limits(requests_per_minute=120)], ids=["unlimited", "limited"])
@pytest.mark.parametrize("name", USES)
def test_a_use_of_the_client_cancelled_at_any_turn_leaves_nothing(name: str, limits: Limits | None) -> None:
    """No task, slot or request under way is left, and the same client answers the next prompt."""

    async def cancelled(turns: int) -> bool:
        client = VirtualClient(WORLD, max_concurrency=3, limits=limits)
        again = await cancelled_after(turns, USES[name](client))
        check_nothing_is_left(client)
        assert (await client.generate("still works")).text == expected_text("still works")
        await client.aclose()
        check_nothing_is_left(client)
        return again

    assert turns_until_whole(cancelled) > 3


def turns_until_whole(cancelled: Callable[[int], Awaitable[bool]]) -> int:
    """Cancel before turn 0, 1, 2, ... until the use is over before its turn; returns how many turns it takes."""
    for turns in range(MOST_TURNS):
        if not run_in_turns(cancelled(turns)):  # type: ignore[arg-type]
            return turns
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("ordered", [False, True])
def test_a_run_with_a_ledger_on_disk_cancelled_at_any_turn_can_be_resumed_at_once(tmp_path: Path, ordered: bool) -> None:
    """No file of the ledger stays open, its lock is free, and no recorded answer is sent again."""

    async def cancelled(turns: int) -> bool:
        path = tmp_path / f"{turns}.ledger"
        client = VirtualClient(Settings(latency=0.5), max_concurrency=2)
        again = await cancelled_after(turns, collect(client, prompts(4), ledger=path, ordered=ordered))
        await settle()
        check_nothing_is_left(client)
        assert open_files(tmp_path) == []
        await resumed_by(client, path)
        return again

    assert turns_until_whole(cancelled) > 10


async def resumed_by(client: VirtualClient, path: Path) -> None:
    """The same client goes on with the same ledger: every row is answered, and none twice that was recorded."""
    answered = client.stats.answered
    results = await collect(client, prompts(4), ledger=path)
    assert all(result.text == expected_text(f"Tell me fact {result.index}") for result in results)
    reused = sum(result.reused for result in results)
    assert client.stats.answered == answered + 4 - reused
    assert reused >= answered - 2, "more than what was in flight is asked again"
    assert open_files(path.parent) == []
