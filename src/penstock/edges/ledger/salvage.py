"""What can still be read of a damaged ledger, moved into a new one. It vouches for rows by their checksum, for nothing else.

The damaged file is kept under another name. Pages that cannot be read are passed by from both sides; their rows count as
not recorded and are sent again.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.edges.ledger.schema import CALL_COLUMNS, COLUMNS, INSERT, INSERT_CALL, is_intact, to_call
from penstock.edges.ledger.trouble import read_only

TABLES = {"runs": 2, "forgotten": 3, "losses": 2}
"""The small tables, with their number of columns."""


def salvage(damaged: Path, into: sqlite3.Connection) -> int:
    """Copy what is intact from the file `damaged` into a new, empty ledger; returns how many rows and calls that was."""
    source = read_only(damaged)
    try:
        into.execute("BEGIN IMMEDIATE")
        for table, columns in TABLES.items():
            marks = ", ".join("?" * columns)
            into.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", _small_table(source, table))  # noqa: S608
        into.executemany(INSERT, (row for row in _rows(source, COLUMNS, "results", "position") if is_intact(row)))
        calls = _rows(source, CALL_COLUMNS, "calls", "number")
        into.executemany(INSERT_CALL, (row for row in calls if to_call(row) is not None))
        into.execute("COMMIT")
    finally:
        source.close()
    return int(into.execute("SELECT (SELECT count(*) FROM results) + (SELECT count(*) FROM calls)").fetchone()[0])


def copy_with_first_page(damaged: Path, empty: Path, copy: Path) -> None:
    """Copy a ledger whose first page tells nothing any more, with that of an empty one: it names the same tables.

    They begin at the same pages in every ledger, for they are made at once and in one order. The page also has the number
    of pages, as a big-endian integer of 4 bytes at offset 28 (https://sqlite.org/fileformat2.html#the_database_header).
    """
    for suffix in ("", "-wal"):
        if damaged.with_name(damaged.name + suffix).exists():
            shutil.copyfile(damaged.with_name(damaged.name + suffix), copy.with_name(copy.name + suffix))
    with empty.open("rb") as head:
        page_bytes = int.from_bytes(head.read(18)[16:])
        head.seek(0)
        page = bytearray(head.read(page_bytes))
    page[28:32] = max(1, copy.stat().st_size // page_bytes).to_bytes(4)
    with copy.open("r+b") as stream:
        stream.write(page)


def _small_table(source: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    try:
        return source.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608  the names are ours
    except sqlite3.DatabaseError:
        return []


def _rows(source: sqlite3.Connection, columns: str, table: str, key: str) -> Iterator[Any]:
    """The rows that can be read: as they lie, then from the end up to what cannot be read. Some may come twice.

    They are not looked up by their place, for in a damaged file that may lead elsewhere, or in circles.
    """
    for direction in ("ASC", "DESC"):
        try:
            yield from source.execute(f"SELECT {columns} FROM {table} ORDER BY {key} {direction}")  # noqa: S608
        except sqlite3.DatabaseError:
            continue
        return
