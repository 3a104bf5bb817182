"""A disk that fails at a chosen call of a command: it stops cleanly and says what to do, and the same command goes on later.

PENSTOCK_STATES beyond 1,000 fails every call in every way instead of some. A failing state is named by its beginning,
fault and call, and `PENSTOCK_STATE=BEGINNING/FAULT/CALL` (BEGINNING counted from 0) runs that one alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.durability.damage import PAGE_BYTES
from tests.durability.faulty_disk import Ended, FaultyDisk, faulty_disk
from tests.kit.disk import (
    EIO_FROM_THEN_ON,
    EIO_ONCE,
    EIO_READING_FROM_THEN_ON,
    EIO_READING_ONCE,
    FULL_FROM_THEN_ON,
    KILLED,
    SHORT_THEN_FULL,
)
from tests.kit.journey import INDEX_MASK, SEED, answered_rows, beside, write_input, wrong_lines
from tests.kit.simulated import Simulated, simulated

EVERY_STATE = int(os.environ.get("PENSTOCK_STATES", "300")) > 1_000
ONE_STATE = os.environ.get("PENSTOCK_STATE", "")
SOME = 6
SHARES = 4 if EVERY_STATE else 1
ROWS = 12
DAMAGED_ROW = 5
MOST_SENDS = 2
"""Of the damaged row: before the fault, and after it where the answer could not be recorded."""

CHANGING = (EIO_ONCE, FULL_FROM_THEN_ON, SHORT_THEN_FULL, EIO_FROM_THEN_ON, KILLED)
READING = (EIO_READING_ONCE, EIO_READING_FROM_THEN_ON)
LATENCY = "0.001..0.004"
"""Answers come apart, so that there is more than one commit."""


class Fault(msgspec.Struct, frozen=True):
    """At which call the disk fails, and how."""

    how: int
    at: int


class Beginning:
    """A folder as a run finds it, the command that is given there, and an account of what the provider was asked."""

    def __init__(self, disk: FaultyDisk, provider: Simulated, folder: Path, options: tuple[str, ...] = ()) -> None:
        self.disk, self.provider, self.options = disk, provider, options
        self.scratch, self.template, self.folder = folder / "scratch", folder / "template", folder / "there"
        self.template.mkdir()
        source = write_input(folder / "in.jsonl", ROWS)
        self.output = self.folder / "out.jsonl"
        self.arguments = ["run", str(source), "-o", str(self.output), "-m", "custom/m", "--no-progress"]
        self.arguments += ["--base-url", provider.base_url, "--max-concurrency", "2"]
        self.arguments += ["--summary", str(self.folder / "summary.json")]

    def run(self, fault: Fault | None = None, options: tuple[str, ...] | None = None) -> Ended:
        """The command, with the options of this beginning if no others are given."""
        how, at = (fault.how, fault.at) if fault else (0, 0)
        given = self.options if options is None else options
        return self.disk.run([*self.arguments, *given], self.folder, how, at)

    def lay_out(self) -> None:
        """Put the folder there as it was."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.template, self.folder)

    def keep(self) -> None:
        """Let the folder, as it is now, be what is laid out."""
        shutil.rmtree(self.template)
        self.folder.rename(self.template)

    def recorded(self) -> set[int]:
        """The rows with an answer in the ledger; none where it was cut off before it had its tables."""
        try:
            return answered_rows(self.output, self.scratch) if beside(self.output, ".ledger").exists() else set()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return set()

    def arrived(self) -> int:
        return int(self.provider.stats()["arrived"])

    def calls(self, how: int) -> int:
        """How many calls of the kind that `how` is about the command makes."""
        self.lay_out()
        done = self.run(Fault(how, 0))
        assert done.status == 0, done.told
        return done.calls

    def faults(self) -> list[Fault]:
        """Every fault at every call."""
        changing, reading = self.calls(EIO_ONCE), self.calls(EIO_READING_ONCE)
        return [
            *(Fault(how, at) for how in CHANGING for at in range(1, changing + 1)),
            *(Fault(how, at) for how in READING for at in range(1, reading + 1)),
        ]


def nothing(start: Beginning) -> None:
    """The first run in an empty folder."""
    start.lay_out()
    start.keep()


