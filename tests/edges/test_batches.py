"""The store of files and batches: durable, private, bounded, and nobody's names on the disk but its own."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.edges.batches import TOMBSTONE_SECONDS, BatchStore, Page, new_id
from penstock.errors import RunStopped, UsageError
from penstock.rules.batches import ENDED, BatchRequest, File, Kept, new_batch

NOW = 1_000_000
ASKED = BatchRequest(input_file_id="", endpoint="/v1/chat/completions", completion_window="24h")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The server's folder, not made yet."""
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> Iterator[BatchStore]:
    """A store that is open."""
    opened = BatchStore(data)
    yield opened
    opened.close()


def added(store: BatchStore, owner: str = "", content: bytes = b"x", expires_at: int | None = NOW + 100) -> File:
    """A file with its content."""
    written = store.new_content()
    written.write(content)
    file = File(
        id=new_id("file-"), bytes=written.size, created_at=NOW, expires_at=expires_at, filename="f", purpose="batch"
    )
    store.add_file(owner, file, written)
    return file


def batch_on(store: BatchStore, file: File, owner: str = "") -> Kept:
    """A batch over a file."""
    asked = msgspec.structs.replace(ASKED, input_file_id=file.id)
    kept = new_batch(new_id("batch_"), asked, NOW, owner)
    assert store.add_batch(kept, NOW)
    return kept


def names(store: BatchStore, folder: str = "files") -> set[str]:
    """What lies in a folder of it."""
    return {path.name for path in (store.content_path(new_id("file-")).parent.parent / folder).iterdir()}


# -- durable, private


def test_what_was_recorded_is_there_again(data: Path) -> None:
    """Files, contents and batches, after closing and opening."""
    first = BatchStore(data)
    file = added(first, content=b"\x00\xff\n")
    kept = batch_on(first, file)
    first.close()
    again = BatchStore(data)
    again.remove_strays()
    assert again.file("", file.id, NOW) == file
    assert again.content_path(file.id).read_bytes() == b"\x00\xff\n"
    assert again.live_batches() == [kept]
    again.close()


def test_every_commit_is_synced(store: BatchStore) -> None:
    """`synchronous=FULL` under a write-ahead log: what was told survives a loss of power."""
    connection = store._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_nobody_else_can_read_it(store: BatchStore, data: Path) -> None:
    """Folders 0700 and files 0600, its log too."""
    batch_on(store, added(store))
    under_way = store.new_content()
    under_way.write(b"under way")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.rglob("*")}
    assert len(modes) >= 7
    assert {mode for name, mode in modes.items() if name not in ("files", "batches")} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (data, data / "files", data / "batches")} == {0o700}
    under_way.discard()


def test_content_is_whole_or_not_there(store: BatchStore) -> None:
    """Until it is kept nobody finds it by its name; one that is discarded leaves nothing."""
    content = store.new_content()
    content.write(b"half")
    assert not [name for name in names(store) if name.startswith("file-")]
    content.discard()
    assert names(store) == set()


