"""`penstock verify`: the account of a run, for a person and as an exit status."""

from __future__ import annotations

import click

_HELP = """Check OUTPUT's ledger against itself, against OUTPUT and against the input.

Exit status 0 if the account balances: every recorded row is intact and stands
exactly once in OUTPUT, and the input is the one that the run was made with.

\b
Example:
  penstock verify summaries.jsonl
"""


@click.command(help=_HELP)
@click.argument("output", metavar="OUTPUT")
def verify(output: str) -> int:
    from penstock import jobs
    from penstock.cli.screen import calls_told
    from penstock.jobs.progress import money

    found = jobs.verify(output)
    click.echo(f"{found.rows:,} rows = {found.ok:,} ok + {found.failed:,} failed + {found.left:,} left")
    click.echo(f"{found.ambiguous:,} sends may be billed without an answer; cost of the answers {money(found.cost)}")
    if found.calls is not None:
        click.echo(calls_told(found.calls))
    if found.under_way:
        click.echo(f"{found.under_way:,} more rows are being sent, or were when the run died (the next run will tell)")
    if found.lost:
        click.echo(f"{found.lost:,} rows were recorded, lost by a crash of the system, and sent again")
    for problem in found.problems:
        click.echo(f"does not balance: {problem}")
    if not found.problems:
        click.echo("the account balances")
    return 1 if found.problems else 0
