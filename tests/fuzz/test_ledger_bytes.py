"""Whatever stands where a ledger was: the rows that were recorded, or a typed error, or fewer rows; never a wrong one."""

from __future__ import annotations

import shutil
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.edges.ledger import LedgerFile, LedgerReader, RunRecord
from penstock.edges.ledger.slots import FIRST_SLOT, MAGIC, SLOT, SLOTS, Slots, marks_in
from penstock.errors import PenstockError
from penstock.records import Entry, Response, Result, Usage
from penstock.rules.entries import to_entry
from penstock.rules.identity import ANSWERED
from tests.fuzz.profile import check_told, fuzz
from tests.kit.endings import open_files

ROWS = 40
RECORD = RunRecord(input_digest=b"d" * 16, options={"model": "m"}, rows=ROWS)


def entry(index: int) -> Entry:
    response = Response(f"answer {index}", "stop", "m", Usage(10, 5), raw=b'{"answer": "%d"}' % index * 30)
    return to_entry(Result(index, f"r{index}", response=response, attempts=1), index.to_bytes(16, "big"))


ENTRIES = [entry(index) for index in range(ROWS)]


@cache
def dead_ledger() -> dict[str, bytes]:
    """The files of a ledger whose run was killed: half of it in the log, three rows being sent."""
    folder = Path(mkdtemp(prefix="penstock-fuzz-"))
    path = folder / "x.ledger"
    ledger = LedgerFile(path)
    ledger.begin(RECORD)
    ledger._write([_row(ledger, one) for one in ENTRIES[: ROWS // 2]], [])
    ledger._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger._write([_row(ledger, one) for one in ENTRIES[ROWS // 2 :]], [])
    ledger._slots.add_committed(ROWS)
    for index in (3, 50, 51):
        ledger.sending(index)
    kept = {suffix: folder.joinpath(f"x.ledger{suffix}").read_bytes() for suffix in ("", "-wal", ".slots")}
    ledger.close()
    shutil.rmtree(folder)
    return kept


def _row(ledger: LedgerFile, one: Entry) -> tuple[object, ...]:
    from penstock.edges.ledger.schema import to_row

    return to_row(ledger.run, one)


def laid_out(folder: Path, changed: str, content: bytes) -> Path:
    """The files of the dead ledger in a folder, one of them with other content."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for suffix, kept in dead_ledger().items():
        (folder / f"x.ledger{suffix}").write_bytes(content if suffix == changed else kept)
    return folder / "x.ledger"


def check_recovery(path: Path) -> None:
    """What the writing and the reading side make of it; the writing side may mend it, so it comes last."""
    try:
        with closing(LedgerReader(path)) as reader:
            shown = [found for found in reader.entries() if found is not None]
            assert all(found == ENTRIES[found.index] for found in shown)
            reader.under_way(), reader.lost(), reader.forgotten()
    except PenstockError as error:
        check_told(error)
    try:
        ledger = LedgerFile(path)
    except PenstockError as error:
        check_told(error)
    else:
        check_resumed(ledger)
    assert [name for name in open_files(path.parent) if not name.endswith("(deleted)")] == []


def check_resumed(ledger: LedgerFile) -> None:
    try:
        record = ledger.latest()
        if record is None:
            ledger.begin(RECORD)
        else:
            ledger.resume(record)
        for index in range(ROWS):
            if ledger.state(index) == ANSWERED:
                assert ledger._at(ledger.run << 40 | index) == ENTRIES[index]
    except PenstockError as error:
        check_told(error)
    finally:
        ledger.close()


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)


@pytest.mark.parametrize("suffix", ["", "-wal", ".slots"])
@fuzz
@given(changes=CHANGES, cut=st.none() | st.integers(0, 1 << 16))
def test_a_ledger_with_any_damage_tells_no_wrong_row(
    tmp_path: Path, suffix: str, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    """Bytes written over it and its end cut off: each row that it still tells is the one that was recorded there."""
    content = bytearray(dead_ledger()[suffix])
    for at, written in changes:
        place = at % len(content)
        content[place : place + len(written)] = written
    check_recovery(laid_out(tmp_path / "x", suffix, bytes(content if cut is None else content[: cut % len(content)])))


@pytest.mark.parametrize("suffix", ["", "-wal", ".slots"])
@fuzz
@given(content=st.binary(max_size=200), like=st.booleans())
def test_any_bytes_in_the_place_of_a_ledger_are_a_typed_error_or_no_row(
    tmp_path: Path, suffix: str, content: bytes, like: bool
) -> None:
    """Arbitrary content, also under the right first bytes."""
    start = dead_ledger()[suffix][:100] if like else b""
    check_recovery(laid_out(tmp_path / "x", suffix, start + content))


@fuzz
@given(content=st.binary(max_size=120), magic=st.booleans(), longer=st.none() | st.integers(0, 40))
def test_any_bytes_as_a_slot_file_are_marks_or_none(
    tmp_path: Path, content: bytes, magic: bool, longer: int | None
) -> None:
    """Both who reads it and who writes it on; also longer than it ever is, by any number of bytes."""
    path = tmp_path / "slots"
    stored = (MAGIC if magic else b"") + content
    if longer is not None:
        stored = stored.ljust(FIRST_SLOT + SLOTS * SLOT.size + longer, b"\7")
    path.write_bytes(stored)
    assert all(index >= 0 and sends >= 0 for index, sends in marks_in(path).sends.items())
    slots = Slots(path)
    assert all(index >= 0 for index in slots.left_over().sends)
    slots.begin(1, 1, 0)
    slots.mark(7)
    assert marks_in(path).sends == {7: 1}
    slots.close()
