"""Which rows are being sent, and how many are known to be committed: marks that survive `kill -9` and cost no system call.

A mapped file keeps what was written to it when the process dies (the kernel owns the page). After a power loss the marks
are only an upper bound. A mark that awaited SQLite was measured at 96-143 us a call; this is a store to memory.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from penstock.errors import LedgerFailed

MAGIC = b"PNSTKSL1"
HEADER = struct.Struct("<8sQQQ")
SLOT = struct.Struct("<Q")
FIRST_SLOT = 64
SLOTS = 1 << 16


def marks_in(path: Path) -> list[int]:
    """The positions that stand in a slot file, whoever has it open; none where there is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    if len(content) < FIRST_SLOT or not content.startswith(MAGIC):
        return []
    whole = FIRST_SLOT + (len(content) - FIRST_SLOT) // SLOT.size * SLOT.size
    return _positions(content[FIRST_SLOT:whole])


def _positions(slots: bytes) -> list[int]:
    return sorted({mark - 1 for (mark,) in SLOT.iter_unpack(slots) if mark})


class Slots:
    """The slot file of one ledger. A slot holds a position plus one; zero is free."""

    def __init__(self, path: Path) -> None:
        size = FIRST_SLOT + SLOTS * SLOT.size
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < size:
                    os.ftruncate(descriptor, size)
                self._map = mmap.mmap(descriptor, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LedgerFailed(f"cannot write {path}: {error.strerror}") from error
        magic, self.run, self.session, self.committed = HEADER.unpack_from(self._map)
        if magic != MAGIC:
            self.run = self.session = self.committed = 0
        self._free = list(range(len(self._map) - SLOT.size, FIRST_SLOT - 1, -SLOT.size))
        self._offsets: dict[int, int] = {}

    def left_over(self) -> list[int]:
        """The positions that a run which died was sending."""
        return _positions(self._map[FIRST_SLOT:])

    def under_way(self) -> int:
        """How many rows stand in it now."""
        return len(self._offsets)

    def begin(self, run: int, session: int, committed: int) -> None:
        """Forget the marks of the run before; called once they stand in the database."""
        self._map[FIRST_SLOT:] = bytes(len(self._map) - FIRST_SLOT)
        self.run, self.session, self.committed = run, session, committed
        HEADER.pack_into(self._map, 0, MAGIC, run, session, committed)

    def mark(self, position: int) -> None:
        """This row is about to be sent."""
        if position in self._offsets:
            return
        if not self._free:
            self._grow()
        offset = self._offsets[position] = self._free.pop()
        SLOT.pack_into(self._map, offset, position + 1)

    def clear(self, positions: Iterable[int]) -> None:
        """Nothing of these rows is under way, or what came of them is committed."""
        for position in positions:
            offset = self._offsets.pop(position, None)
            if offset is not None:
                SLOT.pack_into(self._map, offset, 0)
                self._free.append(offset)

    def add_committed(self, rows: int) -> None:
        """Raise the high-water mark: so many more rows must be found after a crash."""
        self.committed += rows
        HEADER.pack_into(self._map, 0, MAGIC, self.run, self.session, self.committed)

    def _grow(self) -> None:
        old = len(self._map)
        self._map.resize(old + SLOTS * SLOT.size)
        self._free.extend(range(old, len(self._map), SLOT.size))

    def close(self) -> None:
        self._map.close()
