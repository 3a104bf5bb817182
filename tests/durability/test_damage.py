"""A ledger that was cut or changed: no wrong row is ever given out, what is gone is told and sent again, the rest stays.

PENSTOCK_STATES beyond 1,000 runs every state instead of some. A failing one is named by its seed, kind and number, and
`PENSTOCK_STATE=KIND/NUMBER` (KIND counted from 0) runs that one alone.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from penstock.edges.ledger import LedgerFile, LedgerReader, RunRecord
from penstock.errors import LedgerFailed, UsageError
from penstock.rules.identity import ABSENT
from tests.durability.damage import (
    CALLS,
    FRAME_BYTES,
    LEDGER,
    LOG,
    MARKS,
    PAGE_BYTES,
    ROWS,
    Damage,
    Files,
    closed_ledger,
    cuts,
    flips_anywhere,
    flips_of_answers,
    killed_ledger,
    recorded_call,
    row_of,
)
from tests.kit.journey import SEED

EVERY_STATE = int(os.environ.get("PENSTOCK_STATES", "300")) > 1_000
ONE_STATE = os.environ.get("PENSTOCK_STATE", "")
SOME = 40
SHARES = 8 if EVERY_STATE else 1
PATIENCE_SECONDS = 10
"""An opening takes some milliseconds: one that takes so long goes in circles."""

Kind = tuple[Callable[[Path], Awaitable[Files]], Callable[[Files], list[Damage]]]
KINDS: dict[str, Kind] = {
    "the file cut": (closed_ledger, lambda files: cuts(files, LEDGER, 2 * PAGE_BYTES)),
    "the file cut under its log": (killed_ledger, lambda files: cuts(files, LEDGER, PAGE_BYTES)),
    "the log cut": (killed_ledger, lambda files: cuts(files, LOG, 3 * FRAME_BYTES)),
    "the log cut at its begin": (killed_ledger, lambda files: cuts(files, LOG, len(files[LOG]))[:FRAME_BYTES]),
    "an answer changed in the file": (closed_ledger, lambda files: flips_of_answers(files, LEDGER)),
    "an answer changed in the log": (killed_ledger, lambda files: flips_of_answers(files, LOG)),
    "a call changed in the file": (closed_ledger, lambda files: flips_of_answers(files, LEDGER, CALLS)),
    "a call changed in the log": (killed_ledger, lambda files: flips_of_answers(files, LOG, CALLS)),
    "anything changed in the file": (closed_ledger, lambda files: flips_anywhere(files, LEDGER)),
    "anything changed in the log": (killed_ledger, lambda files: flips_anywhere(files, LOG)),
    "marks changed": (killed_ledger, lambda files: flips_anywhere(files, MARKS)[:500]),
}


def states(kind: int, total: int, share: int) -> list[int]:
    """Which of the states of a kind are run."""
    if ONE_STATE:
        asked, number = map(int, ONE_STATE.split("/"))
        return [number] if asked == kind else []
    if EVERY_STATE:
        return list(range(share, total, SHARES))
    return sorted(Random(f"{SEED}/{kind}").sample(range(total), SOME))


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("kind", KINDS)
async def test_no_damage_gives_out_a_wrong_row_or_hides_a_lost_one(kind: str, share: int, tmp_path: Path) -> None:
    make, damages = KINDS[kind]
    files = await make(tmp_path / "whole")
    possible, number_of_kind = damages(files), list(KINDS).index(kind)
    for number in states(number_of_kind, len(possible), share):
        damage, folder = possible[number], tmp_path / "damaged"
        try:
            with _patience():
                await _check(damage.lay_out(files, folder), damage)
        except Exception as error:
            error.add_note(f"PENSTOCK_SEED={SEED} PENSTOCK_STATE={number_of_kind}/{number}: {kind}, {damage}")
            raise
        shutil.rmtree(folder)


@contextmanager
def _patience() -> Iterator[None]:
    """An endless loop becomes a failure that names its state. The timer that pytest-timeout may have set goes on afterwards."""

    def give_up(*_: object) -> None:
        pytest.fail("the ledger is read in circles")

    before = signal.signal(signal.SIGALRM, give_up)
    left, _ = signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)


async def _check(path: Path, damage: Damage) -> None:
    """Refused aloud, or opened with rows that are right and a count of those that are not; these can then be recorded."""
    _check_reading(path)
    try:
        ledger = LedgerFile(path)
    except (UsageError, LedgerFailed):
        assert damage.row is None, "a changed answer made the whole ledger unreadable"
        return
    try:
        absent = await _opened(ledger, damage)
        calls = [recorded_call(index) for index in absent if index in CALLS]
        await ledger.commit([row_of(index) for index in absent if index not in CALLS], calls)
    except (UsageError, LedgerFailed):
        assert damage.row is None, "a changed answer made the whole ledger unreadable"
        return
    finally:
        ledger.close()
    await _check_mended(path)


def _check_reading(path: Path) -> None:
    """`results` and OUTPUT are read so: a row is right or it is told to be damaged."""
    try:
        with closing(LedgerReader(path)) as reader:
            assert [entry for entry in reader.entries() if entry is not None and entry != row_of(entry.index)] == []
            assert [
                call for call in reader.calls() if call and call != recorded_call(call.entry.index, call.number)
            ] == []
    except (UsageError, LedgerFailed):
        return


async def _opened(ledger: LedgerFile, damage: Damage) -> list[int]:
    """Which rows will be sent again; each other one is right, and none of them is missed in silence."""
    record = ledger.latest()
    if record is None:
        ledger.begin(RunRecord(None, {}, rows=ROWS))
    else:
        ledger.resume(record)
    absent = [index for index in range(ROWS) if ledger.state(index) == ABSENT]
    for index in set(range(ROWS)) - set(absent):
        assert await ledger.read(index) == row_of(index)
    absent += [index for index in CALLS if not await _has_call(ledger, index)]
    if damage.file != MARKS:
        assert len(absent) <= ledger.lost, "rows are gone and nobody was told"
    if damage.row is not None:
        assert damage.row in absent
    return absent


async def _has_call(ledger: LedgerFile, index: int) -> bool:
    """Whether the call of a row is found again, which then must be right."""
    calls = await ledger.calls(index)
    assert [call for call in calls if call != recorded_call(index, call.number)] == []
    return len(calls) == 1


async def _check_mended(path: Path) -> None:
    """Nothing of the damage is left at the next opening."""
    ledger = LedgerFile(path)
    try:
        record = ledger.latest()
        assert record is not None
        ledger.resume(record)
        assert (ledger.lost, ledger.set_aside) == (0, None)
        for index in range(ROWS):
            assert await ledger.read(index) == row_of(index)
        for index in CALLS:
            assert await _has_call(ledger, index)
    finally:
        ledger.close()
