"""The ledger on a real disk: what it acknowledged it tells again, what it cannot vouch for it does not tell."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from penstock.edges.ledger import LedgerFile, LedgerReader, set_aside
from penstock.edges.ledger.lock import refuse_network_disk
from penstock.edges.ledger.schema import place
from penstock.errors import LedgerFailed, LedgerLocked, UsageError, request_error
from penstock.records import Entry, Response, Result, Usage
from penstock.rules.entries import to_entry
from penstock.rules.identity import ABSENT, ANSWERED, FAILED, REFUSED
from penstock.testing import MemoryLedger
from tests.kit.ledgers import RECORD, digest


def answered(index: int, *, request: int | None = None, ambiguous: int = 0) -> Entry:
    response = Response(f"answer {index}", "stop", "m", Usage(10, 5), raw=b'{"answer": %d}' % index)
    result = Result(index, f"r{index}", response=response, attempts=1, cost=0.25, ambiguous=ambiguous)
    return to_entry(result, digest(index if request is None else request))


def given_up(index: int, *, ambiguous: int = 0, refused: bool = False) -> Entry:
    error = request_error("invalid_request" if refused else "timeout", "no")
    return to_entry(Result(index, index, error=error, attempts=2, ambiguous=ambiguous), digest(index))


def reopened(path: Path, resend: frozenset[int] = frozenset({FAILED})) -> LedgerFile:
    ledger = LedgerFile(path)
    record = ledger.latest()
    assert record is not None
    ledger.resume(record, resend)
    return ledger


def recorded(path: Path) -> list[Entry | None]:
    reader = LedgerReader(path)
    try:
        return list(reader.entries())
    finally:
        reader.close()


async def crashed(path: Path, into: Path, *, sending: list[int], committed: list[Entry]) -> Path:
    """The files of a run that was killed after these commits, while these rows were being sent."""
    ledger = LedgerFile(path)
    ledger.begin(RECORD)
    for index in {*sending, *(entry.index for entry in committed)}:
        ledger.sending(index)
    await ledger.commit(committed)
    copy_files(path, into)
    ledger.close()
    return into / path.name


def copy_files(path: Path, into: Path) -> None:
    """The ledger's files as they lie on the disk at this moment."""
    into.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, into / file.name)


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_both_ledgers_keep_the_same_contract(kind: str, store: LedgerFile) -> None:
    ledger: LedgerFile | MemoryLedger = store if kind == "disk" else MemoryLedger()
    assert ledger.state(5) == ABSENT
    assert await ledger.read(5) is None
    assert await ledger.find(5, digest(5)) is None
    ledger.sending(5)
    await ledger.commit([answered(5), given_up(6), given_up(7, refused=True)])
    assert [ledger.state(index) for index in (4, 5, 6, 7, 8)] == [ABSENT, ANSWERED, FAILED, REFUSED, ABSENT]
    assert await ledger.read(5) == answered(5)
    assert await ledger.find(5, digest(5)) == answered(5)
    assert await ledger.find(7, digest(7)) == given_up(7, refused=True)
    await ledger.commit([answered(6)])
    assert await ledger.find(6, digest(6)) == answered(6)
    # Another request at this place: its answer is not ours, and is kept for the place where it will be asked again.
    assert await ledger.find(5, digest(99)) is None
    assert ledger.state(5) == ABSENT
    assert await ledger.find(9, digest(5)) == msgspec.structs.replace(answered(5), index=9)
    assert ledger.state(9) == ANSWERED
    assert await ledger.find(10, digest(5)) is None


async def test_what_was_committed_is_read_again_after_a_reopening(path: Path, store: LedgerFile) -> None:
    entries = [answered(index) for index in range(50)] + [given_up(50, ambiguous=2), given_up(51, refused=True)]
    await store.commit(entries)
    store.close()
    again = reopened(path)
    assert [again.state(index) for index in (0, 49, 50, 51, 52)] == [ANSWERED, ANSWERED, FAILED, REFUSED, ABSENT]
    assert (again.recorded.ok, again.recorded.failed, again.recorded.ambiguous) == (50, 1, 2)
    assert (again.recorded.input_tokens, again.recorded.cost) == (500, 12.5)
    assert (again.set_aside, again.lost, again.forgotten()) == (None, 0, 0)
    again.close()
    assert recorded(path) == entries


