"""An endless run with faults: memory and descriptors must stay flat. Prints a line a minute and the slopes at the end.

    python bench/soak.py [--minutes 60] [--rate 200]

The provider is `penstock simulate` with 5 % faults (500s, resets, truncations, stalls); the client is the library with a
durable ledger, at a fixed rate. Slopes are least squares over the samples after the first sixth of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import uvloop

from penstock import Client, Limits

FAULTS = ("error_500=0.02", "reset=0.01", "truncate=0.01", "stall=0.005", "throttle_bare=0.0001", "html=0.005")
SAMPLE_SECONDS = 10.0


def memory_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def slope_an_hour(samples: list[tuple[float, float]]) -> float:
    """Least squares, in units an hour."""
    mean_t = sum(t for t, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return 3600 * sum((t - mean_t) * (y - mean_y) for t, y in samples) / spread if spread else 0.0


async def soak(base_url: str, minutes: float, rate: float, ledger: Path) -> None:
    began, until = time.monotonic(), time.monotonic() + minutes * 60
    seen: Counter[str] = Counter()
    samples: list[tuple[float, float, int]] = []

    def rows() -> Iterator[str]:
        index = 0
        while time.monotonic() < until:
            yield f"Tell me fact {index}"
            index += 1

    async def watch() -> None:
        for turn in count():
            samples.append((time.monotonic() - began, memory_mb(), descriptors()))
            if turn % 6 == 0:
                at, memory, files = samples[-1]
                print(
                    f"{at / 60:5.1f} min  {sum(seen.values()):9,} rows  {memory:6.1f} MB  {files:4} files", flush=True
                )
            await asyncio.sleep(SAMPLE_SECONDS)

    limits = Limits(requests_per_minute=rate * 60)
    async with Client("custom/m", base_url=base_url, limits=limits, max_concurrency=200, timeout=10.0) as client:
        watching = asyncio.create_task(watch())
        async for result in client.map(rows(), ledger=ledger):
            seen["ok" if result.ok else result.error.kind if result.error else "?"] += 1
        watching.cancel()
    late = [sample for sample in samples if sample[0] > minutes * 10]
    print(f"rows: {dict(seen)}, {sum(seen.values()) / (minutes * 60):.1f} a second")
    print(
        f"memory: {late[0][1]:.1f} -> {late[-1][1]:.1f} MB, slope {slope_an_hour([(t, m) for t, m, _ in late]):+.2f} MB/h"
    )
    print(f"files: {min(f for _, _, f in late)} to {max(f for _, _, f in late)}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--rate", type=float, default=200)
    given = options.parse_args()
    faults = [word for fault in FAULTS for word in ("--fault", fault)]
    server = subprocess.Popen(
        [sys.executable, "-m", "penstock", "simulate", "--port", "0", "--latency", "0.1..0.4", *faults],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    base_url = server.stdout.readline().split()[-1]
    try:
        with tempfile.TemporaryDirectory() as folder:
            uvloop.run(soak(base_url, given.minutes, given.rate, Path(folder) / "soak.ledger"))
    finally:
        server.terminate()
        server.communicate()


if __name__ == "__main__":
    main()
