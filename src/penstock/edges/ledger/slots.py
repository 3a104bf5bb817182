"""Which rows are being sent, how often, and how many are known to be committed: marks that survive `kill -9`, at no cost.

A mapped file keeps what was written to it when the process dies (the kernel owns the page). After a power loss the marks
are only an upper bound. A mark that awaited SQLite was measured at 96-143 us a call; this is a store to memory.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec

from penstock.errors import LedgerFailed

MAGIC = b"PNSTKSL1"
HEADER = struct.Struct("<8sQQQQ")
SLOT = struct.Struct("<Q")
FIRST_SLOT = 64
SLOTS = 1 << 16
SENDS_FROM_BIT = 44
"""A slot holds `sends << 44 | index + 1`; zero is free. An index has 40 bits."""

MOST_RUNS, MOST_SESSIONS, MOST_ROWS = 1 << 22, 1 << 62, 1 << 40
"""A header beyond these was never written by us. It has no checksum: `kill -9` may come between two of its fields."""


class Marks(msgspec.Struct, frozen=True):
    """What a slot file says: of which run, and for each row how many sends may be billed without an answer."""

    run: int
    sends: dict[int, int]


def marks_in(path: Path) -> Marks:
    """The marks in a slot file, whoever has it open; none where there is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Marks(0, {})
    if len(content) < FIRST_SLOT or not content.startswith(MAGIC):
        return Marks(0, {})
    whole = FIRST_SLOT + (len(content) - FIRST_SLOT) // SLOT.size * SLOT.size
    return Marks(_header(content)[0], _sends(content[FIRST_SLOT:whole]))


def _header(content: bytes | mmap.mmap) -> tuple[int, int, int, int]:
    """Run, session, committed rows and committed calls; zeros where the header is none of ours."""
    magic, run, session, committed, calls = HEADER.unpack_from(content)
    ours = magic == MAGIC and run < MOST_RUNS and session < MOST_SESSIONS and max(committed, calls) <= MOST_ROWS
    return (run, session, committed, calls) if ours else (0, 0, 0, 0)


def _sends(slots: bytes) -> dict[int, int]:
    rows = (1 << SENDS_FROM_BIT) - 1
    marks = (mark for (mark,) in SLOT.iter_unpack(slots) if 0 < mark & rows <= MOST_ROWS)
    return {(mark & rows) - 1: mark >> SENDS_FROM_BIT for mark in marks}


class Slots:
    """The slot file of one ledger, held by the run that writes it."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            size = max(FIRST_SLOT + SLOTS * SLOT.size, os.fstat(self._descriptor).st_size)
            size += -(size - FIRST_SLOT) % SLOT.size
            _take_room(self._descriptor, size)
            self._map = mmap.mmap(self._descriptor, size)
        except OSError as error:
            reason = f"cannot write {path}: {error.strerror}"
            raise LedgerFailed(f"{reason}; mend that, then run the same command again") from error
        self.run, self.session, self.committed, self.calls = _header(self._map)
        self._free = list(range(len(self._map) - SLOT.size, FIRST_SLOT - 1, -SLOT.size))
        self._held: dict[int, int] = {}
        """Where the mark of a row stands."""

    def left_over(self) -> Marks:
        """What a run that died was sending."""
        return Marks(self.run, _sends(self._map[FIRST_SLOT:]))

    def under_way(self) -> int:
        """The sends that stand in it now."""
        return sum(map(self._sends_at, self._held.values()))

    def begin(self, run: int, session: int, committed: int, calls: int = 0) -> None:
        """Forget the marks of the run before; called once they stand in the database."""
        self._map[FIRST_SLOT:] = bytes(len(self._map) - FIRST_SLOT)
        self.run, self.session = run, session
        self.committed, self.calls = committed, calls
        self._write_header()

    def mark(self, index: int) -> None:
        """This row is about to be sent, once or once more."""
        offset = self._held.get(index)
        if offset is None:
            if not self._free:
                self._grow()
            offset = self._held[index] = self._free.pop()
            sends = 1
        else:
            sends = self._sends_at(offset) + 1
        SLOT.pack_into(self._map, offset, sends << SENDS_FROM_BIT | index + 1)

    def _sends_at(self, offset: int) -> int:
        (mark,) = SLOT.unpack_from(self._map, offset)
        return int(mark) >> SENDS_FROM_BIT

    def take_back(self, index: int, sends: int = 1) -> None:
        """The last sends of this row are known to cost nothing, or what came of them is committed."""
        offset = self._held.get(index)
        if offset is None:
            return
        if (left := self._sends_at(offset) - sends) > 0:
            SLOT.pack_into(self._map, offset, left << SENDS_FROM_BIT | index + 1)
        else:
            self.clear((index,))

    def clear(self, indices: Iterable[int]) -> None:
        """What came of these rows is committed."""
        for index in indices:
            offset = self._held.pop(index, None)
            if offset is not None:
                SLOT.pack_into(self._map, offset, 0)
                self._free.append(offset)

    def add_committed(self, rows: int, calls: int = 0) -> None:
        """Raise the high-water marks: so many more rows and calls must be found after a crash."""
        self.committed += rows
        self.calls += calls
        self._write_header()

    def _write_header(self) -> None:
        HEADER.pack_into(self._map, 0, MAGIC, self.run, self.session, self.committed, self.calls)

    def _grow(self) -> None:
        old = len(self._map)
        try:
            _take_room(self._descriptor, old + SLOTS * SLOT.size)
            self._map.resize(old + SLOTS * SLOT.size)
        except OSError as error:
            raise LedgerFailed(
                f"no room for more marks ({error.strerror}): make room, then run the same command again"
            ) from error
        self._free.extend(range(old, len(self._map), SLOT.size))

    def close(self) -> None:
        self._map.close()
        os.close(self._descriptor)


def _take_room(descriptor: int, size: int) -> None:
    """Have the disk set the room aside now: a store to a mapped page for which there is none ends the process (SIGBUS)."""
    missing = size - os.fstat(descriptor).st_size
    if missing <= 0:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.pwrite(descriptor, bytes(missing), size - missing)