async def test_the_sums_are_those_of_the_rows_that_a_session_is_to_answer(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(index) for index in range(10)])
    store.close()
    again = LedgerFile(path)
    again.latest()
    again.resume(msgspec.structs.replace(RECORD, limit=4))
    assert again.recorded.ok == 4
    assert again.state(9) == ANSWERED
    again.close()


async def test_commits_survive_a_kill_and_rows_that_were_being_sent_leave_their_names(
    path: Path, tmp_path: Path
) -> None:
    copy = await crashed(path, tmp_path / "after", sending=[7, 8, 9], committed=[answered(7), answered(1)])
    reader = LedgerReader(copy)
    assert (reader.under_way(), reader.forgotten()) == (2, 0)
    reader.close()
    again = reopened(copy)
    assert [again.state(index) for index in (1, 7, 8, 9)] == [ANSWERED, ANSWERED, ABSENT, ABSENT]
    assert again.forgotten() == 2
    again.close()
    once_more = reopened(copy)
    assert once_more.forgotten() == 2
    once_more.close()


async def test_a_resume_that_is_killed_before_it_wiped_the_marks_counts_them_once(path: Path, tmp_path: Path) -> None:
    copy = await crashed(path, tmp_path / "after", sending=[3, 4], committed=[])
    marks = copy.with_name(copy.name + ".slots").read_bytes()
    reopened(copy).close()
    copy.with_name(copy.name + ".slots").write_bytes(marks)
    again = reopened(copy)
    assert again.forgotten() == 2
    again.close()


async def test_marks_are_wiped_by_commit_and_by_what_was_not_sent(
    path: Path, tmp_path: Path, store: LedgerFile
) -> None:
    for index in range(5):
        store.sending(index)
    store.not_sent(0)
    store.not_sent(99)
    store.sending(3)
    store.sending(3)
    store.not_sent(3)
    await store.commit([answered(1), answered(2)])
    assert store.under_way() == 3
    copy_files(path, tmp_path / "after")
    again = reopened(tmp_path / "after" / path.name)
    assert again.forgotten() == 3  # two sends of row 3 and one of row 4
    again.close()


async def test_the_slot_file_grows_with_what_is_in_flight(path: Path, tmp_path: Path, store: LedgerFile) -> None:
    for index in range(70_000):
        store.sending(index)
    store.not_sent(69_999)
    copy_files(path, tmp_path / "after")
    again = reopened(tmp_path / "after" / path.name)
    assert again.forgotten() == 69_999
    again.close()


async def test_sends_of_a_row_that_is_sent_again_stay_in_the_account(path: Path, store: LedgerFile) -> None:
    await store.commit([given_up(0, ambiguous=3)])
    store.close()
    again = reopened(path)
    assert (again.recorded.ambiguous, again.forgotten()) == (3, 0)
    await again.commit([answered(0, ambiguous=1)])
    again.close()
    last = reopened(path)
    assert last.recorded.ambiguous + last.forgotten() == 4
    last.close()


async def test_every_bit_that_flips_in_a_stored_row_is_found(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(index) for index in range(3)])
    store.close()
    row = answered(1)
    columns = {"body": row.body, "meta": row.meta, "request": row.request}
    connection = sqlite3.connect(path)
    for column, content in columns.items():
        for bit in range(len(content) * 8):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            connection.execute(f"UPDATE results SET {column} = ? WHERE position = ?", (bytes(flipped), place(1, 1)))
            connection.commit()
            assert recorded(path) == [answered(0), None, answered(2)], (column, bit)
        connection.execute(f"UPDATE results SET {column} = ? WHERE position = ?", (content, place(1, 1)))
        connection.commit()
    assert recorded(path)[1] == row
    connection.execute("UPDATE results SET state = ? WHERE position = ?", (REFUSED, place(1, 1)))
    connection.commit()
    assert recorded(path)[1] is None
    connection.close()


async def test_an_intact_answer_under_another_row_is_damage_too(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(0), answered(1)])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE results SET position = ? WHERE position = ?", (place(1, 5), place(1, 1)))
    connection.commit()
    connection.close()
    again = reopened(path)
    assert (again.salvaged, again.lost, again.state(5), again.state(1)) == (1, 1, ABSENT, ABSENT)
    await again.commit([answered(5)])
    again.close()
    assert recorded(path) == [answered(0), answered(5)]


