"""A request log in a process of its own whose disk fails at a chosen call: FOLDER HOW AT ENDING. Prints what it counted.

ENDING is what happens after three refused writes: `mended`, `moved` (the file is renamed, then it is mended), or `never`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.server.exchange import Exchange
from penstock.server.request_log import RequestLog
from penstock.testing import ManualClock
from tests.kit.disk import Shim

EXCHANGES = 40
REFUSALS = 3


async def main(folder: Path, how: int, at: int, ending: str) -> dict[str, float]:
    """Log, meet the fault, go on."""
    shim, clock = Shim(), ManualClock()
    log = RequestLog(folder / "requests.jsonl", clock=clock)
    await log.start()
    shim.watch(folder)
    shim.fail(how, at)
    for number in range(EXCHANGES):
        # Lines of uneven length, so that half of a batch is never a number of whole lines.
        fields = {"began_at": clock.wall(), "duration_s": 0.1, "key_name": "k" * number}
        log.record(Exchange(request_id=f"r-{number}", route="/generate", status=200, **fields))
        if number % 4 == 0:
            before = log.written
            await _until(lambda before=before: log.failures or log.written > before, clock)
    await _until(lambda: log.failures >= REFUSALS, clock)
    if ending != "never":
        # The log waits for its clock, so nothing is written before the file is moved.
        shim.fail(0, 0)
        if ending == "moved":
            (folder / "requests.jsonl").rename(folder / "requests.jsonl.1")
        await _until(lambda: log.written == EXCHANGES, clock)
    await log.aclose()
    return log.statistics()


async def _until(condition: Callable[[], object], clock: ManualClock) -> None:
    """Let time pass until it is so; what is written comes from a thread, which no event tells of."""
    while not condition():
        clock.advance(60.0)
        await asyncio.sleep(0)


if __name__ == "__main__":
    told = asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
    sys.stdout.write(msgspec.json.encode(told).decode())
