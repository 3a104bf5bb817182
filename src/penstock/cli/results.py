"""`penstock results`: what is recorded so far, also while the run is under way."""

from __future__ import annotations

from contextlib import closing

import click

_HELP = """Print the recorded rows of OUTPUT's run as JSON lines, in input order.

It reads the ledger beside OUTPUT, so it also works while the run is under way
and after it was stopped.

\b
Examples:
  penstock results summaries.jsonl | head
  penstock results summaries.jsonl --failed
"""


@click.command(help=_HELP)
@click.argument("output", metavar="OUTPUT")
@click.option("--failed", is_flag=True, help="Only rows that failed.")
def results(output: str, failed: bool) -> int:
    from penstock.edges.ledger import LedgerReader
    from penstock.jobs import ledger_of, recorded_results
    from penstock.rules.lines import output_line

    damaged = 0
    with closing(LedgerReader(ledger_of(output))) as reader:
        for result in recorded_results(reader):
            if result is None:
                damaged += 1
            elif not (failed and result.ok):
                click.echo(output_line(result))
    if damaged:
        click.echo(f"{damaged:,} recorded rows are damaged and left out; run again to send them once more", err=True)
    return 0
