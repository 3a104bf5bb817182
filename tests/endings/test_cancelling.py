"""Every public coroutine, cancelled before every turn of the loop: nothing is left, and the same object goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.errors import RunStopped, request_error
from penstock.options import Limits
from penstock.ports import Ledger
from penstock.records import Entry, Result
from penstock.rules.entries import to_entry
from penstock.simulator.behaviour import Faults, Settings, expected_text
from penstock.testing import MemoryLedger
from tests.kit.endings import cancelled_after, open_files, settle, turns_until_whole
from tests.kit.rows import VirtualClient, collect, prompts, tasks_left

WORLD = Settings(latency=0.5, faults=Faults(error_500=0.2, reset=0.1, throttle=0.05), seed=3)
RECORD = RunRecord(input_digest=b"d" * 16, options={"model": "m"}, rows=9)


class SlowLedger(MemoryLedger):
    """Every answer of it takes a while, so that there is something to cancel."""

    async def commit(self, entries: Sequence[Entry]) -> None:
        await asyncio.sleep(0.2)
        await super().commit(entries)

    async def find(self, index: int, request: bytes) -> Entry | None:
        await asyncio.sleep(0.2)
        return await super().find(index, request)

    async def read(self, index: int) -> Entry | None:
        await asyncio.sleep(0.2)
        return await super().read(index)


Use = Callable[[VirtualClient, Ledger | None], Awaitable[object]]


async def generate(client: VirtualClient, _: Ledger | None) -> None:
    await client.generate("alone")


async def gather(client: VirtualClient, ledger: Ledger | None) -> None:
    await client.gather(prompts(7), ledger=ledger)


async def as_they_come(client: VirtualClient, ledger: Ledger | None) -> None:
    await collect(client, prompts(7), ledger=ledger)


async def equal_rows(client: VirtualClient, ledger: Ledger | None) -> None:
    await client.gather(["same", "other"] * 4, dedupe=True, ledger=ledger)


async def leave_after_two(client: VirtualClient, ledger: Ledger | None) -> None:
    results = client.map(prompts(7), ordered=True, ledger=ledger)
    await anext(results)
    await anext(results)
    await results.aclose()


async def close_under_way(client: VirtualClient, ledger: Ledger | None) -> None:
    results = client.map(prompts(7), ledger=ledger)
    await anext(results)
    await client.aclose()
    with pytest.raises(RunStopped, match="closed"):
        await collect_rest(results)


async def collect_rest(results: Any) -> None:
    async for _ in results:
        pass


async def stream(client: VirtualClient, _: Ledger | None) -> None:
    async with client.stream("alone", on_break="restart") as answer:
        async for _ in answer:
            pass


async def many_streams(client: VirtualClient, ledger: Ledger | None) -> None:
    await collect_rest(client.stream_many(prompts(5), ledger=ledger))


async def leave_streams(client: VirtualClient, ledger: Ledger | None) -> None:
    items = client.stream_many(prompts(5), ledger=ledger)
    for _ in range(12):
        await anext(items)
    await items.aclose()


async def open_and_close(client: VirtualClient, ledger: Ledger | None) -> None:
    async with client:
        await client.gather(prompts(3), ledger=ledger)


USES: tuple[Use, ...] = (
    *(gather, as_they_come, equal_rows, leave_after_two, close_under_way, open_and_close),
    *(generate, stream, many_streams, leave_streams),
)


def check_nothing_is_left(client: VirtualClient) -> None:
    assert not tasks_left()
    assert client.statistics().get("in_flight", 0) == 0
    assert client.stats.in_flight == 0


@pytest.mark.parametrize("limits", [None, Limits(requests_per_minute=120)], ids=["unlimited", "limited"])
@pytest.mark.parametrize("ledger", [None, SlowLedger], ids=["bare", "ledger"])
@pytest.mark.parametrize("use", USES)
def test_a_use_of_the_client_cancelled_at_any_turn_leaves_nothing(
    use: Use, ledger: type[SlowLedger] | None, limits: Limits | None
) -> None:
    """No task, slot or request under way is left, what was answered is recorded, and the same client answers the next."""

    async def cancelled(turns: int) -> bool:
        client = VirtualClient(WORLD, max_concurrency=3, limits=limits)
        store = ledger() if ledger else None
        in_time = await cancelled_after(turns, use(client, store))
        check_nothing_is_left(client)
        if store is not None and use not in (generate, stream):
            assert sum(entry.state == 1 for entry in store.entries.values()) >= client.stats.answered
        assert (await client.generate("still works")).text == expected_text("still works")
        await client.aclose()
        check_nothing_is_left(client)
        return in_time

    assert turns_until_whole(cancelled) >= 3


@pytest.mark.parametrize("ordered", [False, True])
def test_a_run_with_a_ledger_on_disk_cancelled_at_any_turn_can_be_resumed_at_once(
    tmp_path: Path, ordered: bool
) -> None:
    """No file of the ledger stays open, its lock is free, and no recorded answer is sent again."""

    async def cancelled(turns: int) -> bool:
        path = tmp_path / f"{turns}.ledger"
        client = VirtualClient(Settings(latency=0.5), max_concurrency=2)
        in_time = await cancelled_after(turns, collect(client, prompts(4), ledger=path, ordered=ordered))
        check_nothing_is_left(client)
        await settle()
        assert open_files(tmp_path) == []
        await check_resumed(client, path)
        return in_time

    assert turns_until_whole(cancelled) > 10


async def check_resumed(client: VirtualClient, path: Path) -> None:
    """The same client goes on with the same ledger: every row is answered, and none again whose answer came back."""
    answered = client.stats.answered
    results = await collect(client, prompts(4), ledger=path)
    assert all(result.text == expected_text(f"Tell me fact {result.index}") for result in results)
    assert sum(result.reused for result in results) == answered
    assert client.stats.answered == 4
    assert open_files(path.parent) == []


def entry(index: int) -> Entry:
    error = request_error("invalid_request", f"row {index}")
    return to_entry(Result(index, index, error=error, attempts=1), index.to_bytes(16, "big"))


LEDGER_USES: dict[str, Callable[[LedgerFile], Awaitable[object]]] = {
    "commit": lambda ledger: ledger.commit([entry(index) for index in range(3)]),
    "find": lambda ledger: ledger.find(0, entry(0).request),
    "read": lambda ledger: ledger.read(0),
    "aclose": lambda ledger: ledger.aclose(),
}


@pytest.mark.parametrize("name", LEDGER_USES)
def test_a_use_of_the_ledger_cancelled_at_any_turn_leaves_it_whole(tmp_path: Path, name: str) -> None:
    """All of a commit is recorded or nothing; the ledger takes the next commit, closes, and lets go of its lock."""

    async def cancelled(turns: int) -> bool:
        path = tmp_path / f"{turns}.ledger"
        ledger = LedgerFile(path)
        ledger.begin(RECORD)
        in_time = await cancelled_after(turns, LEDGER_USES[name](ledger))
        await settle()
        if name != "aclose":
            recorded = [index for index in range(3) if await ledger.read(index) is not None]
            assert recorded in ([], [0, 1, 2])
            await ledger.commit([entry(index) for index in range(5)])
        await ledger.aclose()
        assert open_files(tmp_path) == []
        again = LedgerFile(path)
        assert again.latest() == RECORD
        again.resume(RECORD)
        assert (again.lost, again.set_aside) == (0, None)
        assert [again.state(index) for index in range(5)] == [2 if name != "aclose" else 0] * 5
        again.close()
        return in_time

    assert turns_until_whole(cancelled) >= 2


def test_a_run_cancelled_again_while_it_closes_still_records_what_came_back() -> None:
    """Two cancellations in a row, as by two signals, lose no answer that had come back."""

    async def cancelled(turns: int) -> bool:
        client = VirtualClient(Settings(latency=0.5), max_concurrency=3)
        ledger = SlowLedger()
        work = asyncio.ensure_future(collect(client, prompts(9), ledger=ledger))
        await client.clock.sleep(0.75)  # three have come back, and are being recorded
        work.cancel()
        in_time = await cancelled_after(turns, work)
        check_nothing_is_left(client)
        assert len(ledger.entries) == client.stats.answered == 3
        return in_time

    assert turns_until_whole(cancelled) > 2
