"""Files and batches of a server on the disk: records in `batches.sqlite`, contents under names of ours, ledgers beside them.

    DIR/batches.sqlite, .lock    what there is, durably: WAL, `synchronous=FULL`; one server at a time
    DIR/files/file-...           contents, whole or not there at all
    DIR/batches/batch_....ledger what the batches under way have recorded; gone when their files are written

It decides what lies where and when it goes. It never decides what becomes of a batch. Every method blocks: call them from one
thread. No text of a user's ever becomes part of a path: ids are ours, and checked before they become one.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from penstock.edges._sqlite import connect, found_in, transaction
from penstock.errors import RunStopped, UsageError
from penstock.rules.batches import BATCH_ID, ENDED, FILE_ID, File, Kept

APPLICATION = 0x504E4254
VERSION = 1
_OURS = re.compile(rf"{FILE_ID.pattern}|\.[0-9a-f]{{24}}\.part|{BATCH_ID.pattern}\.ledger.*", re.ASCII)
TOMBSTONE_SECONDS = 24 * 3600
"""How long a file that is gone still serves as a place in a list: whoever deletes page by page asks for what follows it."""

SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, purpose TEXT NOT NULL,
    expires_at INTEGER, deleted_at INTEGER, has_content INTEGER NOT NULL DEFAULT 1, record BLOB NOT NULL
);
CREATE TABLE batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, input_file_id TEXT NOT NULL,
    live INTEGER NOT NULL, record BLOB NOT NULL
);
CREATE INDEX files_of ON files (owner, number);
CREATE INDEX batches_of ON batches (owner, number);
CREATE INDEX batches_live ON batches (number) WHERE live;
"""
_LIVE_INPUTS = "SELECT input_file_id FROM batches WHERE live"
_GONE = "(deleted_at IS NOT NULL OR expires_at <= :now)"

_encode = msgspec.json.Encoder().encode
_decode_file = msgspec.json.Decoder(File).decode
_decode_batch = msgspec.json.Decoder(Kept).decode


def new_id(prefix: str) -> str:
    """A name that nobody can guess."""
    return prefix + os.urandom(12).hex()


class Page(NamedTuple):
    """What of a list is wanted: at most `limit`, those that follow the id `after`."""

    limit: int
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


class Content:
    """The content of a file that is being written: nobody finds it before the store has recorded it. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{new_id('.')}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._stream = os.fdopen(os.open(self._path, flags, 0o600), "wb", buffering=1 << 18)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append."""
        self.size += self._stream.write(data)

    def sync(self) -> None:
        """Make what was written durable. There is no more to come."""
        if not self._stream.closed:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()

    def keep(self, file_id: str) -> None:
        """Give it its name, durably."""
        path = _named(self._folder, file_id)
        if path.exists():
            raise FileExistsError(f"{path} is there already")
        self.sync()
        self._path.rename(path)
        self._path = path
        _sync_folder(self._folder)

    def discard(self) -> None:
        """Forget it, whatever name it has. Calling it twice does no harm."""
        try:
            self._stream.close()
        except OSError:
            pass  # what could not be written is thrown away anyway
        self._path.unlink(missing_ok=True)


New: TypeAlias = tuple[File, Content]
"""A file to be recorded, and its content."""


