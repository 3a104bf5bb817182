"""A workflow, cancelled before every turn of the loop: nothing is left, and what came back is not asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock import Llm
from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.ports import Ledger
from penstock.records import Call, Entry, Response, Result
from penstock.rules.entries import to_entry
from penstock.rules.identity import ANSWERED
from penstock.simulator.behaviour import Faults, Settings, expected_text
from penstock.testing import MemoryLedger
from tests.kit.endings import cancelled_after, open_files, settle, turns_until_whole
from tests.kit.rows import VirtualClient, tasks_left
from tests.kit.workflows import run_all

WORLD = Settings(latency=0.5, faults=Faults(error_500=0.2, reset=0.1, throttle=0.05), seed=3)
RECORD = RunRecord(input_digest=b"d" * 16, options={"model": "m"}, rows=9)


class SlowLedger(MemoryLedger):
    """Every answer of it takes a while, so that there is something to cancel."""

    async def commit(self, entries: Sequence[Entry], calls: Sequence[Call] = ()) -> None:
        await asyncio.sleep(0.2)
        await super().commit(entries, calls)

    async def calls(self, index: int) -> Sequence[Call]:
        await asyncio.sleep(0.2)
        return await super().calls(index)

    async def claim(self, index: int, request: bytes, occurrence: int) -> Call | None:
        await asyncio.sleep(0.2)
        return await super().claim(index, request, occurrence)


async def branching(row: str, llm: Llm) -> str:
    """Two calls at once, then one, and a task that nobody waits for."""
    async with asyncio.TaskGroup() as group:
        parts = [group.create_task(llm.generate(f"{row} {part}")) for part in range(2)]
    stray = asyncio.create_task(llm.generate(f"{row} stray"))
    last = await llm.generate(f"{row} all of {len(parts)}")
    stray.cancel()
    return last.text


async def two_calls(row: str, llm: Llm) -> str:
    await llm.generate(f"{row} first")
    return (await llm.generate(f"{row} second")).text


@pytest.mark.parametrize("ledger", [None, SlowLedger], ids=["bare", "ledger"])
def test_a_workflow_cancelled_at_any_turn_leaves_nothing(ledger: type[SlowLedger] | None) -> None:
    """No task, slot or request under way; each answer that came back is recorded, and the client goes on."""

    async def cancelled(turns: int) -> bool:
        client = VirtualClient(WORLD, max_concurrency=3)
        store: Ledger | None = ledger() if ledger else None
        in_time = await cancelled_after(turns, run_all(client, branching, ["a", "b", "c"], ledger=store))
        assert not tasks_left()
        assert client.statistics().get("in_flight", 0) == client.stats.in_flight == 0
        if isinstance(store, SlowLedger):
            assert sum(call.entry.state == ANSWERED for call in store.called.values()) == client.stats.answered
        assert (await client.generate("still works")).text == expected_text("still works")
        await client.aclose()
        return in_time

    assert turns_until_whole(cancelled) > 10


def test_a_workflow_with_a_ledger_on_disk_cancelled_at_any_turn_can_be_resumed_at_once(tmp_path: Path) -> None:
    """No file stays open, and no answer that came back is asked for again."""

    async def cancelled(turns: int) -> bool:
        path = tmp_path / f"{turns}.ledger"
        client = VirtualClient(Settings(latency=0.5), max_concurrency=2)
        in_time = await cancelled_after(turns, run_all(client, two_calls, ["a", "b"], ledger=path))
        assert not tasks_left()
        await settle()
        assert open_files(tmp_path) == []
        results = await run_all(client, two_calls, ["a", "b"], ledger=path)
        assert [result.value for result in results] == [expected_text("a second"), expected_text("b second")]
        assert client.stats.answered == 4
        assert open_files(tmp_path) == []
        return in_time

    assert turns_until_whole(cancelled) > 10


def recorded_call(index: int, name: int) -> Call:
    response = Response("x", "stop", "m", raw=b"{}")
    return Call(to_entry(Result(index, index, response=response, attempts=1), name.to_bytes(16, "big")), 0)


@pytest.mark.parametrize("use", ["commit", "calls", "claim"])
def test_a_use_of_the_table_of_calls_cancelled_at_any_turn_leaves_it_whole(tmp_path: Path, use: str) -> None:
    """All of a commit or nothing; what was claimed stands at one place; the high-water mark is never too high."""

    async def cancelled(turns: int) -> bool:
        path = tmp_path / f"{turns}.ledger"
        earlier = LedgerFile(path)
        earlier.begin(RECORD)
        await earlier.commit([], [recorded_call(0, 7)])
        earlier.close()
        ledger = LedgerFile(path)
        ledger.begin(RECORD)
        await ledger.commit([], [recorded_call(1, 8)])
        uses = {
            "commit": lambda: ledger.commit([], [recorded_call(2, 1), recorded_call(2, 2)]),
            "calls": lambda: ledger.calls(1),
            "claim": lambda: ledger.claim(3, (7).to_bytes(16, "big"), 0),
        }
        in_time = await cancelled_after(turns, uses[use]())
        await settle()
        await ledger.aclose()
        assert open_files(tmp_path) == []
        again = LedgerFile(path)
        assert again.latest() == RECORD
        again.resume(RECORD)
        assert (again.lost, again.set_aside) == (0, None)
        assert len(await again.calls(1)) == 1
        assert len(await again.calls(2)) in (0, 2)
        assert len(await again.calls(3)) in (0, 1)
        again.close()
        return in_time

    assert turns_until_whole(cancelled) >= 2
