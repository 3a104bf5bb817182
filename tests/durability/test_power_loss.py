"""A loss of power at any call of a ledger's life: what had been told as recorded is there afterwards, and nothing else is.

The number of states is PENSTOCK_STATES, the seed PENSTOCK_SEED; a failing state is named by its seed, history and number, and
`PENSTOCK_STATE=HISTORY/NUMBER` runs that one alone.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.edges.ledger.schema import CALL_COLUMNS, COLUMNS, LAST_INDEX, to_call, to_entry
from penstock.rules.identity import ABSENT, ANSWERED
from tests.durability.contents import entry_of, name_in
from tests.durability.history import LEDGER, OUTPUT, Known, State, recorded_history
from tests.kit.journey import SEED

STATES = int(os.environ.get("PENSTOCK_STATES", "300"))
ONE_STATE = os.environ.get("PENSTOCK_STATE", "")
ROWS = 40
STATES_A_HISTORY = 50 if STATES <= 1_000 else 250
GOLDEN = 0.6180339887498949
"""Its multiples fall evenly over the places of a history, however many are taken."""

HISTORIES = [int(ONE_STATE.split("/")[0])] if ONE_STATE else list(range(-(-STATES // STATES_A_HISTORY)))
NUMBERS = [int(ONE_STATE.split("/")[1])] if ONE_STATE else list(range(STATES_A_HISTORY))


@pytest.mark.parametrize("history", HISTORIES)
async def test_a_loss_of_power_loses_nothing_that_was_told_as_recorded(history: int, tmp_path: Path) -> None:
    seed = f"{SEED}/{history}"
    calls = recorded_history(tmp_path, seed)
    for number in NUMBERS:
        chance = Random(f"{seed}/{number}")
        place = int(number * GOLDEN % 1 * (len(calls) + 1))
        state, folder = State(calls, place, chance), tmp_path / "after"
        path = state.lay_out(folder)
        try:
            await _check(path, state.known)
        except Exception as error:
            error.add_note(
                f"PENSTOCK_SEED={SEED} PENSTOCK_STATE={history}/{number}, after call {place} of {len(calls)}"
            )
            raise
        shutil.rmtree(folder)


async def _check(path: Path, known: Known) -> None:
    """The ledger opens, tells what it told before, and takes the rows that are left; OUTPUT is an old one or the new one."""
    assert _output(path.with_name(OUTPUT)) in known.outputs
    ledger = LedgerFile(path)
    try:
        _check_opening(ledger, known)
        await _check_calls(ledger, known)
        left = [index for index in range(ROWS) if ledger.state(index) == ABSENT]
        await ledger.commit([entry_of(index, f"{ledger.run}/{index}/after") for index in left])
    finally:
        ledger.close()
    _check_rows(path, known)
    again = LedgerFile(path)
    try:
        record = again.latest()
        assert record is not None
        again.resume(record)
        assert (again.lost, again.set_aside) == (0, None)
        assert all(again.state(index) != ABSENT for index in range(ROWS))
    finally:
        again.close()


def _check_opening(ledger: LedgerFile, known: Known) -> None:
    record = ledger.latest()
    if not known.may_be_set_aside:
        assert ledger.run == known.run or (known.may_begin and ledger.run == known.run + 1)
    if record is None:
        ledger.begin(RunRecord(None, {}, rows=ROWS))
        return
    ledger.resume(record)
    assert (ledger.lost, ledger.set_aside) == (0, None)
    if ledger.run == known.run:
        assert [index for index in known.rows if ledger.state(index) == ABSENT] == []


async def _check_calls(ledger: LedgerFile, known: Known) -> None:
    """A row that is not over finds each answer that it was told to have, and nothing else."""
    if ledger.run != known.run:
        return
    for index in range(ROWS):
        found = {name_in(call.entry) for call in await ledger.calls(index)}
        assert found <= known.tried
        if ledger.state(index) != ANSWERED:
            assert known.called.get(index, set()) <= found


def _check_rows(path: Path, known: Known) -> None:
    """No answer is gone from the ledgers, none stands twice, no row is there that was never to be recorded."""
    found: Counter[str] = Counter()
    for ledger in path.parent.glob(f"{LEDGER}*"):
        if ledger.suffix in (".ledger", *(f".{number}" for number in range(1, 9))):
            found.update(_names(ledger))
    assert known.answers - set(found) == set()
    assert {name for name in found if not name.endswith("/after")} - known.tried == set()
    assert [name for name, times in found.items() if times > 1] == []


def _names(ledger: Path) -> list[str]:
    """The names of the rows in one ledger, each of them compared byte for byte with what it must be."""
    names = []
    with closing(sqlite3.connect(ledger)) as database:
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'results'").fetchone() is None:
            return names  # set aside before it had a table: nothing was ever recorded in it
        for row in database.execute(f"SELECT {COLUMNS} FROM results"):
            entry = to_entry(row)
            assert entry is not None
            names.append(name_in(entry))
            assert entry == entry_of(row[0] & LAST_INDEX, names[-1])
        for row in database.execute(f"SELECT {CALL_COLUMNS} FROM calls"):
            call = to_call(row)
            assert call is not None
            names.append(name_in(call.entry))
            assert call.entry == entry_of(row[1] & LAST_INDEX, names[-1])
    return names


def _output(path: Path) -> str | None:
    """Which session wrote OUTPUT, whole; None where there is none."""
    if not path.exists():
        return None
    lines = path.read_text().split("\n")
    assert lines == [lines[0]] * 50 + [""]
    return lines[0]
