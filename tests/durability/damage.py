"""A ledger with known rows, as its bytes, and the ways to damage one of its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.records import Call, Entry
from tests.durability.contents import call_of, entry_of

ROWS = 32
CALLS = range(100, 116)
"""Rows of a workflow that are not over: each has had the answer to one call."""

IN_A_COMMIT = 4
LEDGER = "out.jsonl.ledger"
LOG, MARKS = f"{LEDGER}-wal", f"{LEDGER}.slots"
PAGE_BYTES = 4096
FRAME_BYTES = 24 + PAGE_BYTES
"""A page in the log, with the header that proves it (https://www.sqlite.org/fileformat2.html#walformat)."""

SMALL_BODY_BYTES = 300
PIECE_BYTES = 200
"""Of an answer that has pages of its own: so much lies together at its begin and at its end."""

CELL_BYTES = 16
"""Enough for what SQLite puts before the values of a row: their sizes."""

CHECKSUM_BYTES = 4
"""At least; what follows is the next row."""

Files = dict[str, bytes]


def row_of(index: int) -> Entry:
    """What is recorded of a row in every ledger here."""
    return entry_of(index, f"1/{index}/0")


def recorded_call(index: int, number: int = 0) -> Call:
    """The call of a row in `CALLS`; `number` is where it stands."""
    return call_of(index, f"1/{index}/0", number)


class Damage(msgspec.Struct, frozen=True):
    """One damage of one file: cut after `at` bytes, or bit `at` the other way.

    `row` is the one that cannot outlive it, or whose call cannot.
    """

    file: str
    kind: str
    at: int
    row: int | None = None

    def lay_out(self, files: Files, folder: Path) -> Path:
        """Put the files there, this one damaged; returns the path of the ledger."""
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(self._damaged(content) if name == self.file else content)
        return folder / LEDGER

    def _damaged(self, content: bytes) -> bytes:
        if self.kind == "cut":
            return content[: self.at]
        changed = bytearray(content)
        changed[self.at // 8] ^= 1 << self.at % 8
        return bytes(changed)


async def closed_ledger(folder: Path) -> Files:
    """The files of a run that ended in order: no log."""
    ledger = await _written(folder)
    ledger.close()
    return _files(folder)


async def killed_ledger(folder: Path) -> Files:
    """The files as a `kill -9` leaves them: half of the rows stand in the log only."""
    ledger = await _written(folder)
    files = _files(folder)
    ledger.close()
    assert len(files[LOG]) > FRAME_BYTES * ROWS // IN_A_COMMIT // 2
    return files


async def _written(folder: Path) -> LedgerFile:
    folder.mkdir()
    ledger = LedgerFile(folder / LEDGER)
    ledger.begin(RunRecord(None, {}, rows=ROWS))
    calls = iter(CALLS)
    for first in range(0, ROWS, IN_A_COMMIT):
        if first == ROWS // 2:
            ledger.close()
            ledger = LedgerFile(folder / LEDGER)
            record = ledger.latest()
            assert record is not None
            ledger.resume(record)
        for index in range(first, first + IN_A_COMMIT):
            ledger.sending(index)
        answers = [recorded_call(next(calls)) for _ in range(len(CALLS) * IN_A_COMMIT // ROWS)]
        await ledger.commit([row_of(index) for index in range(first, first + IN_A_COMMIT)], answers)
    return ledger


def _files(folder: Path) -> Files:
    return {name: (folder / name).read_bytes() for name in (LEDGER, LOG, MARKS) if (folder / name).exists()}


def cuts(files: Files, file: str, last_bytes: int) -> list[Damage]:
    """The file cut at every byte of its end."""
    size = len(files[file])
    return [Damage(file, "cut", at) for at in range(max(0, size - last_bytes), size)]


def flips_of_answers(files: Files, file: str, indices: range = range(ROWS)) -> list[Damage]:
    """Every bit of the smallest answer that stands in this file alone; of the largest, bits of its begin and its end."""
    others = b"".join(content for name, content in files.items() if name != file)
    rows = [row for row in map(row_of, indices) if row.request in files[file] and row.request not in others]
    smallest, largest = min(rows, key=_size), max(rows, key=_size)
    assert _size(smallest) < SMALL_BODY_BYTES < PAGE_BYTES < _size(largest)
    pieces = files[file].index(largest.body[:PIECE_BYTES]), files[file].rindex(largest.body[-PIECE_BYTES:])
    bits = [bit for start in pieces for bit in range(start * 8, (start + PIECE_BYTES) * 8, 3)]
    of_largest = [Damage(file, "flip", bit, largest.index) for bit in bits]
    return [*_flips_of(files[file], file, smallest), *of_largest]


def _flips_of(content: bytes, file: str, row: Entry) -> Iterator[Damage]:
    """The row as it stands there first: the sizes of its values, then the values."""
    values = content.index(row.request)
    end = content.index(row.body, values) + len(row.body) + CHECKSUM_BYTES
    for bit in range((values - CELL_BYTES) * 8, end * 8):
        yield Damage(file, "flip", bit, row.index if bit >= values * 8 else None)


def flips_anywhere(files: Files, file: str) -> list[Damage]:
    """A bit of each third byte, by turns."""
    return [Damage(file, "flip", bit) for bit in range(0, len(files[file]) * 8, 25)]


def _size(row: Entry) -> int:
    return len(row.body)
