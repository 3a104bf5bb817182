"""`penstock generate`: one prompt, one answer, shown as it comes."""

from __future__ import annotations

import sys
from typing import Any

import click

from penstock.cli.options import asking_options, model_options, params_of, patience_options

_HELP = """Ask PROMPT (- reads it from standard input) and print the answer as it comes.

\b
Examples:
  penstock generate "Explain quantum computing in simple terms." -m openai/gpt-5-mini
  cat letter.txt | penstock generate - -m mistral/mistral-small --system "Translate to French."
  penstock generate "Summarise in one sentence: $(cat notes.txt)" -m builtin/extractive
"""


@click.command(help=_HELP)
@click.argument("prompt")
@model_options
@asking_options
@patience_options
def generate(prompt: str, **given: Any) -> int:
    import asyncio

    from penstock.client import Client

    text = sys.stdin.read() if prompt == "-" else prompt
    params = params_of(given["params"], given["max_tokens"], given["temperature"])
    client = Client(
        given["model"],
        base_url=given["base_url"],
        max_retries=given["max_retries"],
        timeout=given["timeout"],
        deadline=given["deadline"],
    )

    async def ask() -> None:
        async with client, client.stream(text, system=given["system"], **params) as stream:
            async for chunk in stream:
                click.echo(chunk.text, nl=False)
        response = stream.response
        click.echo()
        if response.finish_reason not in ("stop", "tool_calls"):
            click.echo(f"(the answer ended by: {response.finish_reason})", err=True)

    asyncio.run(ask())
    return 0
