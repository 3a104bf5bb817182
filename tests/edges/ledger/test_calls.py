"""The calls of workflows in the ledger: found again under their row, content and occurrence, counted, never given out damaged."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest

from penstock.edges.ledger import LedgerFile, LedgerReader, RunRecord
from penstock.records import Call, Calls, Entry, Response, Result, Usage
from penstock.rules.entries import to_entry
from penstock.rules.identity import ANSWERED, FAILED, REFUSED
from penstock.testing import MemoryLedger
from tests.kit.ledgers import RECORD, digest

OTHER = RunRecord(input_digest=b"e" * 16, options={"model": "m"}, rows=10)


def call(index: int, name: int, *, occurrence: int = 0, number: int = 0, ambiguous: int = 0) -> Call:
    """The answered call of a row; `name` is its request."""
    response = Response(f"answer {name}", "stop", "m", Usage(10, 5), raw=b'{"answer": %d}' % name)
    result = Result(index, f"r{index}", response=response, attempts=1, cost=0.25, ambiguous=ambiguous)
    return Call(to_entry(result, digest(name)), occurrence, number)


def given_up(index: int, name: int, *, ambiguous: int, number: int = 0) -> Call:
    from penstock.errors import request_error

    result = Result(index, index, error=request_error("timeout", "no"), attempts=1, ambiguous=ambiguous)
    return Call(to_entry(result, digest(name)), 0, number)


def value(index: int, calls: Calls | None = None, request: int | None = None) -> Entry:
    """The result of a workflow's row, which its calls paid for."""
    told = calls or Calls(1, usage=Usage(10, 5))
    result = Result(index, f"r{index}", value={"n": index}, calls=told, attempts=1, cost=0.25)
    return to_entry(result, digest(index if request is None else request))


def plain(calls: object) -> list[Call]:
    """Calls without their place in the ledger."""
    return [msgspec.structs.replace(found, number=0) for found in calls]  # type: ignore[attr-defined]


def reopened(path: Path, record: RunRecord = RECORD) -> LedgerFile:
    ledger = LedgerFile(path)
    if ledger.latest() == record:
        ledger.resume(record)
    else:
        ledger.begin(record)
    return ledger


def copied(path: Path, into: Path) -> Path:
    """The files as `kill -9` leaves them at this moment."""
    into.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, into / file.name)
    return into / path.name


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_both_ledgers_give_back_the_calls_of_a_row(kind: str, store: LedgerFile) -> None:
    ledger: LedgerFile | MemoryLedger = store if kind == "disk" else MemoryLedger()
    assert list(await ledger.calls(5)) == []
    recorded = [call(5, 1), call(5, 1, occurrence=1), call(5, 2), call(6, 1)]
    await ledger.commit([], recorded)
    assert plain(await ledger.calls(5)) == recorded[:3]
    assert plain(await ledger.calls(6)) == recorded[3:]
    assert list(await ledger.calls(7)) == []
    assert await ledger.claim(7, digest(1), 0) is None


async def test_calls_are_there_after_a_kill_and_counted_once(path: Path, tmp_path: Path, store: LedgerFile) -> None:
    await store.commit([value(1)], [call(1, 1), call(2, 2), call(2, 3, ambiguous=2)])
    for ledger in (reopened(copied(path, tmp_path / "after")), reopened(copied(path, tmp_path / "again"))):
        assert plain(await ledger.calls(2)) == [call(2, 2), call(2, 3, ambiguous=2)]
        assert list(await ledger.calls(1)) == []
        assert (ledger.recorded.ok, ledger.recorded.cost, ledger.recorded.input_tokens) == (1, 0.75, 30)
        assert (ledger.recorded.ambiguous, ledger.forgotten(), ledger.lost) == (2, 0, 0)
        assert ledger.recorded.calls is not None
        assert ledger.recorded.calls.answers == 3
        ledger.close()


async def test_the_reader_shows_them_beside_the_run_that_writes(path: Path, store: LedgerFile) -> None:
    recorded = [call(index, index) for index in range(1_200)]
    await store.commit([], recorded)
    reader = LedgerReader(path)
    assert plain(reader.calls()) == recorded
    reader.close()


async def test_a_call_that_was_given_up_is_replaced_and_its_sends_stay_in_the_account(
    path: Path, store: LedgerFile
) -> None:
    await store.commit([], [given_up(3, 1, ambiguous=2)])
    store.close()
    again = reopened(path)
    (before,) = await again.calls(3)
    assert before.entry.state == FAILED
    await again.commit([], [call(3, 1, number=before.number, ambiguous=1)])
    assert plain(await again.calls(3)) == [call(3, 1, ambiguous=1)]
    again.close()
    last = reopened(path)
    assert (last.recorded.ambiguous, last.forgotten(), last.lost) == (1, 2, 0)
    last.close()


