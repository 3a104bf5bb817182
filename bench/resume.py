"""A run of many recorded rows, resumed: how long until it sends the one row that is left, and how much memory that takes.

    python bench/resume.py [--rows 10000000] [--folder FOLDER]

It writes the input and a ledger in which all rows but the last are answered, starts `penstock run`, and waits for the one
request. Ten million rows take about 8 GB of disk; what it writes is removed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from penstock import Client, jobs
from penstock.edges.files import open_input
from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.records import Entry, RawRow, Result
from penstock.rules.asking import Asking
from penstock.rules.entries import to_entry
from penstock.rules.identity import request_digest
from penstock.testing import completion

ROWS_A_COMMIT = 20_000


def write_input(path: Path, rows: int) -> None:
    with path.open("w", encoding="ascii") as stream:
        for index in range(rows):
            stream.write(f'{{"id": "row-{index:08}", "prompt": "Row {index} asks: what follows {index}?"}}\n')


def entries(client: Client, rows: int) -> Iterator[Entry]:
    """What a run would have recorded for each row."""
    render, provider = client.render(Asking()), client.provider
    for index in range(rows):
        prompt = f"Row {index} asks: what follows {index}?"
        row = render(RawRow(index, "", {"id": f"row-{index:08}", "prompt": prompt}))
        response = provider.decode(completion(f"What follows {index} is {index + 1}, as far as anybody knows."), 0.0)
        result = Result(index, row.id, response=response, attempts=1, latency_s=1.0)
        yield to_entry(result, request_digest(provider.name, provider.encode(row.request, client.model)))


async def write_ledger(job: jobs.Job, client: Client, rows: int) -> None:
    digest = open_input(job.input).digest()  # type: ignore[union-attr]
    ledger = LedgerFile(job.ledger)
    ledger.begin(RunRecord(digest, client.options(job.asking), rows=rows, input_name=job.input))
    batch: list[Entry] = []
    for entry in entries(client, rows - 1):
        batch.append(entry)
        if len(batch) == ROWS_A_COMMIT:
            await ledger.commit(batch)
            batch = []
    await ledger.commit(batch)
    await ledger.aclose()


def first_send(job: jobs.Job, listener: socket.socket) -> tuple[float, float]:
    """Seconds from the start of the command to its request, and its peak memory then, in MB."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    run = [sys.executable, "-m", "penstock", "run", job.input, "-o", job.output, "-m", "custom/m", "--base-url", url]
    began = time.monotonic()
    process = subprocess.Popen(run, stderr=subprocess.DEVNULL)
    connection, _ = listener.accept()
    connection.recv(1)
    seconds = time.monotonic() - began
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.kill()
    process.wait()
    connection.close()
    return seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--folder", default=None)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        job = jobs.Job(input=f"{folder}/in.jsonl", output=f"{folder}/out.jsonl", asking=Asking())
        began = time.monotonic()
        write_input(Path(job.input), given.rows)
        client = Client("custom/m", base_url="http://127.0.0.1:1/v1")
        asyncio.run(write_ledger(job, client, given.rows))
        size = job.ledger.stat().st_size / 1e9
        print(f"{given.rows:,} rows written in {time.monotonic() - began:.0f} s, ledger {size:.1f} GB", flush=True)
        for turn in ("first", "again"):
            seconds, memory = first_send(job, listener)
            print(f"{turn}: first send after {seconds:.1f} s, peak memory {memory:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