class BatchStore:
    """The files and batches of one server. Raises `UsageError` where they cannot be had: another server, another's file.

    `owner` is whose request it is; what belongs to others is not there. Where the disk refuses, `RunStopped("disk")` is raised.
    """

    def __init__(self, data: Path) -> None:
        self._contents, self._ledgers = data / "files", data / "batches"
        with _disk_trouble():
            for folder in (data, self._contents, self._ledgers):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(data / "batches.lock")
        try:
            self._connection = _connected(data / "batches.sqlite")
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()
        os.close(self._lock)

    # -- files

    def new_content(self) -> Content:
        """The content of a file to come. May be called, and used, from any thread."""
        with _disk_trouble():
            return Content(self._contents)

    def content_path(self, file_id: str) -> Path:
        """Where the content of a file lies."""
        return _named(self._contents, file_id)

    def add_file(self, owner: str, file: File, content: Content) -> None:
        """Keep a content and record the file; nothing is left of it where that fails."""
        with _all_or_nothing([(file, content)]), self._transaction():
            self._insert_file(owner, file)

    def file(self, owner: str, file_id: str, now: int) -> File | None:
        """A file that is there."""
        query = f"SELECT record FROM files WHERE id = :id AND owner = :owner AND NOT coalesce({_GONE}, 0)"  # noqa: S608
        with _disk_trouble():
            row = self._connection.execute(query, {"id": file_id, "owner": owner, "now": now}).fetchone()
        return _decode_file(row[0]) if row is not None else None

    def files(self, owner: str, now: int, page: Page, purpose: str | None = None) -> list[File]:
        """A page of the files that are there, and one more where there are more. Raises KeyError for an unknown `after`."""
        wanted = f"NOT coalesce({_GONE}, 0) AND (:purpose IS NULL OR purpose = :purpose)"
        rows = self._page("files", owner, page, wanted, {"now": now, "purpose": purpose})
        return [_decode_file(row) for row in rows]

    def delete_file(self, owner: str, file_id: str, now: int) -> bool:
        """Forget a file; false where there is none. Its content stays for as long as a batch needs it."""
        if self.file(owner, file_id, now) is None:
            return False
        with self._transaction():
            self._connection.execute("UPDATE files SET deleted_at = ? WHERE id = ?", (now, file_id))
        self.sweep(now)
        return True

    # -- batches

    def ledger_path(self, batch_id: str) -> Path:
        """Where the ledger of a batch lies while it is under way."""
        return _named(self._ledgers, batch_id).with_suffix(".ledger")

    def add_batch(self, kept: Kept, now: int) -> bool:
        """Record a new batch; false where its input is gone. From then on the input's content stays until the batch has ended."""
        batch = kept.batch
        if self.file(kept.owner, batch.input_file_id, now) is None:
            return False
        query = "INSERT INTO batches (id, owner, input_file_id, live, record) VALUES (?, ?, ?, 1, ?)"
        with self._transaction():
            self._connection.execute(query, (batch.id, kept.owner, batch.input_file_id, _encode(kept)))
        return True

    def save_batch(self, kept: Kept, files: Sequence[New] = ()) -> None:
        """Record how it stands, together with the files that came of it. One that has ended lets go of its ledger.

        Where that fails nothing is left of the files.
        """
        live = kept.batch.status not in ENDED
        query = "UPDATE batches SET live = ?, record = ? WHERE id = ?"
        with _all_or_nothing(files), self._transaction():
            for file, _ in files:
                self._insert_file(kept.owner, file)
            self._connection.execute(query, (live, _encode(kept), kept.batch.id))
        if not live:
            with _disk_trouble():
                self._remove_ledger(kept.batch.id)

    def batch(self, owner: str, batch_id: str) -> Kept | None:
        """A batch as it was saved last."""
        query = "SELECT record FROM batches WHERE id = ? AND owner = ?"
        with _disk_trouble():
            row = self._connection.execute(query, (batch_id, owner)).fetchone()
        return _decode_batch(row[0]) if row is not None else None

    def batches(self, owner: str, page: Page) -> list[Kept]:
        """A page of batches, and one more where there are more. Raises KeyError for an unknown `after`."""
        return [_decode_batch(row) for row in self._page("batches", owner, page, "1", {})]

    def live_batches(self) -> list[Kept]:
        """Everybody's batches that have not ended, the oldest first."""
        with _disk_trouble():
            rows = self._connection.execute("SELECT record FROM batches WHERE live ORDER BY number").fetchall()
        return [_decode_batch(row[0]) for row in rows]

    # -- what goes

    def sweep(self, now: int) -> None:
        """Remove the contents of files that are gone and that no batch under way needs, and then their last traces."""
        gone = f"SELECT id FROM files WHERE has_content AND {_GONE} AND id NOT IN ({_LIVE_INPUTS})"  # noqa: S608
        last = "DELETE FROM files WHERE NOT has_content AND coalesce(deleted_at, expires_at) < ?"
        with _disk_trouble():
            ids = [row[0] for row in self._connection.execute(gone, {"now": now})]
            for file_id in ids:
                self.content_path(file_id).unlink(missing_ok=True)
            with self._transaction():
                self._connection.executemany("UPDATE files SET has_content = 0 WHERE id = ?", [(name,) for name in ids])
                self._connection.execute(last, (now - TOMBSTONE_SECONDS,))

    def remove_strays(self) -> None:
        """Remove what a crash left: contents that no record tells of, ledgers of batches that have ended.

        What has no name of ours is left alone: the folder may have been somebody's before.
        """
        with _disk_trouble():
            known = {row[0] for row in self._connection.execute("SELECT id FROM files WHERE has_content")}
            known |= {row[0] for row in self._connection.execute("SELECT id FROM batches WHERE live")}
            for path in (*self._contents.iterdir(), *self._ledgers.iterdir()):
                if _OURS.fullmatch(path.name) and path.name.partition(".")[0] not in known:
                    path.unlink()

    def _remove_ledger(self, batch_id: str) -> None:
        for path in self._ledgers.glob(f"{batch_id}.*"):
            path.unlink(missing_ok=True)

    # -- within

    def _insert_file(self, owner: str, file: File) -> None:
        query = "INSERT INTO files (id, owner, purpose, expires_at, record) VALUES (?, ?, ?, ?, ?)"
        self._connection.execute(query, (file.id, owner, file.purpose, file.expires_at, _encode(file)))

    def _page(
        self, table: str, owner: str, page: Page, wanted: str, values: dict[str, str | int | None]
    ) -> list[bytes]:
        later, direction = (">", "ASC") if page.order == "asc" else ("<", "DESC")
        place = f"SELECT number FROM {table} WHERE id = ? AND owner = ?"  # noqa: S608  names of our own
        query = (
            f"SELECT record FROM {table} WHERE owner = :owner AND {wanted}"  # noqa: S608
            f" AND (:at IS NULL OR number {later} :at) ORDER BY number {direction} LIMIT :most"
        )
        with _disk_trouble():
            at = None
            if page.after is not None:
                found = self._connection.execute(place, (page.after, owner)).fetchone()
                if found is None:
                    raise KeyError(page.after)
                at = found[0]
            told = {"owner": owner, "at": at, "most": page.limit + 1, **values}
            return [row[0] for row in self._connection.execute(query, told)]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _disk_trouble(), transaction(self._connection):
            yield


