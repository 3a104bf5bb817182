"""The ledger of one run, opened where the run left it, and closed when the run is over.

It decides which run of a file a client goes on with; it sends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.engine.run import Run, to_its_end
from penstock.ports import Ledger
from penstock.records import Result
from penstock.rules.identity import options_digest


async def ledger_for(ledger: str | Path | Ledger | None, options: dict[str, Any]) -> Ledger | None:
    """A ledger that stands at this run: the last one where the options are its own, else a new one in the same file."""
    if not isinstance(ledger, str | Path):
        return ledger
    opening = asyncio.get_running_loop().run_in_executor(None, _opened, Path(ledger), options)
    return await to_its_end(opening, undo=LedgerFile.close)


def _opened(path: Path, options: dict[str, Any]) -> LedgerFile:
    store = LedgerFile(path)
    try:
        record = RunRecord(input_digest=None, options=options)
        latest = store.latest()
        if latest is not None and options_digest(latest.options) == options_digest(record.options):
            store.resume(record)
        else:
            store.begin(record)
    except BaseException:
        store.close()
        raise
    return store


def spent(ledger: Ledger | None) -> tuple[float, int]:
    """US dollars that earlier sessions of the same run have cost, and their sends that may be billed and have no answer."""
    if not isinstance(ledger, LedgerFile):
        return 0.0, 0
    return ledger.recorded.known_cost, ledger.recorded.ambiguous + ledger.forgotten()


class Start(Protocol):
    """How a run is started over an opened ledger; `look_up` where it may hold answers already."""

    async def __call__(self, store: Ledger | None, *, look_up: bool) -> Run: ...


async def results_of(
    start: Start,
    ledger: str | Path | Ledger | None,
    options: dict[str, Any],
    under_way: dict[Run, Callable[[], Awaitable[None]]],
) -> AsyncGenerator[Result, None]:
    """The results of a run; a ledger that is named by its path is opened for it, and closed at the end.

    While it is `under_way` it stands there, with what closes both: an iterator that is abandoned is closed whenever the loop
    gets to it, and closing the client must not wait for that.
    """
    store = await ledger_for(ledger, options)
    own = store if isinstance(store, LedgerFile) and store is not ledger else None
    try:
        look_up = store is not None and not (isinstance(store, LedgerFile) and store.is_new)
        run = await start(store, look_up=look_up)
    except BaseException:
        if own is not None:
            await own.aclose()
        raise
    close = under_way[run] = partial(_close, run, own)
    try:
        async with aclosing(run.results()) as results:
            async for result in results:
                yield result
    finally:
        under_way.pop(run, None)
        await close()


async def _close(run: Run, own_ledger: LedgerFile | None) -> None:
    """End a run, then close the ledger that was opened for it."""
    try:
        await run.aclose()
    finally:
        if own_ledger is not None:
            await own_ledger.aclose()