def test_content_is_on_the_disk_before_it_has_its_name(store: BatchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are synced, then the file gets its name, then the folder is synced, and only then it is recorded."""
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        steps.append("name")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(BatchStore, "_insert_file", lambda *_: steps.append("record"))
    added(store)
    assert steps == ["content", "name", "folder", "record"]


def test_two_servers_cannot_share_a_folder(store: BatchStore, data: Path) -> None:
    """The second is refused and told what to do; when the first is gone the next one is let in."""
    with pytest.raises(UsageError, match="another server"):
        BatchStore(data)
    store.close()
    BatchStore(data).close()
    store.__init__(data)  # type: ignore[misc] # for the fixture to close


@pytest.mark.parametrize("content", [b"no database at all" * 100, None])
def test_a_foreign_database_is_left_alone(data: Path, content: bytes | None) -> None:
    """Neither text nor another program's tables are written over."""
    data.mkdir()
    path = data / "batches.sqlite"
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE theirs (x)")
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--data"):
        BatchStore(data)
    assert path.read_bytes() == before


# -- tenancy and lists


def test_what_is_anothers_is_not_there(store: BatchStore) -> None:
    """Neither by its id, nor in a list, nor as a cursor; and it cannot be deleted or used."""
    file = added(store, "alice")
    kept = batch_on(store, file, "alice")
    assert store.file("bob", file.id, NOW) is None
    assert store.batch("bob", kept.batch.id) is None
    assert store.files("bob", NOW, Page(10)) == []
    assert store.batches("bob", Page(10)) == []
    assert not store.delete_file("bob", file.id, NOW)
    asked = msgspec.structs.replace(ASKED, input_file_id=file.id)
    assert not store.add_batch(new_batch(new_id("batch_"), asked, NOW, "bob"), NOW)
    with pytest.raises(KeyError):
        store.files("bob", NOW, Page(10, file.id))
    assert store.file("alice", file.id, NOW) == file


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10])
def test_pages_give_each_once_in_order(store: BatchStore, order: Any, limit: int) -> None:
    """Also where all were made in the same second."""
    made = [added(store) for _ in range(7)]
    seen, after = [], None
    while True:
        page = store.files("", NOW, Page(limit, after, order))
        seen += page[:limit]
        if len(page) <= limit:
            break
        after = seen[-1].id
    assert seen == (made if order == "asc" else made[::-1])


def test_a_file_that_was_deleted_still_serves_as_a_cursor(store: BatchStore) -> None:
    """Deleting page by page comes to the end; a day later the place is forgotten."""
    first, second, third = (added(store) for _ in range(3))
    assert store.delete_file("", second.id, NOW)
    assert store.files("", NOW, Page(10, second.id)) == [first]
    store.sweep(NOW + TOMBSTONE_SECONDS + 1)
    with pytest.raises(KeyError):
        store.files("", NOW, Page(10, second.id))
    assert third.id not in names(store), "it has expired meanwhile"


def test_lists_by_purpose(store: BatchStore) -> None:
    """Only files of that purpose."""
    file = added(store)
    assert store.files("", NOW, Page(10), "batch") == [file]
    assert store.files("", NOW, Page(10), "batch_output") == []


# -- what goes


def test_what_has_expired_is_gone_at_once_and_swept_later(store: BatchStore) -> None:
    """Neither found nor listed from its last second on; its content goes with the next sweep."""
    file, eternal = added(store), added(store, expires_at=None)
    assert store.file("", file.id, NOW + 99) == file
    assert store.file("", file.id, NOW + 100) is None
    assert store.files("", NOW + 100, Page(10)) == [eternal]
    assert names(store) == {file.id, eternal.id}
    store.sweep(NOW + 100)
    assert names(store) == {eternal.id}


@pytest.mark.parametrize("how", ["deleted", "expired"])
def test_a_batch_under_way_keeps_its_input(store: BatchStore, how: str) -> None:
    """The file is gone for everybody, and its content stays until the batch has ended."""
    file = added(store)
    kept = batch_on(store, file)
    later = NOW + 1_000
    if how == "deleted":
        assert store.delete_file("", file.id, NOW)
    store.sweep(later)
    assert store.file("", file.id, later) is None
    assert names(store) == {file.id}
    store.save_batch(kept.moved("bad input", later))
    store.sweep(later)
    assert names(store) == set()


@pytest.mark.parametrize("status", sorted(ENDED))
def test_a_batch_that_has_ended_lets_go_of_its_ledger(store: BatchStore, status: Any) -> None:
    """Its record stays, and the files that came of it appear with it."""
    kept = batch_on(store, added(store))
    ledger = store.ledger_path(kept.batch.id)
    for suffix in ("", "-wal", ".lock", ".slots", ".damaged-1"):
        ledger.with_name(ledger.name + suffix).write_bytes(b"x")
    output = msgspec.structs.replace(added(store), id=new_id("file-"), purpose="batch_output")
    ended = kept.changed(status=status)
    store.save_batch(ended, [(output, store.new_content())])
    assert names(store, "batches") == set()
    assert store.batch("", kept.batch.id) == ended
    assert store.file("", output.id, NOW) == output
    assert store.live_batches() == []