async def test_rows_that_vanish_from_the_tail_are_noticed_and_counted(path: Path, tmp_path: Path) -> None:
    ledger = LedgerFile(path)
    ledger.begin(RECORD)
    await ledger.commit([answered(0), answered(1)])
    early = tmp_path / "early"
    copy_files(path, early)
    await ledger.commit([answered(2), answered(3), answered(4)])
    shutil.copy(f"{path}.slots", early / f"{path.name}.slots")  # the marks know of five, the database of two
    ledger.close()
    again = reopened(early / path.name)
    assert again.lost == 3
    assert [again.state(index) for index in range(5)] == [ANSWERED, ANSWERED, ABSENT, ABSENT, ABSENT]
    again.close()
    reader = LedgerReader(early / path.name)
    assert reader.lost() == 3
    reader.close()
    assert reopened(early / path.name).lost == 0


async def test_a_new_run_finds_answers_of_the_run_before_by_content(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(index) for index in range(4)])
    store.close()
    ledger = LedgerFile(path)
    ledger.latest()
    ledger.begin(msgspec.structs.replace(RECORD, options={"model": "other"}))
    assert ledger.state(0) == ABSENT
    found = await ledger.find(9, digest(2))
    assert found is not None
    assert (found.index, found.body) == (9, answered(2).body)
    assert await ledger.find(8, digest(2)) is None  # each answer stands in one place
    assert await ledger.find(7, digest(77)) is None
    ledger.close()
    again = reopened(path)
    assert again.state(9) == ANSWERED
    again.close()


async def test_equal_requests_each_keep_an_answer_of_their_own(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(0, request=7), answered(1, request=7)])
    store.close()
    ledger = LedgerFile(path)
    ledger.latest()
    ledger.begin(RECORD)
    bodies = {(await ledger.find(index, digest(7)) or answered(99)).body for index in (4, 5)}
    assert bodies == {answered(0).body, answered(1).body}
    assert await ledger.find(6, digest(7)) is None
    ledger.close()


async def test_originals_are_the_answered_rows_of_this_run(store: LedgerFile) -> None:
    await store.commit([answered(0), answered(3), given_up(4)])
    assert store.originals() == {digest(0): 0, digest(3): 3}


def test_a_second_run_is_turned_away_at_once_and_may_come_later(path: Path) -> None:
    first = LedgerFile(path)
    with pytest.raises(LedgerLocked, match="another run is using"):
        LedgerFile(path)
    with pytest.raises(LedgerLocked):
        set_aside(path)
    first.close()
    LedgerFile(path).close()


def test_the_lock_is_not_on_the_database_itself(path: Path, store: LedgerFile) -> None:
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_only_the_owner_may_read_what_is_recorded(path: Path, store: LedgerFile) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


async def test_an_old_ledger_is_kept_whole_under_another_name(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(0)])
    store.close()
    assert set_aside(path) == path.with_name(path.name + ".1")
    assert set_aside(path) is None
    LedgerFile(path).close()
    assert set_aside(path) == path.with_name(path.name + ".2")
    assert recorded(path.with_name(path.name + ".1")) == [answered(0)]


async def test_reading_goes_on_beside_the_writer(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(index) for index in range(1_200)])
    reader = LedgerReader(path)
    entries = reader.entries()
    assert next(entries) == answered(0)
    await store.commit([answered(index) for index in range(1_200, 1_300)])
    assert [entry.index for entry in entries if entry is not None] == list(range(1, 1_300))
    assert [entry.index for entry in reader.entries(10, 13) if entry is not None] == [10, 11, 12]
    reader.close()


@pytest.mark.parametrize("content", [b"", b"not a database, but text of some length" * 100])
def test_a_file_that_is_no_ledger_is_refused_by_the_reader(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a ledger"):
        LedgerReader(path)


def test_a_missing_ledger_is_told(path: Path) -> None:
    with pytest.raises(UsageError, match="there is no ledger"):
        LedgerReader(path)


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"precious text that somebody wrote" * 100)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="not a ledger"):
        LedgerFile(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="another program's"):
        LedgerFile(path)
    assert path.read_bytes() == before


def test_a_ledger_of_another_format_is_refused(path: Path, store: LedgerFile) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UsageError, match="another version"):
        LedgerFile(path)