async def test_the_marks_of_a_row_are_wiped_by_what_its_calls_account_for(
    path: Path, tmp_path: Path, store: LedgerFile
) -> None:
    for _ in range(5):
        store.sending(4)
    await store.commit([], [call(4, 1, ambiguous=1), given_up(4, 2, ambiguous=1)])
    assert store.under_way() == 2
    ledger = reopened(copied(path, tmp_path / "after"))
    assert (ledger.forgotten(), ledger.recorded.ambiguous) == (2, 2)
    ledger.close()
    await store.commit([value(4)])
    assert store.under_way() == 0


async def test_a_row_that_is_sent_again_counts_nothing_twice(path: Path, store: LedgerFile) -> None:
    """What a workflow's row tells of its calls is theirs already."""
    from penstock.errors import request_error

    bug = request_error("workflow", "KeyError: x", trace="Traceback")
    failed = to_entry(Result(0, 0, error=bug, calls=Calls(1, usage=Usage(10, 5)), ambiguous=3, cost=0.25), digest(0))
    await store.commit([failed], [call(0, 1, ambiguous=3)])
    store.close()
    again = reopened(path)
    assert (again.recorded.failed, again.recorded.ambiguous, again.recorded.cost) == (0, 3, 0.25)
    await again.commit([value(0)])
    again.close()
    last = reopened(path)
    assert (last.recorded.ok, last.recorded.ambiguous, last.forgotten(), last.recorded.cost) == (1, 3, 0, 0.25)
    last.close()


async def test_an_answer_of_an_earlier_run_can_be_claimed_once(path: Path, store: LedgerFile) -> None:
    await store.commit([value(1)], [call(1, 7), call(2, 7), given_up(2, 8, ambiguous=0)])
    store.close()
    changed = reopened(path, OTHER)
    assert (changed.run, list(await changed.calls(2))) == (2, [])
    claimed = await changed.claim(9, digest(7), 3)
    assert claimed is not None
    assert msgspec.structs.replace(claimed, number=0).entry.body == call(1, 7).entry.body
    assert (claimed.entry.index, claimed.occurrence) == (9, 3)
    assert await changed.claim(4, digest(7), 0) is not None
    assert await changed.claim(5, digest(7), 0) is None
    assert await changed.claim(5, digest(8), 0) is None
    changed.close()
    again = reopened(path, OTHER)
    assert [len(await again.calls(index)) for index in (1, 2, 4, 9)] == [0, 0, 1, 1]
    assert (again.lost, again.recorded.cost) == (0, 0.5)
    again.close()


async def test_the_calls_of_a_row_that_is_found_again_come_along_with_it(path: Path, store: LedgerFile) -> None:
    await store.commit([value(1)], [call(1, 7), call(1, 8), call(2, 9)])
    store.close()
    changed = reopened(path, OTHER)
    found = await changed.find(5, digest(1))
    assert found is not None
    assert found.state == ANSWERED
    changed.close()
    reader = LedgerReader(path)
    assert [(found.entry.index, found.entry.request) for found in reader.calls() if found] == [
        (5, digest(7)),
        (5, digest(8)),
    ]
    reader.close()
    again = reopened(path, OTHER)
    assert (again.lost, again.recorded.cost) == (0, 0.5)
    again.close()


async def test_every_bit_that_flips_in_a_stored_call_is_found(path: Path, store: LedgerFile) -> None:
    recorded = [call(index, index) for index in range(3)]
    await store.commit([], recorded)
    store.close()
    entry = recorded[1].entry
    columns = {"body": entry.body, "meta": entry.meta, "request": entry.request}
    connection = sqlite3.connect(path)

    def shown() -> list[Call | None]:
        reader = LedgerReader(path)
        try:
            return [found and msgspec.structs.replace(found, number=0) for found in reader.calls()]
        finally:
            reader.close()

    def change(column: str, content: object) -> None:
        connection.execute(f"UPDATE calls SET {column} = ? WHERE number = 2", (content,))
        connection.commit()

    for column, content in columns.items():
        for bit in range(0, len(content) * 8, 3):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            change(column, bytes(flipped))
            assert shown() == [recorded[0], None, recorded[2]], (column, bit)
        change(column, content)
    for column, content, right in (
        ("state", REFUSED, ANSWERED),
        ("occurrence", 1, 0),
        ("position", 1 << 40, 1 << 40 | 1),
    ):
        change(column, content)
        assert shown() == [recorded[0], None, recorded[2]], column
        change(column, right)
    assert shown() == recorded
    connection.close()


async def test_calls_that_are_gone_are_told(path: Path, tmp_path: Path, store: LedgerFile) -> None:
    await store.commit([], [call(index, index) for index in range(5)])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM calls WHERE number > 3")
    connection.commit()
    connection.close()
    again = reopened(path)
    assert again.lost == 2
    again.close()


async def test_a_ledger_with_a_damaged_call_is_set_aside_and_the_others_are_salvaged(
    path: Path, store: LedgerFile
) -> None:
    await store.commit([value(0)], [call(index, index) for index in range(5)])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE calls SET body = 'x' WHERE number = 3")
    connection.commit()
    connection.close()
    again = reopened(path)
    assert (again.salvaged, again.lost) == (5, 1)
    assert again.set_aside is not None
    assert [len(await again.calls(index)) for index in range(5)] == [0, 1, 0, 1, 1]
    again.close()
