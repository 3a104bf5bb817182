"""A disk that can be watched, can fail at a chosen call, and can lose its power.

The watching is done by `disk_shim.c`, preloaded into a process of its own. `Disk` is the model of what survives: contents
count from a sync of the file on, names from a sync of the folder on; what a failed sync was to write may be lost for ever.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

SOURCE = Path(__file__).with_name("disk_shim.c")
HEAD = struct.Struct("<IIQQII")
WRITE, TRUNCATE, SYNC, CREATE, RENAME, UNLINK, MARK = range(1, 8)
EIO_ONCE, FULL_FROM_THEN_ON, SHORT_THEN_FULL, EIO_FROM_THEN_ON, KILLED = range(1, 6)
"""How calls fail that change something, or that the process dies before one: the numbers of `enum fault`."""

EIO_READING_ONCE, EIO_READING_FROM_THEN_ON = range(6, 8)
"""How calls fail that read; where one of these is set, only such calls are counted."""

SECTOR_BYTES = 512
FOLDER = -1
UNRECORDED = ("-shm", ".slots", ".lock")
"""SQLite builds its index anew after a crash; marks are mapped, so the program tells of them itself; a lock has no content."""


def built_shim(folder: Path) -> Path:
    """The shim as a library in `folder`; skips the test where there is no C compiler, but not in CI."""
    compiler = shutil.which("cc")
    if compiler is None:
        reason = "the tests of the disk need a C compiler named cc: install gcc or clang"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    library = folder / "disk_shim.so"
    compilation = [compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"]
    done = subprocess.run(compilation, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def without_privilege() -> list[str]:
    """Starts a command for which the permissions of files count, also where these tests are run by root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("run by root, and without setpriv no folder is read-only for root")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


class Shim:
    """The shim as the process sees it that has it preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.disk_calls.restype = ctypes.c_long
        self._library.disk_fail.argtypes = (ctypes.c_int, ctypes.c_long)
        self._library.disk_mark.argtypes = (ctypes.c_char_p, ctypes.c_size_t)

    def watch(self, folder: Path, record: Path | None = None) -> None:
        """Count the calls on files in `folder` from now on, and append them to `record`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._library.disk_watch(os.fsencode(folder), -1 if record is None else os.open(record, flags))

    def mark(self, told: object) -> None:
        """Put what the program tells between its calls."""
        text = msgspec.json.encode(told)
        self._library.disk_mark(text, len(text))

    def fail(self, how: int, at: int) -> None:
        """Let the `at`-th call from now on fail; 0 for none."""
        self._library.disk_fail(how, at)

    def calls(self) -> int:
        """How many calls there were since `fail`."""
        return int(self._library.disk_calls())


class Call(msgspec.Struct, frozen=True):
    """One recorded call; `offset` is also the size of a truncation, `data` also the new name of a renaming."""

    kind: int
    error: int
    inode: int
    offset: int
    name: str
    data: bytes


def calls_in(record: Path) -> list[Call]:
    """What was recorded, without what no crash is about."""
    return [call for call in _calls(record.read_bytes()) if not call.name.endswith(UNRECORDED)]


def _calls(content: bytes) -> Iterator[Call]:
    at = 0
    while at < len(content):
        kind, error, inode, offset, name_bytes, data_bytes = HEAD.unpack_from(content, at)
        at += HEAD.size
        name, data = content[at : at + name_bytes], content[at + name_bytes : at + name_bytes + data_bytes]
        at += name_bytes + data_bytes
        yield Call(kind, error, inode, offset, name.decode(), data)


class Change(msgspec.Struct):
    """A change of a file's content. `sure` once it was synced; `doomed` where that sync failed: no later one helps."""

    offset: int
    data: bytes | None
    sure: bool = False
    doomed: bool = False

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            content[self.offset :] = bytes(max(0, self.offset - len(content)))
        else:
            content.extend(bytes(max(0, self.offset - len(content))))
            content[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, chance: Random) -> Iterator[Change]:
        """Some of the sectors that it was to write."""
        data = self.data or b""
        for start in range(0, len(data), SECTOR_BYTES):
            if chance.random() < 0.5:
                yield Change(self.offset + start, data[start : start + SECTOR_BYTES])


class File:
    """What was done to one file, and what of it is sure."""

    def __init__(self) -> None:
        self._sure = bytearray()
        self._changes: list[Change] = []

    def add(self, change: Change) -> None:
        self._changes.append(change)

    def sync(self, *, failed: bool) -> None:
        for change in self._changes:
            change.doomed = change.doomed or failed
            change.sure = not change.doomed
        while self._changes and self._changes[0].sure:
            self._changes.pop(0).apply(self._sure)

    def survives(self, chance: Random, keep: float) -> bytes:
        """Its content after a loss of power, if each change that is not sure is kept with the probability `keep`."""
        content = bytearray(self._sure)
        for change in self._changes:
            if change.sure or chance.random() < keep:
                change.apply(content)
            elif change.data is not None and chance.random() < 0.2:
                for part in change.torn(chance):
                    part.apply(content)
        return bytes(content)


class Disk:
    """A folder as the calls made it: `do` them one by one, ask at any time what a loss of power would leave."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._files: list[File] = []
        self._sure: dict[str, int] = {}
        self._renamings: list[tuple[str, str | int | None]] = []

    def do(self, call: Call) -> None:
        """Take in the next call."""
        if call.kind == CREATE:
            self._numbers[call.inode] = len(self._files)
            self._files.append(File())
            self._renamings.append((call.name, self._numbers[call.inode]))
        elif call.kind == RENAME:
            self._renamings.append((call.name, call.data.decode()))
        elif call.kind == UNLINK:
            self._renamings.append((call.name, None))
        elif call.kind == SYNC and call.name == "":
            self._sync_names(failed=bool(call.error))
        elif call.kind in (WRITE, TRUNCATE, SYNC):
            self._change(self._files[self._numbers[call.inode]], call)

    def _change(self, file: File, call: Call) -> None:
        if call.kind == SYNC:
            file.sync(failed=bool(call.error))
        else:
            file.add(Change(call.offset, call.data if call.kind == WRITE else None))

    def _sync_names(self, *, failed: bool) -> None:
        if not failed:
            self._sure = self._names(len(self._renamings))
            self._renamings.clear()

    def _names(self, count: int) -> dict[str, int]:
        """The names after so many changes: file systems keep the order of these, so it is a prefix that survives."""
        names = dict(self._sure)
        for name, becomes in self._renamings[:count]:
            if isinstance(becomes, int):
                names[name] = becomes
            elif (number := names.pop(name, None)) is not None and becomes is not None:
                names[becomes] = number
        return names

    def survives(self, chance: Random) -> dict[str, bytes]:
        """Name and content of each file after a loss of power here; nothing, everything or some of what was not synced is lost."""
        keep = chance.choice([0.0, 0.3, 0.7, 0.9, 1.0])
        names = self._names(chance.choice([0, len(self._renamings), chance.randint(0, len(self._renamings))]))
        return {name: self._files[number].survives(chance, keep) for name, number in names.items()}
