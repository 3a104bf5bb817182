"""A life of a ledger, drawn from a seed: sessions that commit, are killed, resume, begin anew, set aside, write OUTPUT.

Run by `history.py` as a process of its own with the shim preloaded: `ledger_program.py FOLDER RECORD SEED`. What it was
told by the ledger it puts between the recorded calls, as marks.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from penstock.edges.files import OutputFile
from penstock.edges.ledger import LedgerFile, RunRecord, set_aside
from penstock.edges.ledger.schema import place
from penstock.edges.ledger.slots import FIRST_SLOT, SLOT
from penstock.errors import LedgerFailed, RunStopped
from penstock.records import Call
from penstock.rules.identity import ANSWERED, FAILED
from tests.durability.contents import Mark, call_of, entry_of, name_in, request_of
from tests.kit.disk import EIO_FROM_THEN_ON, EIO_ONCE, Shim

ROWS = 40
MOST_IN_A_COMMIT = 8
SESSIONS = 10
MARKS_BYTES = FIRST_SLOT + ROWS * SLOT.size
LEDGER, OUTPUT = "out.jsonl.ledger", "out.jsonl"


class Session:
    """One sitting, in a process of its own: it may end at any step."""

    def __init__(self, folder: Path, number: int, chance: Random, shim: Shim) -> None:
        self._folder, self._number, self._chance, self._shim = folder, number, chance, shim
        self._calls = 0

    def mark(
        self, kind: str, rows: dict[int, str] | None = None, run: int = 0, calls: dict[int, list[str]] | None = None
    ) -> None:
        slots = self._folder / f"{LEDGER}.slots"
        marks = slots.open("rb").read(MARKS_BYTES).hex() if slots.exists() else ""
        self._shim.mark(Mark(kind, run, rows or {}, marks, calls or {}))

    async def live(self) -> None:
        if self._chance.random() < 0.15:
            self.mark("setting-aside")
            set_aside(self._folder / LEDGER)
            self.mark("set-aside")
        ledger = LedgerFile(self._folder / LEDGER)
        await self._start(ledger)
        ledger._connection.execute(f"PRAGMA wal_autocheckpoint={self._chance.choice([4, 4000])}")
        for _ in range(self._chance.randint(0, 5)):
            await self._commit(ledger)
        if self._chance.random() < 0.3:
            self._write_output()
        if self._chance.random() < 0.5:
            ledger.close()
            self.mark("closed")

    async def _start(self, ledger: LedgerFile) -> None:
        record = ledger.latest()
        if record is None or self._chance.random() < 0.2:
            self.mark("beginning", run=ledger.run + 1)
            ledger.begin(RunRecord(None, {"made": self._number}, rows=ROWS))
        else:
            ledger.resume(record)
        self.mark("started", self._recorded(ledger), ledger.run, await self._called(ledger))

    def _recorded(self, ledger: LedgerFile) -> dict[int, str]:
        """What the ledger now tells as recorded: from here on that may not be lost either."""
        entries = {index: ledger._at(place(ledger.run, index)) for index in range(ROWS) if ledger.state(index)}
        return {index: name_in(entry) for index, entry in entries.items() if entry is not None}

    async def _called(self, ledger: LedgerFile) -> dict[int, list[str]]:
        """The same of the calls of rows that are not over."""
        calls = {index: await ledger.calls(index) for index in range(ROWS)}
        return {index: [name_in(call.entry) for call in found] for index, found in calls.items() if found}

    async def _commit(self, ledger: LedgerFile) -> None:
        left = [index for index in range(ROWS) if ledger.state(index) in (0, FAILED)]
        drawn = self._chance.sample(left, min(len(left), self._chance.randint(1, MOST_IN_A_COMMIT)))
        rows = {index: f"{ledger.run}/{index}/{self._number}" for index in drawn}
        for index in drawn:
            ledger.sending(index)
        calls = await self._new_calls(ledger, left) if self._chance.random() < 0.7 else {}
        names = {index: [name_in(call.entry) for call in found] for index, found in calls.items()}
        self.mark("committing", rows, ledger.run, names)
        of_all = [call for found in calls.values() for call in found]
        await ledger.commit([entry_of(index, name) for index, name in rows.items()], of_all)
        self.mark("committed", rows, ledger.run, names)
        if ledger.run > 1 and self._chance.random() < 0.4:
            await self._claim(ledger, left)
        if ledger.run > 1 and self._chance.random() < 0.4:
            await self._find(ledger)

    async def _new_calls(self, ledger: LedgerFile, left: list[int]) -> dict[int, list[Call]]:
        """What rows that are not over have asked meanwhile; a call that was given up takes its place again."""
        calls = {}
        for index in self._chance.sample(left, min(len(left), self._chance.randint(1, MOST_IN_A_COMMIT))):
            self._calls += 1
            name = f"call/{ledger.run}/{index}/{self._number}/{self._calls}"
            again = [call for call in await ledger.calls(index) if call.entry.state == FAILED]
            calls[index] = [call_of(index, name, again[0].number if again else 0)]
        return calls

    async def _claim(self, ledger: LedgerFile, left: list[int]) -> None:
        """Take over an answer that a row of the run before was given on its way."""
        query = "SELECT request, body FROM calls WHERE position < ? AND state = ? LIMIT 1"
        earlier = ledger._connection.execute(query, (place(ledger.run, 0), ANSWERED)).fetchone()
        still = [index for index in left if ledger.state(index) in (0, FAILED)]
        if earlier is None or not still:
            return
        request, body = earlier
        self.mark("claiming", run=ledger.run)
        call = await ledger.claim(still[0], request, 200)
        assert call is not None
        assert (call.entry.request, call.entry.body, call.occurrence) == (request, body, 200)
        self.mark("claimed", run=ledger.run, calls={still[0]: [name_in(call.entry)]})

    async def _find(self, ledger: LedgerFile) -> None:
        """Take over answers of the run before, which are looked for by content."""
        query = "SELECT request FROM results WHERE position < ? AND state = ? LIMIT 3"
        unclaimed = ledger._connection.execute(query, (place(ledger.run, 0), ANSWERED)).fetchall()
        empty = (index for index in range(ROWS) if not ledger.state(index))
        for (request,), index in zip(unclaimed, empty, strict=False):
            self.mark("finding", run=ledger.run)
            entry = await ledger.find(index, request)
            assert entry is not None
            assert entry.request == request == request_of(name_in(entry))
            self.mark("found", {index: name_in(entry)}, ledger.run)

    def _write_output(self) -> None:
        self.mark("writing", {0: f"session {self._number}"})
        output = OutputFile(str(self._folder / OUTPUT))
        for _ in range(50):
            output.write(b"session %d" % self._number)
        output.finish()
        self.mark("written", {0: f"session {self._number}"})


def sit(session: Session) -> None:
    """Live one session; a disk that fails ends it, as it ends a run."""
    try:
        asyncio.run(session.live())
    except (LedgerFailed, RunStopped):
        session.mark("failed")


def in_a_process_of_its_own(work: Callable[[], None]) -> None:
    """As if killed at the end: nothing is closed, flushed or folded in. An error is passed on."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            raise
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(folder: Path, record: Path, seed: str) -> None:
    chance, shim = Random(seed), Shim()
    shim.watch(folder, record)
    faulty = chance.random() < 0.5
    for number in range(SESSIONS):
        how, at = chance.choice([EIO_ONCE, EIO_FROM_THEN_ON]), chance.randint(1, 120)
        shim.fail(how, at if faulty and number % 2 else 0)
        session = Session(folder, number, Random(f"{seed}/{number}"), shim)
        in_a_process_of_its_own(partial(sit, session))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