def test_what_a_crash_left_is_removed(store: BatchStore, data: Path) -> None:
    """Contents without a record, halves, ledgers of batches that have ended; nothing else."""
    file = added(store)
    kept = batch_on(store, file)
    store.ledger_path(kept.batch.id).write_bytes(b"x")
    stray = store.new_content()
    stray.write(b"x")
    stray.keep(new_id("file-"))
    half = store.new_content()
    half.sync()
    store.ledger_path(new_id("batch_")).write_bytes(b"x")
    store.remove_strays()
    assert names(store) == {file.id}
    assert names(store, "batches") == {store.ledger_path(kept.batch.id).name}


def test_a_folder_that_was_somebodys_before_is_left_alone(data: Path) -> None:
    """What has no name of ours is not removed, whatever it is."""
    for folder in (data / "files", data / "batches"):
        (folder / "file-of-mine").mkdir(parents=True)
        for name in ("thesis.txt", ".hidden", "file-1", "batch_notes.ledger", "file-0123456789abcdef01234567.txt"):
            (folder / name).write_text("mine")
    store = BatchStore(data)
    store.remove_strays()
    store.sweep(NOW)
    assert len(names(store)) == len(names(store, "batches")) == 6
    store.close()


# -- paths

HOSTILE = [
    *("", ".", "..", "/", "/etc/passwd", "../../../../etc/passwd", "file-", "batch_", "batch_\x00", "file-*"),
    *("file-0123456789abcdef0123456/", "file-/../0123456789abcdef012", "file-0123456789abcdef01234567/../../x"),
    *("FILE-0123456789abcdef01234567", "file-0123456789abcdef01234567\n", "file-\x00123456789abcdef01234567"),
    *("file-\uff10\uff11\uff12\uff13456789abcdef01234567", "~", "C:\\x", "file-" + "a" * 5000, "batch_../files/x"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_but_ours_becomes_a_path(store: BatchStore, name: str) -> None:
    """Whatever comes in place of an id is refused before the disk is asked; a look-up finds nothing."""
    for path_of in (store.content_path, store.ledger_path):
        with pytest.raises(ValueError, match="not an id"):
            path_of(name)
    content = store.new_content()
    with pytest.raises(ValueError, match="not an id"):
        content.keep(name)
    content.discard()
    assert store.file("", name, NOW) is None
    assert store.batch("", name) is None
    assert not store.delete_file("", name, NOW)


def test_ids_are_not_to_be_guessed() -> None:
    """96 bits of chance each."""
    assert len({new_id("file-") for _ in range(1_000)}) == 1_000


# -- the disk refuses


def test_a_disk_that_refuses_is_told_as_such(store: BatchStore) -> None:
    """`RunStopped("disk")`: nothing of the transaction counts, and nothing of the content is left."""
    file = added(store)
    kept = batch_on(store, file)
    store._connection.execute("PRAGMA query_only=1")
    another = msgspec.structs.replace(file, id=new_id("file-"))
    for refused in (
        lambda: store.add_file("", another, store.new_content()),
        lambda: store.save_batch(kept.moved("cancel", NOW), [(another, store.new_content())]),
    ):
        with pytest.raises(RunStopped) as stopped:
            refused()
        assert stopped.value.reason == "disk"
    store._connection.execute("PRAGMA query_only=0")
    assert store.files("", NOW, Page(10)) == [file]
    assert names(store) == {file.id}
    assert store.live_batches() == [kept]


def test_an_id_that_is_taken_is_refused(store: BatchStore) -> None:
    """Two records never share one: the first stays as it was."""
    file = added(store, "alice", b"hers")
    with pytest.raises(RunStopped):
        store.add_file("bob", msgspec.structs.replace(file, filename="bob's"), store.new_content())
    assert store.file("alice", file.id, NOW) == file
    assert store.content_path(file.id).read_bytes() == b"hers"