def killed(start: Beginning) -> None:
    """A run that died in the middle: answers in the log, marks of what was being sent."""
    for at in range(start.calls(EIO_ONCE) * 6 // 10, 0, -3):
        start.lay_out()
        start.run(Fault(KILLED, at))
        # How many answers share a commit, and so how many calls there are, is not the same each time.
        if 0 < len(start.recorded()) < ROWS:
            start.keep()
            return
    pytest.fail("no death left a part of the rows recorded")


def answered(start: Beginning) -> None:
    """Every row is recorded, and only OUTPUT is missing."""
    start.lay_out()
    assert start.run(options=()).status == 0
    start.output.unlink()
    start.keep()


def damaged(start: Beginning) -> None:
    """The same with one row that fails its checksum: the ledger is set aside and the others are salvaged."""
    answered(start)
    with closing(sqlite3.connect(start.template / "out.jsonl.ledger")) as database:
        change = "UPDATE results SET body = 'x' WHERE position & ? = ?"
        assert database.execute(change, (INDEX_MASK, DAMAGED_ROW)).rowcount == 1
        database.commit()


def beheaded(start: Beginning) -> None:
    """The same with a first page of which nothing can be read: every row is salvaged."""
    answered(start)
    with (start.template / "out.jsonl.ledger").open("r+b") as ledger:
        ledger.write(bytes(PAGE_BYTES))


def finished(start: Beginning) -> None:
    """A whole run, which `--fresh` then sets aside."""
    start.lay_out()
    assert start.run(options=()).status == 0
    start.keep()


Check = Callable[[Beginning, Fault], None]


def check_resumed(start: Beginning, fault: Fault) -> None:
    """What is recorded stays, what was told as recorded is, and the rest alone is sent when there is room again."""
    before = start.recorded()
    told = check_stopped(start, start.run(fault), fault)
    recorded = start.recorded()
    assert before <= recorded, "a recorded answer is gone"
    assert told <= len(recorded), "a row was told as ok and is not recorded"
    arrived = start.arrived()
    check_finished(start, start.run())
    assert start.arrived() - arrived == ROWS - len(recorded)


def check_salvaged(start: Beginning, fault: Fault) -> None:
    """Whatever a salvage was cut by, the good rows are never sent again; the damaged file is kept."""
    arrived = start.arrived()
    check_stopped(start, start.run(fault), fault)
    check_finished(start, start.run())
    assert start.arrived() - arrived <= MOST_SENDS
    assert start.output.with_name("out.jsonl.ledger.damaged-1").exists()


def check_begun_anew(start: Beginning, fault: Fault) -> None:
    """The answers that were there before stand in a ledger of another name, however often it was tried."""
    check_stopped(start, start.run(fault), fault)
    check_finished(start, start.run())
    old = start.output.with_name("out.jsonl.ledger.1")
    with closing(sqlite3.connect(old)) as database:
        rows = {position & INDEX_MASK for (position,) in database.execute("SELECT position FROM results")}
    assert rows == set(range(ROWS))


BEGINNINGS: dict[str, tuple[Callable[[Beginning], None], Check, tuple[str, ...]]] = {
    "nothing": (nothing, check_resumed, ()),
    "killed": (killed, check_resumed, ()),
    "answered": (answered, check_resumed, ()),
    "damaged": (damaged, check_salvaged, ()),
    "beheaded": (beheaded, check_salvaged, ()),
    "finished": (finished, check_begun_anew, ("--fresh",)),
}


def check_stopped(start: Beginning, ended: Ended, fault: Fault) -> int:
    """A clean stop, or none where the fault did no harm; returns how many rows were told to be ok."""
    if fault.how == KILLED:
        assert ended.status in (0, -signal.SIGKILL), ended.told
        return 0
    assert ended.status in (0, 3), f"exit {ended.status}: {ended.told}"
    assert "Traceback" not in ended.told
    if ended.status == 0:
        assert wrong_lines(start.output, ROWS) == []
    else:
        reason = ended.told.splitlines()[-1]
        assert reason.startswith("penstock: ")
        assert "run the same command again" in reason or "--summary" in reason
    account = re.search(r"rows = ([\d,]+) ok", ended.told)
    return int(account[1].replace(",", "")) if account else 0


def check_finished(start: Beginning, ended: Ended) -> None:
    """There is room again: every row stands once in OUTPUT, and the account balances."""
    assert ended.status == 0, ended.told
    assert wrong_lines(start.output, ROWS) == []
    verified = start.disk.run(["verify", str(start.output)], start.folder)
    assert verified.status == 0, verified.told
    assert sorted(path.name for path in start.folder.iterdir() if path.name.endswith((".tmp", ".salvaged"))) == []


def tried(beginning: int, start: Beginning, share: int) -> list[Fault]:
    """Which faults are tried of those that are possible."""
    if ONE_STATE:
        asked, how, at = map(int, ONE_STATE.split("/"))
        return [Fault(how, at)] if asked == beginning else []
    faults = start.faults()
    return faults[share::SHARES] if EVERY_STATE else Random(f"{SEED}/disk/{beginning}").sample(faults, SOME)


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_disk_that_fails_at_any_call_costs_no_recorded_answer(name: str, share: int, tmp_path: Path) -> None:
    """Exit 3 without a traceback, what to do is told, and the same command comes to its end once the disk works."""
    make, check, options = BEGINNINGS[name]
    with simulated("--latency", LATENCY) as provider, faulty_disk(tmp_path) as disk:
        start = Beginning(disk, provider, tmp_path, options)
        make(start)
        number = list(BEGINNINGS).index(name)
        for fault in tried(number, start, share):
            start.lay_out()
            try:
                check(start, fault)
            except Exception as error:
                error.add_note(f"PENSTOCK_STATE={number}/{fault.how}/{fault.at}: {name}")
                raise
