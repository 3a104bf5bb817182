"""What the complaints of SQLite and of the disk mean: trouble of the disk, or damage of the file.

It decides which of the two it is, never what is done about it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from penstock.errors import LedgerFailed

T = TypeVar("T")
BLOCK_BYTES = 1 << 20


@contextmanager
def disk_trouble(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say about the disk into what a user can do."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        raise LedgerFailed(
            f"the ledger {path} cannot be read or written ({error}): make room or mend the disk, "
            "then run the same command again; what was recorded is safe"
        ) from error


def sure_of_damage(path: Path, read: Callable[[], T]) -> T:
    """What `read` reads of a ledger. Raises `sqlite3.DatabaseError` only where the file itself is damaged.

    SQLite says "malformed" also where the disk failed to give a page back (SQLITE_IOERR_CORRUPTFS becomes SQLITE_CORRUPT,
    https://sqlite.org/rescode.html#ioerr_corruptfs). Good rows must not be given up for that: what the disk gives back
    the second time is taken, and where it does not give the file back `LedgerFailed` is raised.
    """
    try:
        return read()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        require_readable(path)
        return read()


def read_only(path: Path, how: str = "mode=ro") -> sqlite3.Connection:
    """A connection that changes nothing; `how` is a parameter of https://sqlite.org/uri.html. A name may have any character."""
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?{how}", uri=True, timeout=10)


def require_readable(path: Path) -> None:
    """Raise `LedgerFailed` where the disk does not give back each byte of the ledger and its log."""
    with disk_trouble(path):
        for file in (path, path.with_name(f"{path.name}-wal")):
            if file.exists():
                _read_through(file)


def _read_through(file: Path) -> None:
    with file.open("rb", buffering=0) as stream:
        while stream.read(BLOCK_BYTES):
            pass
