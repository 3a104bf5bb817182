"""The tables of a ledger, and which rows of them are intact. No connection is opened or kept here."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from itertools import chain
from operator import lt

from penstock.records import Call, Entry
from penstock.rules.identity import checksum

APPLICATION = 0x504E5354
VERSION = 2
INDEX_BITS = 40
LAST_INDEX = (1 << INDEX_BITS) - 1
"""A position is `run << 40 | index`: rows of one run lie side by side, in input order."""

SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE runs (run INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE results (
    position INTEGER PRIMARY KEY, state INTEGER NOT NULL, request BLOB NOT NULL,
    meta BLOB NOT NULL, body BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE forgotten (
    session INTEGER, position INTEGER, sends INTEGER NOT NULL, PRIMARY KEY (session, position)
) WITHOUT ROWID;
CREATE TABLE losses (session INTEGER PRIMARY KEY, rows INTEGER NOT NULL);
CREATE TABLE calls (
    number INTEGER PRIMARY KEY, position INTEGER NOT NULL, request BLOB NOT NULL, occurrence INTEGER NOT NULL,
    state INTEGER NOT NULL, meta BLOB NOT NULL, body BLOB NOT NULL, checksum INTEGER NOT NULL
);
"""
FORGET = """
INSERT INTO forgotten VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET sends = sends + excluded.sends
"""
"""Sends that may be billed and whose row no longer tells of them: cut by a crash, or of a row that was sent again later."""

COLUMNS = "position, state, request, meta, body, checksum"
INSERT = f"INSERT OR REPLACE INTO results ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608  constants only
ROWS_A_STATEMENT = (64, 16, 4, 1)
"""The interpreter's lock is let go of and asked for again at each statement: with one for each row the writer and the event loop
keep waiting for each other."""

INSERTS = {rows: INSERT + ", (?, ?, ?, ?, ?, ?)" * (rows - 1) for rows in ROWS_A_STATEMENT}
PAGE = f"SELECT {COLUMNS} FROM results WHERE position >= ? AND position < ? ORDER BY position LIMIT ?"  # noqa: S608

CALL_COLUMNS = "number, position, request, occurrence, state, meta, body, checksum"
INSERT_CALL = f"INSERT OR REPLACE INTO calls ({CALL_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  constants only
CALL_PAGE = f"SELECT {CALL_COLUMNS} FROM calls WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608  constants only

RowTuple = tuple[int, int, bytes, bytes, bytes, int]
CallTuple = tuple[int, int, bytes, int, int, bytes, bytes, int]


def place(run: int, index: int) -> int:
    """Where a row of a run lies."""
    return run << INDEX_BITS | index


def to_row(run: int, entry: Entry) -> RowTuple:
    """An entry as the table holds it, with its checksum."""
    proof = checksum(run, entry.index, entry.state, entry.request, entry.meta, entry.body)
    return place(run, entry.index), entry.state, entry.request, entry.meta, entry.body, proof


def insert(connection: sqlite3.Connection, rows: Sequence[RowTuple]) -> None:
    """Write rows, many with each statement."""
    at = 0
    for many in ROWS_A_STATEMENT:
        while at + many <= len(rows):
            connection.execute(INSERTS[many], list(chain.from_iterable(rows[at : at + many])))
            at += many


def is_intact(row: RowTuple) -> bool:
    """Whether the checksum says that this is what was stored, and stored there."""
    position, state, request, meta, body, proof = row
    try:
        return checksum(position >> INDEX_BITS, position & LAST_INDEX, state, request, meta, body) == proof
    except (TypeError, ValueError, OverflowError, struct.error):
        return False


def require_order(page: list[RowTuple], at: int, end: int) -> None:
    """Raise the error of a damaged database where positions do not rise within `[at, end)`: such pages lead in circles."""
    positions = [row[0] for row in page]
    if not (at <= positions[0] and positions[-1] < end and all(map(lt, positions, positions[1:]))):
        raise sqlite3.DatabaseError("rows are out of order")


def to_entry(row: RowTuple) -> Entry | None:
    """The entry of a table row; None for a damaged one."""
    position, state, request, meta, body, _ = row
    return Entry(position & LAST_INDEX, request, state, meta, body) if is_intact(row) else None


def to_call_row(run: int, call: Call) -> tuple[int, bytes, int, int, bytes, bytes, int]:
    """A call as the table holds it after its number, with its checksum."""
    entry, occurrence = call.entry, call.occurrence
    position = place(run, entry.index)
    proof = _proof(position, entry.request, occurrence, entry.state, entry.meta, entry.body)
    return position, entry.request, occurrence, entry.state, entry.meta, entry.body, proof


def _proof(position: int, request: bytes, occurrence: int, state: int, meta: bytes, body: bytes) -> int:
    """As of a row, and over the occurrence too."""
    counted = occurrence.to_bytes(8) + meta
    return checksum(position >> INDEX_BITS, position & LAST_INDEX, state, request, counted, body)


def to_call(row: CallTuple) -> Call | None:
    """The call of a table row; None for a damaged one."""
    number, position, request, occurrence, state, meta, body, proof = row
    try:
        if _proof(position, request, occurrence, state, meta, body) != proof:
            return None
    except (TypeError, ValueError, AttributeError, OverflowError, struct.error):
        return None
    return Call(Entry(position & LAST_INDEX, request, state, meta, body), occurrence, number)


def require_numbers(page: list[CallTuple], after: int) -> None:
    """Raise the error of a damaged database where numbers do not rise: such pages lead in circles."""
    numbers = [after, *(row[0] for row in page)]
    if not all(map(lt, numbers, numbers[1:])):
        raise sqlite3.DatabaseError("calls are out of order")
