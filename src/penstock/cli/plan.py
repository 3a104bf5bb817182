"""`penstock plan`: what a run would take, told before anything is sent. What it tells is made in `planning`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from penstock.cli.options import asking_of, limit_options, limits_of, model_options, patience_options, row_options

if TYPE_CHECKING:
    from penstock.client import Client
    from penstock.edges.files import Input
    from penstock.planning import Past
    from penstock.rules.asking import Asking

_HELP = """Tell what a run of INPUT would take: requests, tokens, money and time, each
as low, likely and high; what sets the time, and what would shorten it. Nothing
is sent and no key is needed.

Before the first answer the figures rest on assumptions, which are told, and the
ranges are wide. With -o, the answers that a run has recorded beside OUTPUT so
far are learned from, and only what is left of it is told; that works after a
run was stopped and also while it is under way. Fifty answers are enough.

\b
Examples:
  penstock plan articles/ -m openai/gpt-5-mini --rpm 500 --tpm 200000 \\
      --prompt "Summarise in three sentences: {text}"
  penstock run rows.csv -o out.jsonl -m openai/gpt-5-mini --prompt-file ask.txt --limit 60
  penstock plan rows.csv -o out.jsonl -m openai/gpt-5-mini --prompt-file ask.txt
  penstock plan batch.jsonl -m mistral/mistral-small --json
"""


@click.command(help=_HELP)
@click.argument("input", metavar="INPUT")
@click.option("-o", "--output", metavar="OUTPUT", help="OUTPUT of a run: learn from what it has recorded.")
@model_options
@row_options
@limit_options
@patience_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(**given: Any) -> int:
    import asyncio

    import msgspec

    from penstock.edges.files import open_input

    client, asking = _client(given), asking_of(given)
    source = open_input(given["input"])

    async def tell() -> Any:
        from penstock import planning

        past = await _past(given, client, asking, source)
        conditions, render = client.conditions(), client.render(asking)
        return await planning.plan(conditions, render, source.rows, past=past, limit=given["limit"])

    forecast = asyncio.run(tell())
    click.echo(msgspec.json.encode(forecast) if given["as_json"] else forecast)
    return 0


def _client(given: dict[str, Any]) -> Client:
    from penstock.client import Client
    from penstock.planning import Unconnected

    return Client(
        given["model"],
        base_url=given["base_url"],
        limits=limits_of(given),
        max_concurrency=given["max_concurrency"],
        max_retries=given["max_retries"],
        timeout=given["timeout"],
        deadline=given["deadline"],
        transport=Unconnected(),
    )


async def _past(given: dict[str, Any], client: Client, asking: Asking, source: Input) -> Past:
    """What the run of OUTPUT has recorded. Raises `UsageError` where that run is another one than is asked about."""
    from penstock.edges.files import check_output
    from penstock.edges.ledger import has_ledger
    from penstock.jobs import ledger_of
    from penstock.planning import NO_PAST, past_in

    output = given["output"]
    if output is None:
        return NO_PAST
    path = ledger_of(output)
    exists = has_ledger(path)
    check_output(given["input"], output, ledger_exists=exists)
    if not exists:
        return NO_PAST
    _require_same_run(given, client, asking, source)
    return await past_in(path)


def _require_same_run(given: dict[str, Any], client: Client, asking: Asking, source: Input) -> None:
    from contextlib import closing

    from penstock.edges.files import StandardInput
    from penstock.edges.ledger import LedgerReader
    from penstock.errors import RunChanged
    from penstock.jobs import ledger_of
    from penstock.rules.identity import changed_options

    path = ledger_of(given["output"])
    with closing(LedgerReader(path)) as reader:
        record = reader.record
    names = [name.replace("_", " ") for name in changed_options(record.options, client.options(asking))]
    if not isinstance(source, StandardInput) and source.digest() != record.input_digest:
        names.append("the rows")
    if names:
        raise RunChanged(
            f"{' and '.join(names)} changed since {path} was made, so it does not tell what is left: "
            "leave -o out to plan a run of its own"
        )