def test_a_network_disk_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    with pytest.raises(LedgerFailed, match="network file system"):
        refuse_network_disk(tmp_path / "deep", mounts)
    mounts.write_text("/dev/sda / ext4 rw 0 0\n")
    refuse_network_disk(tmp_path, mounts)
    refuse_network_disk(tmp_path, tmp_path / "absent")


async def test_a_disk_that_refuses_to_write_stops_the_run_and_keeps_what_was_recorded(
    path: Path, store: LedgerFile
) -> None:
    await store.commit([answered(0)])
    store._connection.execute("PRAGMA max_page_count = 5")
    with pytest.raises(LedgerFailed, match="make room"):
        await store.commit([answered(index) for index in range(1, 2_000)])
    assert store.state(1) == ABSENT
    store.close()
    assert recorded(path) == [answered(0)]


async def test_a_damaged_ledger_is_set_aside_and_its_good_rows_are_salvaged(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(index) for index in range(3_000)])
    store.close()
    content = bytearray(path.read_bytes())
    page = len(content) // 4096 // 2
    content[page * 4096 : (page + 2) * 4096] = os.urandom(2 * 4096)
    path.write_bytes(content)
    again = reopened(path)
    assert again.set_aside == path.with_name(path.name + ".damaged-1")
    assert 2_900 <= again.salvaged < 3_000
    assert again.lost == 3_000 - again.salvaged
    states = [again.state(index) for index in range(3_000)]
    assert states.count(ANSWERED) == again.salvaged
    assert again.set_aside.read_bytes() == bytes(content)
    await again.commit([answered(index) for index, state in enumerate(states) if state == ABSENT])
    again.close()
    assert recorded(path) == [answered(index) for index in range(3_000)]


@pytest.mark.parametrize("moved", [[], ["-wal"], ["-wal", "-shm"], ["-wal", "-shm", ""]])
async def test_a_swap_that_a_crash_cut_is_finished_at_the_next_opening(
    moved: list[str], path: Path, tmp_path: Path, store: LedgerFile
) -> None:
    """However far the renames came, the salvaged ledger gets the name and the damaged one is kept."""
    await store.commit([answered(index) for index in range(5)])
    copy_files(path, tmp_path / "salvaged")
    store.close()
    whole = tmp_path / "salvaged" / path.name
    reopened(whole).close()
    await crashed(path, tmp_path / "damaged", sending=[], committed=[answered(0)])
    damaged = tmp_path / "damaged" / path.name
    shutil.copy(whole, f"{damaged}.salvaged")
    for suffix in moved:
        if Path(f"{damaged}{suffix}").exists():
            Path(f"{damaged}{suffix}").rename(f"{damaged}.damaged-1{suffix}")
    reopened(damaged).close()
    assert recorded(damaged) == [answered(index) for index in range(5)]
    assert Path(f"{damaged}.damaged-1").exists()
    assert not Path(f"{damaged}.salvaged").exists()


async def test_a_ledger_that_is_set_aside_after_a_crash_takes_its_log_along(path: Path, tmp_path: Path) -> None:
    copy = await crashed(path, tmp_path / "after", sending=[], committed=[answered(0), answered(1)])
    assert copy.with_name(copy.name + "-wal").stat().st_size
    new = set_aside(copy)
    assert new is not None
    assert recorded(new) == [answered(0), answered(1)]
    assert not copy.with_name(copy.name + "-wal").exists()


async def test_a_damaged_row_outside_the_input_does_not_stand_in_the_way_for_ever(
    path: Path, store: LedgerFile
) -> None:
    await store.commit([answered(0), answered(1)])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE results SET position = ? WHERE position = ?", (place(1, 9_999), place(1, 1)))
    connection.commit()
    connection.close()
    again = reopened(path)
    assert (again.salvaged, again.lost) == (1, 1)
    await again.commit([answered(1)])
    again.close()
    assert recorded(path) == [answered(0), answered(1)]
    assert reopened(path).set_aside is None


async def test_an_answer_that_gives_way_to_another_row_is_not_told_as_lost(path: Path, store: LedgerFile) -> None:
    await store.commit([answered(0), answered(1)])
    assert await store.find(0, digest(77)) is None
    store.close()
    again = reopened(path)
    assert again.lost == 0
    assert await again.find(5, digest(0)) is not None
    again.close()
    assert reopened(path).lost == 0
