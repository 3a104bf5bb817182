"""What the durable ledger costs a run at a fixed rate: throughput with and without it, and how long an answer waits for its commit.

    python bench/ledger.py [--rows 20000] [--rate 1000] [--rounds 3]

The provider is `penstock simulate` in a process of its own; runs with and without a ledger take turns, so that a noisy
machine is noisy for both. Throughput is rows over seconds; the wait is that of each commit call, from the loop's side.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from penstock import Client, Limits
from penstock.edges.ledger import LedgerFile
from penstock.records import Entry

waits: list[float] = []
commit = LedgerFile.commit


async def timed_commit(ledger: LedgerFile, entries: Sequence[Entry]) -> None:
    began = time.perf_counter()
    await commit(ledger, entries)
    waits.extend([time.perf_counter() - began] * len(entries))


async def rows_a_second(base_url: str, rows: int, rate: float, ledger: Path | None) -> float:
    limits = Limits(requests_per_minute=rate * 60)
    began, done = time.perf_counter(), 0
    async with Client("custom/m", base_url=base_url, limits=limits, max_concurrency=200) as client:
        async for result in client.map((f"Tell me fact {index}" for index in range(rows)), ledger=ledger):
            done += result.ok
    assert done == rows
    return rows / (time.perf_counter() - began)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--rate", type=float, default=1_000)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    LedgerFile.commit = timed_commit  # type: ignore[method-assign]
    command = [sys.executable, "-m", "penstock", "simulate", "--port", "0", "--latency", "0.02..0.05"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    base_url = server.stdout.readline().split()[-1]
    ratios = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(given.rounds):
                bare = uvloop.run(rows_a_second(base_url, given.rows, given.rate, None))
                kept = uvloop.run(rows_a_second(base_url, given.rows, given.rate, Path(folder) / f"{number}.ledger"))
                ratios.append(kept / bare)
                print(f"without {bare:7.1f} rows a second, with {kept:7.1f}: {kept / bare - 1:+.2%}", flush=True)
    finally:
        server.terminate()
        server.communicate()
    waits.sort()
    p50, p99 = (waits[int(len(waits) * part)] * 1000 for part in (0.5, 0.99))
    print(f"throughput {statistics.median(ratios) - 1:+.2%}, promised at least -3 %")
    print(f"an answer waits for its commit: p50 {p50:.1f} ms, p99 {p99:.1f} ms, promised at most 25 ms")


if __name__ == "__main__":
    main()
