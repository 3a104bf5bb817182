"""What can still be read of a damaged ledger, moved into a new one. It vouches for rows by their checksum, for nothing else.

The damaged file is kept under another name. Pages that cannot be read are passed by from both sides; their rows count as
not recorded and are sent again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from penstock.edges.ledger.schema import COLUMNS, INSERT, RowTuple, is_intact

TABLES = {"runs": 2, "forgotten": 3, "losses": 2}
"""The small tables, with their number of columns."""


def salvage(damaged: Path, into: sqlite3.Connection) -> int:
    """Copy what is intact from the file `damaged` into a new, empty ledger; returns how many rows that was."""
    source = sqlite3.connect(f"file:{damaged}?mode=ro", uri=True)
    try:
        into.execute("BEGIN IMMEDIATE")
        for table, columns in TABLES.items():
            marks = ", ".join("?" * columns)
            into.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", _small_table(source, table))  # noqa: S608
        into.executemany(INSERT, (row for row in _rows(source) if is_intact(row)))
        into.execute("COMMIT")
    finally:
        source.close()
    return int(into.execute("SELECT count(*) FROM results").fetchone()[0])


def _small_table(source: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    try:
        return source.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608  the names are ours
    except sqlite3.DatabaseError:
        return []


def _rows(source: sqlite3.Connection) -> Iterator[RowTuple]:
    """The rows that can be read: as they lie, then from the end up to what cannot be read. Some may come twice.

    They are not looked up by their place, for in a damaged file that may lead elsewhere, or in circles.
    """
    for direction in ("ASC", "DESC"):
        cursor = source.execute(f"SELECT {COLUMNS} FROM results ORDER BY position {direction}")  # noqa: S608
        try:
            yield from cursor
        except sqlite3.DatabaseError:
            continue
        return
