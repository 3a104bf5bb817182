"""`penstock generate`: one prompt or several, the answers shown as they come."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.options import (
    asking_of,
    file_options,
    limit_options,
    limits_of,
    model_options,
    params_of,
    patience_options,
    stream_end_option,
)

if TYPE_CHECKING:
    from penstock.client import Client
    from penstock.edges.files import Input

_HELP = """Ask PROMPT (- reads it from standard input), or each row of a FILE, and print the answers as they come.

\b
FILE is any INPUT of `penstock run`: JSON lines, CSV, TSV, text (a prompt a
line), a folder, or - for JSON lines from standard input. Its answers are shown
in turn, each headed by its id; nothing is recorded: `penstock run` does that.

\b
Examples:
  penstock generate "Explain quantum computing in simple terms." -m openai/gpt-5-mini
  cat letter.txt | penstock generate - -m mistral/mistral-small --system "Translate to French."
  penstock generate "Summarise in one sentence: $(cat notes.txt)" -m builtin/extractive
  penstock generate -f questions.txt -m openai/gpt-5-mini --side-by-side
  penstock generate -f towns.csv --id town --prompt "One sentence on {town}." \\
      -m vllm/my-model --base-url http://gpu:8000/v1 --max-concurrency 8

\b
Exit status: 0 every answer came; 1 one did not; 2 bad usage or input, nothing
sent; 3 stopped early (a refused key, no credit, an unknown model); 130 Ctrl-C.
"""


@click.command(help=_HELP)
@click.argument("text", metavar="[PROMPT]", required=False)
@click.option("-f", "--file", metavar="FILE", help="Ask every row of it, in place of PROMPT.")
@click.option("--side-by-side", is_flag=True, help="With -f, on a terminal: answers in columns.")
@model_options
@file_options
@stream_end_option
@limit_options
@patience_options
def generate(text: str | None, **given: Any) -> int:
    import asyncio

    from penstock.client import Client
    from penstock.edges.environment import runner

    _check(text, given)
    client = Client(
        given["model"],
        base_url=given["base_url"],
        limits=limits_of(given),
        max_concurrency=given["max_concurrency"],
        max_retries=given["max_retries"],
        timeout=given["timeout"],
        deadline=given["deadline"],
        stream_end=given["stream_end"],
    )
    if text is not None:
        return asyncio.run(_one(client, sys.stdin.read() if text == "-" else text, given))
    with runner() as loop:
        return loop.run(_each(client, _checked(client, given), given))


def _check(text: str | None, given: dict[str, Any]) -> None:
    if (text is None) == (given["file"] is None):
        raise click.UsageError('give one prompt ("..."), or -f FILE for several')
    of_files = {
        "--prompt": given["prompt"],
        "--prompt-file": given["prompt_file"],
        "--limit": given["limit"],
        "--id": given["id_column"],
        "--side-by-side": given["side_by_side"] or None,
    }
    for name, value in of_files.items():
        if text is not None and value is not None:
            raise click.UsageError(f"{name} is about the rows of -f FILE; the one prompt is asked as it stands")


async def _one(client: Client, text: str, given: dict[str, Any]) -> int:
    params = params_of(given["params"], given["max_tokens"], given["temperature"])
    async with client, client.stream(text, system=given["system"], **params) as stream:
        try:
            async for chunk in stream:
                click.echo(chunk.text, nl=False)
        finally:
            if stream.text:
                click.echo()
    reason = stream.response.finish_reason
    if reason not in ("stop", "tool_calls"):
        click.echo(f"(the answer ended by: {reason})", err=True)
    return 0


def _checked(client: Client, given: dict[str, Any]) -> Input:
    """The rows of the file; raises `InputError` for those that can never be sent, before anything is."""
    from penstock.edges.files import StandardInput, open_input
    from penstock.errors import InputError
    from penstock.rules.input_check import check_rows

    source = open_input(given["file"])
    if not isinstance(source, StandardInput):
        found = check_rows(lambda: source.rows(lambda _: False), client.render(asking_of(given)))
        if found.errors:
            raise InputError(found.errors[0].where, "\n".join([found.errors[0].reason, *map(str, found.errors[1:])]))
        if not found.rows:
            raise InputError(given["file"], "there are no rows in it")
    return source


async def _each(client: Client, source: Input, given: dict[str, Any]) -> int:
    from functools import partial

    from penstock.cli.showing import InTurn, Show, SideBySide, Window
    from penstock.edges.environment import is_terminal
    from penstock.engine.streamed_rows import HandOver, StreamedRequests, interleaved
    from penstock.records import Result, RowChunk
    from penstock.rules.tally import Tally

    show: Show = SideBySide() if given["side_by_side"] and is_terminal(sys.stdout) else InTurn()
    hand, tally = HandOver[RowChunk | Result](), Tally()
    window = Window(source.rows(lambda _: False), show.ahead, given["limit"])
    async with client:
        work = partial(StreamedRequests, hand, "error")
        run = await client.start(window.rows(), asking_of(given), tally, work=work)
        with show:
            async for item in interleaved(hand, run.results()):
                show.take(item, window.move)
    totals = tally.totals
    if totals.failed:
        click.echo(f"{totals.failed:,} of {totals.ok + totals.failed:,} prompts have no answer", err=True)
    return 1 if totals.failed else 0
