"""The calls that rows of workflows made: each under its row, the content of its request and its occurrence within the row.

It reads and writes in the writer's thread, on a connection that it is given. A call stands where it was appended. What lies
where is known from one reading of the whole table, not from an index, whose damage would hide a call in silence.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator

import msgspec

from penstock.edges.ledger.schema import (
    CALL_COLUMNS,
    CALL_PAGE,
    FORGET,
    INSERT_CALL,
    CallTuple,
    place,
    require_numbers,
    to_call,
    to_call_row,
)
from penstock.records import Call
from penstock.rules.entries import sums_in
from penstock.rules.identity import ANSWERED

CALLS_A_PAGE = 2_000
BY_REQUEST = "CREATE INDEX IF NOT EXISTS calls_by_request ON calls (request, position)"
BY_ROW = "CREATE INDEX IF NOT EXISTS calls_by_row ON calls (position)"
"""Made where a run has changed, and answers are looked for by content; a call that they lead to is checked."""

_FIND = f"SELECT {CALL_COLUMNS} FROM calls WHERE"  # noqa: S608  constants only


class CallTable:
    """The calls of one run, and those of earlier runs that its rows may claim."""

    def __init__(self) -> None:
        self._earlier = False
        self._numbers: dict[int, set[int]] = {}

    def begin(self, connection: sqlite3.Connection) -> None:
        """A new run: whatever there is belongs to earlier ones."""
        self._numbers = {}
        self._earlier = connection.execute("SELECT 1 FROM calls LIMIT 1").fetchone() is not None

    def read(self, connection: sqlite3.Connection, run: int, over: Callable[[int], bool]) -> Iterator[Call]:
        """All calls of the run, the first time; those of rows that are not `over` are found again by `of`.

        Raises `sqlite3.DatabaseError` for a damaged one.
        """
        self._numbers, self._earlier = {}, False
        for row in _all(connection):
            call = to_call(row)
            if call is None:
                raise sqlite3.DatabaseError("a call fails its checksum")
            if row[1] < place(run, 0):
                self._earlier = True
            elif row[1] < place(run + 1, 0):
                if not over(call.entry.index):
                    self.stands_at(call.entry.index, call.number)
                yield call

    def stands_at(self, index: int, number: int) -> None:
        """A call of a row is recorded."""
        self._numbers.setdefault(index, set()).add(number)

    def over(self, indices: Iterable[int]) -> None:
        """These rows have their values, and ask for their calls no more."""
        if self._numbers:
            for index in indices:
                self._numbers.pop(index, None)

    def has(self, index: int) -> bool:
        """True where a call of a row that is not over is recorded."""
        return index in self._numbers

    def of(self, connection: sqlite3.Connection, run: int, index: int) -> list[Call]:
        """The calls of a row that is not over; those that do not stand where they stood are left out."""
        rows = (_at(connection, number) for number in sorted(self._numbers.get(index, ())))
        return [call for row in rows if row is not None and row[1] == place(run, index) if (call := to_call(row))]

    def write(self, connection: sqlite3.Connection, session: int, run: int, calls: Iterable[Call]) -> list[int]:
        """Append calls, or put them in place of others; returns where they stand. Sends that are told no more are noted."""
        numbers = []
        for call in calls:
            if call.number and (sends := _ambiguous(connection, call.number)):
                connection.execute(FORGET, (session, place(run, call.entry.index), sends))
            number = connection.execute(INSERT_CALL, (call.number or None, *to_call_row(run, call))).lastrowid
            assert number is not None
            numbers.append(number)
        return numbers

    # -- answers of earlier runs

    @property
    def may_claim(self) -> bool:
        """True where a request may have been answered in an earlier run."""
        return self._earlier

    def claim(
        self, connection: sqlite3.Connection, run: int, index: int, request: bytes, occurrence: int
    ) -> Call | None:
        """Let an answer of an earlier run stand at this place; whoever calls holds a transaction."""
        connection.execute(BY_REQUEST)
        query = f"{_FIND} request = ? AND position < ? AND state = ? ORDER BY position, number"
        for row in connection.execute(query, (request, place(run, 0), ANSWERED)):
            call = to_call(row)
            if call is not None and call.entry.request == request and row[1] < place(run, 0):
                entry = msgspec.structs.replace(call.entry, index=index)
                claimed = Call(entry, occurrence, call.number)
                connection.execute(INSERT_CALL, (call.number, *to_call_row(run, claimed)))
                return claimed
        return None

    def move(self, connection: sqlite3.Connection, position: int, run: int, index: int) -> int:
        """Let the calls of an earlier run's row come along with it; returns how many. Whoever calls holds a transaction."""
        if not self._earlier:
            return 0
        connection.execute(BY_ROW)
        rows = connection.execute(f"{_FIND} position = ?", (position,)).fetchall()
        calls = [call for row in rows if row[1] == position and (call := to_call(row)) is not None]
        for call in calls:
            moved = Call(msgspec.structs.replace(call.entry, index=index), call.occurrence, call.number)
            connection.execute(INSERT_CALL, (call.number, *to_call_row(run, moved)))
        return len(calls)


def _all(connection: sqlite3.Connection) -> Iterator[CallTuple]:
    number = 0
    while page := connection.execute(CALL_PAGE, (number, CALLS_A_PAGE)).fetchall():
        require_numbers(page, number)
        yield from page
        number = page[-1][0]


def _at(connection: sqlite3.Connection, number: int) -> CallTuple | None:
    row: CallTuple | None = connection.execute(CALL_PAGE, (number - 1, 1)).fetchone()
    return row if row is not None and row[0] == number else None


def _ambiguous(connection: sqlite3.Connection, number: int) -> int:
    """The sends of a recorded call that may be billed and have no answer."""
    call = to_call(row) if (row := _at(connection, number)) is not None else None
    return sums_in(call.entry.meta).ambiguous if call is not None else 0
