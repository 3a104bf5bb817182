"""Reading a ledger leaves no trace, stays right when a run begins beside it, and a ledger that lost its record tells so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from penstock.edges.ledger import LedgerFile, LedgerReader, RunRecord
from penstock.edges.ledger.reader import ROWS_A_PAGE
from penstock.errors import UsageError
from penstock.rules.identity import ABSENT
from tests.durability.damage import CALLS, LEDGER, PAGE_BYTES, ROWS, Files, closed_ledger, killed_ledger, row_of

RECORD = RunRecord(None, {}, rows=ROWS)


def everything_in(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


@pytest.mark.parametrize(
    "name", ["out.jsonl", "what?.jsonl", "50%41.jsonl", "a#b.jsonl", "line\nbreak.jsonl", "\udcff.jsonl"]
)
async def test_a_ledger_at_rest_is_read_without_a_trace_whatever_its_name(name: str, tmp_path: Path) -> None:
    """No log, no index, no lock is left beside it, and a name may have what means something in an URI."""
    path = tmp_path / f"{name}.ledger"
    ledger = LedgerFile(path)
    ledger.begin(RECORD)
    await ledger.commit([row_of(index) for index in range(3)])
    ledger.close()
    before = everything_in(path)
    with closing(LedgerReader(path)) as reader:
        assert list(reader.entries()) == [row_of(index) for index in range(3)]
        assert (reader.lost(), reader.forgotten()) == (0, 0)
    assert everything_in(path) == before


async def test_a_run_that_begins_while_a_ledger_is_read_is_noticed(tmp_path: Path) -> None:
    """What it records in the log is shown from the next page on, and also what it has folded into the file by then."""
    path = tmp_path / LEDGER
    ledger = LedgerFile(path)
    ledger.begin(RECORD)
    await ledger.commit([row_of(index) for index in range(2 * ROWS_A_PAGE)])
    ledger.close()
    with closing(LedgerReader(path)) as reader:
        entries = reader.entries()
        shown = [next(entries)]
        for session in (2, 3):
            ledger = LedgerFile(path)
            ledger.latest()
            ledger.resume(RECORD)
            new = range(session * ROWS_A_PAGE, (session + 1) * ROWS_A_PAGE)
            await ledger.commit([row_of(index) for index in new])
            if session == 2:
                ledger.close()
        shown += entries
        ledger.close()
    assert shown == [row_of(index) for index in range(4 * ROWS_A_PAGE)]


async def test_the_log_of_a_run_that_died_is_read_too(tmp_path: Path) -> None:
    """Half of its rows stand in the log alone."""
    files, folder = await killed_ledger(tmp_path / "whole"), tmp_path / "after"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with closing(LedgerReader(folder / LEDGER)) as reader:
        assert list(reader.entries()) == [row_of(index) for index in range(ROWS)]


async def test_a_ledger_that_lost_the_record_of_its_run_tells_the_loss(tmp_path: Path) -> None:
    """The marks know that there was a run: its rows do not stand for those of the next one, and each is told as gone."""
    await closed_ledger(tmp_path / "whole")
    path = tmp_path / "whole" / LEDGER
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM runs")
        database.commit()
    ledger = LedgerFile(path)
    assert ledger.latest() is None
    ledger.begin(RECORD)
    assert ledger.lost == ROWS + len(CALLS)
    assert {ledger.state(index) for index in range(ROWS)} == {ABSENT}
    assert await ledger.find(0, row_of(0).request) == row_of(0)  # paid for once, and found by its content
    ledger.close()
    with closing(LedgerReader(path)) as reader:
        assert reader.lost() == ROWS + len(CALLS)
        assert list(reader.entries()) == [row_of(0)]


def laid_out(files: Files, folder: Path, lost_bytes: int) -> Path:
    """The ledger, with so many bytes of its begin destroyed."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    path = folder / LEDGER
    path.write_bytes(bytes(lost_bytes) + files[LEDGER][lost_bytes:])
    return path


async def check_complete(ledger: LedgerFile) -> None:
    assert ledger.latest() == RECORD
    ledger.resume(RECORD)
    assert ledger.lost == 0
    assert [await ledger.read(index) for index in range(ROWS)] == [row_of(index) for index in range(ROWS)]
    ledger.close()


@pytest.mark.parametrize("lost_bytes", [PAGE_BYTES, 100, 1])
async def test_a_ledger_whose_first_page_is_destroyed_is_salvaged(lost_bytes: int, tmp_path: Path) -> None:
    """Its marks tell that it was one: it is kept under another name, and none of its rows is lost."""
    path = laid_out(await closed_ledger(tmp_path / "whole"), tmp_path / "after", lost_bytes)
    destroyed = path.read_bytes()
    ledger = LedgerFile(path)
    assert (ledger.set_aside, ledger.salvaged) == (path.with_name(f"{LEDGER}.damaged-1"), ROWS + len(CALLS))
    assert path.with_name(f"{LEDGER}.damaged-1").read_bytes() == destroyed
    await check_complete(ledger)
    assert list(path.parent.glob("*.salvage*")) == []


async def test_a_first_page_that_is_destroyed_under_its_log_does_no_harm(tmp_path: Path) -> None:
    """A run that died has a newer first page in its log."""
    path = laid_out(await killed_ledger(tmp_path / "whole"), tmp_path / "after", PAGE_BYTES)
    await check_complete(LedgerFile(path))


async def test_a_file_that_is_no_database_is_refused_where_no_marks_tell_of_a_ledger(tmp_path: Path) -> None:
    """It may be the user's own: it is not touched."""
    path = tmp_path / LEDGER
    path.write_bytes(b"precious" * 1_000)
    with pytest.raises(UsageError, match="move it away"):
        LedgerFile(path)
    assert path.read_bytes() == b"precious" * 1_000
