"""What all that is kept in SQLite has in common. No edge of its own: it is told which connection, and knows none of the stores."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """What a database says that it is, and how many tables and indices it has: none where it is new."""

    application: int
    version: int
    tables: int


def connect(path: Path, set_up: Callable[[sqlite3.Connection, Path], None]) -> sqlite3.Connection:
    """A connection that begins no transaction by itself, set up; closed again where that fails."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        set_up(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def found_in(connection: sqlite3.Connection) -> Found:
    """What is there already."""
    queries = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    return Found(*(connection.execute(query).fetchone()[0] for query in queries))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