@contextmanager
def _disk_trouble() -> Iterator[None]:
    """What SQLite and the system say about the disk, as what ends a run until it is mended."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise RunStopped(
            "disk", f"the server's disk would not take or give back files and batches ({error})"
        ) from error


@contextmanager
def _all_or_nothing(files: Sequence[New]) -> Iterator[None]:
    """Keep the contents first: a record without its content would be a lie. What a crash leaves between is a stray."""
    try:
        with _disk_trouble():
            for file, content in files:
                content.keep(file.id)
        yield
    except BaseException:
        for _, content in files:
            content.discard()
        raise


def _named(folder: Path, name: str) -> Path:
    """A path in a folder of ours. Whatever is no id of ours is refused: it must never have come so far."""
    if not (FILE_ID.fullmatch(name) or BATCH_ID.fullmatch(name)):
        raise ValueError("not an id of a file or a batch")
    return folder / name


def _locked(path: Path) -> int:
    """A descriptor that holds the lock; raises `UsageError` where another server has it."""
    with _disk_trouble():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(
            f"another server keeps its files and batches in {path.parent}: name another folder by --data"
        ) from error
    return descriptor


def _connected(path: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return connect(path, _set_up)
    except sqlite3.OperationalError as error:
        raise RunStopped("disk", f"{path} cannot be opened ({error})") from error
    except (sqlite3.DatabaseError, OSError) as error:
        raise UsageError(f"{path} cannot be used ({error}): move it away, or name another folder by --data") from error


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    found = found_in(connection)
    if found.tables and (found.application, found.version) != (APPLICATION, VERSION):
        raise UsageError(
            f"{path} is another program's, or of another version of Penstock: name another folder by --data"
        )
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "fullfsync=1", "checkpoint_fullfsync=1"):
        connection.execute(f"PRAGMA {pragma}")
    if not found.tables:
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
