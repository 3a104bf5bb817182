"""The writing side of a ledger: one connection, one thread, one commit for all that waits, and only then the answer counts.

`synchronous=FULL`: a commit that returned survives a loss of power. What was recorded and is damaged is never returned: its
row counts as not recorded and is sent again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.edges._sqlite import transaction
from penstock.edges.ledger.calls import CallTable
from penstock.edges.ledger.lock import Lock, refuse_network_disk
from penstock.edges.ledger.opening import beside, move_aside, open_ledger, replace_damaged
from penstock.edges.ledger.reader import RunRecord
from penstock.edges.ledger.schema import (
    COLUMNS,
    FORGET,
    INDEX_BITS,
    INSERT,
    LAST_INDEX,
    PAGE,
    RowTuple,
    insert,
    is_intact,
    place,
    require_order,
    to_entry,
    to_row,
)
from penstock.edges.ledger.slots import Slots
from penstock.edges.ledger.trouble import disk_trouble, sure_of_damage
from penstock.errors import UsageError
from penstock.records import Call, Entry
from penstock.rules.entries import meta_of, sums_in
from penstock.rules.identity import ABSENT, ANSWERED, FAILED
from penstock.rules.tally import Totals

T = TypeVar("T")
ROWS_A_PAGE = 2_000
ORPHANS = 0
"""The run number under which answers lie whose place another request has taken: paid for, so kept."""


class LedgerFile:
    """One ledger, open for a run. Implements `ports.Ledger`; call `begin` or `resume` before the first row.

    `lost` tells how many rows and calls had been committed and are gone: they are sent again. `set_aside` names a damaged
    file that was replaced by what could be `salvaged` of it, in rows and calls. `recorded` sums up the rows that stay, and
    all calls; `cut` counts sends of rows that will be sent again, which may be billed all the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = 0
        self.lost = 0
        self._closed = False
        self.recorded, self.cut = Totals(), 0
        self._states = bytearray()
        self._calls = CallTable()
        refuse_network_disk(path.parent)
        self._lock = Lock(beside(path, ".lock"))
        try:
            self._connection, self.set_aside, self.salvaged = open_ledger(path)
            try:
                self._slots = Slots(beside(path, ".slots"))
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._lock.undo()
            raise
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="penstock-ledger")

    # -- opening

    def latest(self) -> RunRecord | None:
        """What the last run in this ledger was made with; None where there was none. Raises `UsageError` for nonsense."""
        query = "SELECT run, record FROM runs ORDER BY run DESC LIMIT 1"
        try:
            row = sure_of_damage(self.path, lambda: self._connection.execute(query).fetchone())
            if row is None:
                return None
            record = msgspec.json.decode(row[1], type=RunRecord)
        except (sqlite3.DatabaseError, msgspec.MsgspecError, TypeError) as error:
            raise UsageError(
                f"{self.path} is damaged where it says of which run it is ({error}): start over with --fresh, "
                "which keeps it under another name"
            ) from error
        self.run = row[0]
        return record

    def begin(self, record: RunRecord) -> None:
        """Start a run of its own number; answers of earlier runs are found by their content."""
        with disk_trouble(self.path):
            before = self._number("SELECT coalesce(max(run), 0) FROM runs")
            if not before and self._slots.run:
                # The record of the run before is gone: its rows may be there, and are not to stand for ours.
                before = self._number("SELECT coalesce(max(position), 0) FROM results") >> INDEX_BITS
                self.lost = self._slots.committed + self._slots.calls
            self._take_in_left_overs()
            self.run = 1 + before
            self._save(record)
            self._slots.begin(self.run, self._slots.session + 1, 0)
            self._states = bytearray()
            self._calls.begin(self._connection)

    def resume(self, record: RunRecord, resend: frozenset[int] = frozenset({FAILED})) -> None:
        """Go on with the last run: read what is recorded, and what was under way when it died.

        `recorded` then holds the sums over the rows that stay, up to the record's `limit`; rows in a state of `resend` will
        be sent again.
        """
        rows, calls = (self._slots.committed, self._slots.calls) if self._slots.run == self.run else (0, 0)
        with disk_trouble(self.path):
            try:
                found, found_calls = sure_of_damage(self.path, lambda: self._read(resend, record.limit))
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._set_aside_damaged()
                found, found_calls = self._read(resend, record.limit)
            self.lost = max(0, rows - found) + max(0, calls - found_calls)
            self._take_in_left_overs()
            self._save(record)
            self._slots.begin(self.run, self._slots.session + 1, found, found_calls)

    def _set_aside_damaged(self) -> None:
        """Go on with a new file that has every row of the damaged one that can still be read and vouched for."""
        self._connection.close()
        self.set_aside, self.salvaged = replace_damaged(self.path)
        self._connection = open_ledger(self.path).connection

    def _take_in_left_overs(self) -> None:
        """Note durably which rows a dead run was sending, before their marks are wiped."""
        session, marks = self._slots.session, self._slots.left_over()
        sends = {place(marks.run, index): sends for index, sends in marks.sends.items()}
        rows = [(session, at, sends) for at, sends in sends.items() if not self._is_answered(at)]
        with transaction(self._connection):
            self._connection.executemany("INSERT OR IGNORE INTO forgotten VALUES (?, ?, ?)", rows)
            if self.lost:
                self._connection.execute("INSERT OR IGNORE INTO losses VALUES (?, ?)", (session, self.lost))

    def _save(self, record: RunRecord) -> None:
        encoded = msgspec.json.encode(record)
        self._connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?)", (self.run, encoded))

    def _is_answered(self, position: int) -> bool:
        query = "SELECT 1 FROM results WHERE position = ? AND state = ?"
        return self._connection.execute(query, (position, ANSWERED)).fetchone() is not None

    def _read(self, resend: frozenset[int], limit: int | None) -> tuple[int, int]:
        """How many rows and calls there are; raises `sqlite3.DatabaseError` for a damaged one."""
        rows, calls = self._read_states(resend, limit), 0
        for call in self._calls.read(self._connection, self.run, lambda index: self.state(index) == ANSWERED):
            calls += 1
            if limit is None or call.entry.index < limit:
                self.recorded.add_call(sums_in(call.entry.meta), ok=call.entry.state == ANSWERED)
        return rows, calls

    def _read_states(self, resend: frozenset[int], limit: int | None) -> int:
        """Fill the table of states and return how many rows there are; raises `sqlite3.DatabaseError` for a damaged one."""
        self.recorded, self.cut, self._states = Totals(), 0, bytearray()
        at, end, found = place(self.run, 0), place(self.run + 1, 0), 0
        while page := self._connection.execute(PAGE, (at, end, ROWS_A_PAGE)).fetchall():
            require_order(page, at, end)
            if not all(map(is_intact, page)):
                # Not even its place can be trusted, so it cannot be taken out by it.
                raise sqlite3.DatabaseError("a row fails its checksum")
            for row in page:
                self._set_state(row[0] & LAST_INDEX, row[1])
            counted = [row for row in page if limit is None or row[0] & LAST_INDEX < limit]
            self.recorded.add_all((row[1] == ANSWERED, sums_in(row[3])) for row in counted if row[1] not in resend)
            self.cut += sum(sums_in(row[3]).ambiguous for row in counted if row[1] in resend)
            found += len(page)
            at = page[-1][0] + 1
        self.recorded.ambiguous += self.cut
        return found

    def originals(self) -> dict[bytes, int]:
        """Which row of this run answers which request."""
        query = "SELECT request, position FROM results WHERE position >= ? AND state = ?"
        with disk_trouble(self.path):
            rows = self._connection.execute(query, (place(self.run, 0), ANSWERED))
            return {request: position & LAST_INDEX for request, position in rows}

    def forgotten(self) -> int:
        """See `LedgerReader.forgotten`."""
        query = "SELECT coalesce(sum(sends), 0) FROM forgotten WHERE position >= ?"
        with disk_trouble(self.path):
            return self._number(query, place(self.run, 0))

    def under_way(self) -> int:
        """Sends that may be billed and of whose rows nothing is recorded yet; at the end of a session they stay so."""
        return self._slots.under_way()

    @property
    def is_new(self) -> bool:
        """True where no row was recorded before this session, so that looking one up is in vain."""
        return self.run == 1 and not self._states

    # -- the port

    def state(self, index: int) -> int:
        """What is recorded of a row: a state of `rules.identity`."""
        return self._states[index] if index < len(self._states) else ABSENT

    def sending(self, index: int) -> None:
        self._slots.mark(index)

    def not_sent(self, index: int) -> None:
        self._slots.take_back(index)

    async def commit(self, entries: Sequence[Entry], calls: Sequence[Call] = ()) -> None:
        """Record durably. Raises `LedgerFailed`; then nothing of it counts."""
        run, states = self.run, self._states
        known = len(states)
        replaced = [
            place(run, entry.index) for entry in entries if entry.index < known and states[entry.index] != ABSENT
        ]
        numbers = await self._in_writer(lambda: self._write([to_row(run, entry) for entry in entries], replaced, calls))
        for call, number in zip(calls, numbers, strict=True):
            self._calls.stands_at(call.entry.index, number)
            answered = call.entry.state == ANSWERED
            self._slots.take_back(call.entry.index, sums_in(call.entry.meta).ambiguous + answered)
        self._calls.over(entry.index for entry in entries if entry.state == ANSWERED)
        for entry in entries:
            self._set_state(entry.index, entry.state)
        self._slots.clear([entry.index for entry in entries])
        self._slots.add_committed(len(entries) - len(replaced), sum(not call.number for call in calls))

    async def find(self, index: int, request: bytes) -> Entry | None:
        """The recorded answer of this request at its own place, or unclaimed elsewhere; it then stands here."""
        had = self.state(index) != ABSENT
        if had:
            self._slots.add_committed(-1)  # first, because a mark that is too high tells of a loss that never was
        entry, calls = await self._in_writer(lambda: self._find(index, request))
        if entry is not None:
            self._slots.add_committed(1, calls)
        self._set_state(index, entry.state if entry is not None else ABSENT)
        return entry

    async def read(self, index: int) -> Entry | None:
        """What is recorded of a row, checked."""
        return await self._in_writer(lambda: self._at(place(self.run, index)))

    async def calls(self, index: int) -> Sequence[Call]:
        """The recorded calls of a row that has no value yet."""
        if not self._calls.has(index):
            return ()
        return await self._in_writer(lambda: self._calls.of(self._connection, self.run, index))

    async def claim(self, index: int, request: bytes, occurrence: int) -> Call | None:
        """An answer to this request that an earlier run was given; it then stands at this place."""
        if not self._calls.may_claim:
            return None
        call = await self._in_writer(lambda: self._claim(index, request, occurrence))
        if call is not None:
            self._calls.stands_at(index, call.number)
            self._slots.add_committed(0, 1)
        return call

    async def aclose(self) -> None:
        """Write what is left of the log into the ledger and let go of it, also if cancelled. Twice does no harm."""
        if self._closed:
            return
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, self.close))

    def close(self) -> None:
        """Let go of the ledger (from its own thread, or where no loop runs). Calling it twice does no harm."""
        if self._closed:
            return
        self._closed = True
        self._connection.close()
        self._slots.close()
        self._writer.shutdown(wait=False)
        self._lock.release()

    # -- in the writer's thread

    async def _in_writer(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with disk_trouble(self.path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._writer, guarded)

    def _write(self, rows: Sequence[RowTuple], replaced: Sequence[int], calls: Sequence[Call] = ()) -> Sequence[int]:
        """Returns where the calls stand."""
        with transaction(self._connection):
            for position in replaced:
                if (before := self._at(position)) is not None and (sends := meta_of(before).ambiguous):
                    self._connection.execute(FORGET, (self._slots.session, position, sends))
            insert(self._connection, rows)
            return self._calls.write(self._connection, self._slots.session, self.run, calls) if calls else ()

    def _claim(self, index: int, request: bytes, occurrence: int) -> Call | None:
        with transaction(self._connection):
            return self._calls.claim(self._connection, self.run, index, request, occurrence)

    def _at(self, position: int) -> Entry | None:
        row = self._connection.execute(PAGE, (position, position + 1, 1)).fetchone()
        return None if row is None else to_entry(row)

    def _find(self, index: int, request: bytes) -> tuple[Entry | None, int]:
        """The entry, and how many calls of a workflow's row came here along with it."""
        here, calls = place(self.run, index), 0
        entry = self._at(here)
        if entry is not None and entry.request == request:
            return entry, 0
        self._connection.execute("CREATE INDEX IF NOT EXISTS by_request ON results (request, position)")
        elsewhere = self._unclaimed(request)
        with transaction(self._connection):
            if entry is not None:
                self._move(here, entry, ORPHANS, self._next_orphan())
            if elsewhere is not None:
                self._move(elsewhere[0], elsewhere[1], self.run, index)
                calls = self._calls.move(self._connection, elsewhere[0], self.run, index)
        return (None if elsewhere is None else msgspec.structs.replace(elsewhere[1], index=index)), calls

    def _unclaimed(self, request: bytes) -> tuple[int, Entry] | None:
        """An answer to this request that stands outside the present run, intact."""
        query = f"SELECT {COLUMNS} FROM results WHERE request = ? AND position < ? AND state = ?"  # noqa: S608
        for row in self._connection.execute(query, (request, place(self.run, 0), ANSWERED)):
            if (entry := to_entry(row)) is not None:
                return row[0], entry
        return None

    def _move(self, position: int, entry: Entry, run: int, index: int) -> None:
        moved = to_row(run, msgspec.structs.replace(entry, index=index))
        self._connection.execute("DELETE FROM results WHERE position = ?", (position,))
        self._connection.execute(INSERT, moved)

    def _next_orphan(self) -> int:
        return self._number("SELECT coalesce(max(position), -1) + 1 FROM results WHERE position < ?", 1 << INDEX_BITS)

    def _number(self, query: str, *values: int) -> int:
        return int(self._connection.execute(query, values).fetchone()[0])

    def _set_state(self, index: int, state: int) -> None:
        if index >= len(self._states):
            self._states.extend(bytes(max(index + 1 - len(self._states), 1024)))
        self._states[index] = state


def set_aside(path: Path) -> Path | None:
    """Give an old ledger another name, so that a new one can begin; returns the name, None where there was no ledger.

    Raises `LedgerLocked` where a run has it open.
    """
    lock = Lock(beside(path, ".lock"))
    try:
        return move_aside(path)
    finally:
        lock.release()
