"""`penstock report`: how a run went, as one page of HTML, also while it is under way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from penstock.errors import UsageError

_HELP = """Write a page of HTML on OUTPUT's run: throughput, latency, tokens, cost, errors.

It reads the ledger beside OUTPUT, so it also works while the run is under way and
after it was stopped. The page is one file that needs no network.

\b
Example:
  penstock report summaries.jsonl --html report.html
"""


@click.command(help=_HELP)
@click.argument("output", metavar="OUTPUT")
@click.option("--html", "place", required=True, metavar="FILE", help="Where the page is written.")
def report(output: str, place: str) -> int:
    from penstock.jobs import ledger_of
    from penstock.report import read_report

    found = read_report(ledger_of(output))
    try:
        from penstock.report import to_html
    except ImportError as error:
        raise UsageError(
            f"penstock report needs the extra `report` ({error.name} is missing): pip install 'penstock[report]'"
        ) from error
    _refuse_files_of_the_run(Path(place), ledger_of(output), output, found.input_name)
    _write(Path(place), to_html(found, Path(output).name, time.time()))
    click.echo(f"{found.done:,} rows in {place}", err=True)
    return 0


def _refuse_files_of_the_run(place: Path, ledger: Path, *others: str | None) -> None:
    there = place.resolve()
    files = {Path(other).resolve() for other in others if other is not None}
    if there in files or there.name.startswith(ledger.name):
        raise UsageError(f"--html {place} is a file of the run itself; choose another name")


def _write(place: Path, text: str) -> None:
    """In one step, so that whoever reloads the page never sees half of it."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--html {place}: {os.strerror(error.errno or 0).lower()}; choose another place") from error
