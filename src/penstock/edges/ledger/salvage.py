"""What can still be read of a damaged ledger, moved into a new one. It vouches for rows by their checksum, for nothing else.

The damaged file is kept under another name. Pages that cannot be read are passed by from both sides; their rows count as
not recorded and are sent again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from penstock.edges.ledger.schema import COLUMNS, INSERT, RowTuple, to_entry

TABLES = {"runs": 2, "forgotten": 3, "losses": 2}
"""The small tables, with their number of columns."""
LAST = (1 << 63) - 1


def salvage(damaged: Path, into: sqlite3.Connection) -> int:
    """Copy what is intact from the file `damaged` into a new, empty ledger; returns how many rows that was."""
    source = sqlite3.connect(f"file:{damaged}?mode=ro", uri=True)
    try:
        into.execute("BEGIN IMMEDIATE")
        for table, columns in TABLES.items():
            marks = ", ".join("?" * columns)
            into.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", _small_table(source, table))  # noqa: S608
        intact = into.executemany(INSERT, (row for row in _rows(source) if to_entry(row) is not None)).rowcount
        into.execute("COMMIT")
    finally:
        source.close()
    return max(0, intact)


def _small_table(source: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    try:
        return source.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608  the names are ours
    except sqlite3.DatabaseError:
        return []


def _rows(source: sqlite3.Connection) -> Iterator[RowTuple]:
    """The rows that can be read: upwards to the damage, then downwards to it."""
    up = f"SELECT {COLUMNS} FROM results WHERE position > ? ORDER BY position LIMIT 1"  # noqa: S608
    down = f"SELECT {COLUMNS} FROM results WHERE position < ? ORDER BY position DESC LIMIT 1"  # noqa: S608
    lowest = -1
    for row in _steps(source, up, lowest, rising=True):
        lowest = row[0]
        yield row
    for row in _steps(source, down, LAST, rising=False):
        if row[0] <= lowest:
            return
        yield row


def _steps(source: sqlite3.Connection, query: str, start: int, *, rising: bool) -> Iterator[RowTuple]:
    """Row by row, so that a page that cannot be read costs no row of another."""
    at = start
    while True:
        try:
            row = source.execute(query, (at,)).fetchone()
        except sqlite3.DatabaseError:
            return
        if row is None or row[0] == at or (row[0] < at) == rising:
            return  # the end, or a page that leads in circles
        at = row[0]
        yield row
