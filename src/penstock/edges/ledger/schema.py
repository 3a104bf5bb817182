"""The tables of a ledger, and which rows of them are intact. No connection is opened or kept here."""

from __future__ import annotations

import sqlite3
import struct
from operator import lt

from penstock.records import Entry
from penstock.rules.identity import checksum

APPLICATION = 0x504E5354
VERSION = 1
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
"""
FORGET = """
INSERT INTO forgotten VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET sends = sends + excluded.sends
"""
"""Sends that may be billed and whose row no longer tells of them: cut by a crash, or of a row that was sent again later."""

COLUMNS = "position, state, request, meta, body, checksum"
INSERT = f"INSERT OR REPLACE INTO results ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608  constants only
PAGE = f"SELECT {COLUMNS} FROM results WHERE position >= ? AND position < ? ORDER BY position LIMIT ?"  # noqa: S608

RowTuple = tuple[int, int, bytes, bytes, bytes, int]


def place(run: int, index: int) -> int:
    """Where a row of a run lies."""
    return run << INDEX_BITS | index


def to_row(run: int, entry: Entry) -> RowTuple:
    """An entry as the table holds it, with its checksum."""
    proof = checksum(run, entry.index, entry.state, entry.request, entry.meta, entry.body)
    return place(run, entry.index), entry.state, entry.request, entry.meta, entry.body, proof


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
