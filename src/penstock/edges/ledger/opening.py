"""How a ledger's files come to be, are opened and are replaced. Whoever calls holds the lock; dying at any line is safe.

It decides which file bears the ledger's name; what is in it is decided by `store` and `salvage`.
"""

from __future__ import annotations

import os
import sqlite3
from itertools import count
from pathlib import Path
from typing import NamedTuple

from penstock.edges._sqlite import connect, found_in
from penstock.edges.ledger.salvage import copy_with_first_page, salvage
from penstock.edges.ledger.schema import APPLICATION, SCHEMA, VERSION
from penstock.edges.ledger.slots import marks_in
from penstock.edges.ledger.trouble import BLOCK_BYTES, disk_trouble, read_only, require_readable, sure_of_damage
from penstock.errors import LedgerFailed, UsageError

PRAGMAS = ("synchronous=FULL", "fullfsync=1", "checkpoint_fullfsync=1", "wal_autocheckpoint=4000")
LOG = "-wal"
COMPANIONS = (LOG, "-shm", "")
"""The files of one database; the database itself last, so that it is never without its log."""
BEGUN = ".begun"
"""An empty file beside a ledger that was set aside, until the next one has its name: OUTPUT is not without its ledger then."""


def beside(path: Path, suffix: str) -> Path:
    """The companion file of a ledger."""
    return path.with_name(path.name + suffix)


def has_ledger(path: Path) -> bool:
    """Whether a ledger of that name exists, be it in the middle of a swap, or set aside with the next one to begin."""
    return any(beside(path, suffix).exists() for suffix in ("", ".salvaged", BEGUN))


class Opened(NamedTuple):
    """A ledger's connection, and what `replace_damaged` returned where nothing could be read of the file before."""

    connection: sqlite3.Connection
    damaged: Path | None = None
    salvaged: int = 0


class _Unreadable(UsageError):
    """A file of which SQLite can make nothing: foreign, or a ledger that was damaged where it is read first."""


def open_ledger(path: Path) -> Opened:
    """The ledger of that name, made if there is none.

    Raises `UsageError` for a file that is no ledger, `LedgerFailed` where the disk refuses.
    """
    with disk_trouble(path):
        finish_swap(path)
        _write_log_again(beside(path, LOG))
    try:
        opened = Opened(_open(path))
    except _Unreadable:
        if not marks_in(beside(path, ".slots")).run:
            raise
        # The marks beside it say that it was a ledger.
        with disk_trouble(path):
            damaged, rows = replace_damaged(path)
        opened = Opened(_open(path), damaged, rows)
    try:
        with disk_trouble(path):
            sync_folder(path.parent)
            beside(path, BEGUN).unlink(missing_ok=True)
    except BaseException:
        opened.connection.close()
        raise
    return opened


def _open(path: Path) -> sqlite3.Connection:
    made_here = not path.exists()
    try:
        with disk_trouble(path):
            if made_here:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return sure_of_damage(path, lambda: connect(path, _set_up))
    except LedgerFailed as failed:
        error = failed.__cause__
        foreign = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        if foreign and not made_here:
            raise _Unreadable(
                f"{path} is not a ledger of Penstock, or is damaged ({error}): move it away, or start over with --fresh"
            ) from error
        raise


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    application, version, tables = found_in(connection)
    if tables and application != APPLICATION:
        raise UsageError(f"{path} is another program's database: choose another output")
    if tables and version != VERSION:
        raise UsageError(
            f"{path} was written by another version of Penstock (format {version}, not {VERSION}): go on with that one, "
            "or start over with --fresh, which keeps it under another name"
        )
    if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
        raise LedgerFailed(f"{path.parent} does not allow a write-ahead log: use a local disk")
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    if not tables:
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")


def _write_log_again(log: Path) -> None:
    """Make durable what a run that died left in its log.

    A sync that failed leaves pages that the system holds for written and the disk never saw: a later sync does not write
    them, and a loss of power would cut the log there, with everything that was committed after it.
    """
    if not log.exists() or not log.stat().st_size:
        return
    descriptor = os.open(log, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(0, os.fstat(descriptor).st_size, BLOCK_BYTES):
            os.pwrite(descriptor, os.pread(descriptor, BLOCK_BYTES, offset), offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_aside(path: Path) -> Path | None:
    """Give an old ledger another name, so that a new one can begin; None where there was none."""
    with disk_trouble(path):
        finish_swap(path)
        if not path.exists():
            return None
        _fold_log(path)
        os.close(os.open(beside(path, BEGUN), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)
        new = next(name for n in count(1) if not (name := beside(path, f".{n}")).exists())
        for suffix in (".slots", *COMPANIONS):
            _rename(beside(path, suffix), beside(new, suffix))
        sync_folder(path.parent)
    return new


def _fold_log(path: Path) -> None:
    """Bring the log into the file, so that one rename moves all; a file that cannot be opened keeps its log beside it."""
    try:
        _write_log_again(beside(path, LOG))
        connection = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return


def replace_damaged(path: Path) -> tuple[Path, int]:
    """Let a new ledger, with all that can be read and vouched for, take the name of a damaged one.

    Returns the name that the damaged file has now, and how many rows were salvaged. The new ledger is complete before
    either file is renamed, and a swap that was begun is finished at the next opening.
    """
    part, copy = beside(path, ".salvage-part"), beside(path, ".salvage-copy")
    _remove(part, copy)
    new = _open(part)
    try:
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        source = path
        if not _has_tables(path):
            copy_with_first_page(path, part, copy)
            source = copy
        rows = salvage(source, new)
        require_readable(path)  # a page that the disk did not give back is no damage: its rows may be whole
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        new.close()
    _remove(copy)
    _sync_file(part)
    part.rename(beside(path, ".salvaged"))
    sync_folder(path.parent)
    damaged = finish_swap(path)
    assert damaged is not None
    return damaged, rows


def _remove(*databases: Path) -> None:
    for database in databases:
        for suffix in COMPANIONS:
            beside(database, suffix).unlink(missing_ok=True)


def _has_tables(path: Path) -> bool:
    try:
        connection = read_only(path)
        try:
            return bool(connection.execute("SELECT count(*) FROM results WHERE position < 0").fetchall())
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return False


def finish_swap(path: Path) -> Path | None:
    """Finish what `replace_damaged` began; returns the name of the damaged file, None where there is nothing to finish."""
    salvaged = beside(path, ".salvaged")
    if not salvaged.exists():
        return None
    damaged = next(name for n in count(1) if not (name := beside(path, f".damaged-{n}")).exists())
    for suffix in COMPANIONS:
        _rename(beside(path, suffix), beside(damaged, suffix))
    sync_folder(path.parent)
    salvaged.rename(path)
    sync_folder(path.parent)
    return damaged


def _rename(old: Path, new: Path) -> None:
    if old.exists():
        old.rename(new)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names of files in it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
