"""A whole run of very many rows through the command: how much memory it takes from the first row to the last line of OUTPUT.

    python bench/ten_million.py [--rows 10000000] [--folder FOLDER]

It writes the input, starts `penstock simulate` and `penstock run`, prints a line every half minute, and at the end the peak
of the memory beside the promised 300 MB, and whether the account balances. Ten million rows take about 12 GB of disk and,
where provider and run have a core each, about an hour; what it writes is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROMISED_MB = 300
SAMPLE_SECONDS = 1.0
LINE_SECONDS = 30.0
PENSTOCK = (sys.executable, "-m", "penstock")


def write_input(path: Path, rows: int) -> None:
    with path.open("w", encoding="ascii") as stream:
        for index in range(rows):
            stream.write(f'{{"id": "row-{index:08}", "prompt": "Row {index} asks: what follows {index}?"}}\n')


@contextmanager
def provider() -> Iterator[str]:
    """The base URL of a simulator."""
    server = subprocess.Popen([*PENSTOCK, "simulate", "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split()[-1]
    finally:
        server.terminate()
        server.communicate()


def memory_mb(process: int, name: str) -> float:
    """`VmRSS` or, for the peak, `VmHWM`; 0.0 for a process that is over."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024 if name in status else 0.0


def watched(run: list[str]) -> tuple[int, float]:
    """Exit status and peak of the memory of a run, in MB."""
    process = subprocess.Popen(run, stderr=subprocess.DEVNULL)
    began, told, peak = time.monotonic(), 0.0, 0.0
    while process.poll() is None:
        peak = max(peak, memory_mb(process.pid, "VmHWM"))
        if (now := time.monotonic() - began) >= told:
            print(f"{now / 60:6.1f} min  {memory_mb(process.pid, 'VmRSS'):6.1f} MB, peak {peak:.1f} MB", flush=True)
            told = now + LINE_SECONDS
        time.sleep(SAMPLE_SECONDS)
    return process.returncode, peak


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--folder", default=None)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name, provider() as base_url:
        folder = Path(name)
        source, output, summary = folder / "in.jsonl", folder / "out.jsonl", folder / "summary.json"
        write_input(source, given.rows)
        run = [*PENSTOCK, "run", str(source), "-o", str(output), "-m", "custom/m", "--base-url", base_url]
        status, peak = watched([*run, "--no-progress", "--summary", str(summary)])
        told = json.loads(summary.read_bytes())
        verified = subprocess.run([*PENSTOCK, "verify", str(output)], capture_output=True, text=True, check=False)
        size = Path(f"{output}.ledger").stat().st_size / 1e9
        print(
            f"exit {status}; {told['ok']:,} of {told['rows']:,} rows ok; {told['requests_per_s']:.0f} requests a second"
        )
        print(f"{told['wall_s']:.0f} s, ledger {size:.2f} GB; {verified.stdout.splitlines()[-1]}")
        print(f"peak memory {peak:.0f} MB, promised at most {PROMISED_MB} MB")


if __name__ == "__main__":
    main()
