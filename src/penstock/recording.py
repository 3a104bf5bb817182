"""The ledger of one run, opened where the run left it. It decides which run of a file a client goes on with; it sends nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.engine.run import Run, to_its_end
from penstock.ports import Ledger
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


async def close_run(run: Run, own_ledger: LedgerFile | None) -> None:
    """End a run, then close the ledger that was opened for it."""
    try:
        await run.aclose()
    finally:
        if own_ledger is not None:
            await own_ledger.aclose()
