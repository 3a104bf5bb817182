"""`penstock demo`: the main job on text that every Python carries, with the built-in model, so that it needs nothing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import click
import msgspec

INPUT = "demo-topics.jsonl"
OUTPUT = "demo-summaries.jsonl"
PROMPT = "Summarise in two sentences: {text}"
MODEL = "builtin/extractive"
IN_FLIGHT = 16
"""Few enough that there is something to watch."""
SHOWN = 3

_HELP = f"""Summarise the topics of the Python manual, with no key and no network.

It writes the topics to {INPUT} and their summaries to {OUTPUT}, through the same
path that a real provider takes. The built-in model picks the most telling
sentences of each text; it is no language model. Run it twice: the second time
nothing is sent.

\b
Example:
  penstock demo
"""


@click.command(help=_HELP)
@click.option("--no-progress", is_flag=True, help="Show no progress.")
def demo(no_progress: bool) -> int:
    from penstock.cli.session import Telling, run_job
    from penstock.client import Client
    from penstock.edges.files import check_output
    from penstock.jobs import Job, ledger_of
    from penstock.rules.asking import Asking

    check_output(INPUT, OUTPUT, ledger_exists=ledger_of(OUTPUT).exists())
    _write_topics(Path(INPUT))
    click.echo(
        f'This is: penstock run {INPUT} -o {OUTPUT} -m {MODEL} --id topic --prompt "{PROMPT}" '
        f"--max-concurrency {IN_FLIGHT}",
        err=True,
    )
    job = Job(input=INPUT, output=OUTPUT, asking=Asking(prompt=PROMPT, id_column="topic"))
    status = run_job(job, Client(MODEL, max_concurrency=IN_FLIGHT), Telling(progress=not no_progress))
    if status == 0:
        _show_some(Path(OUTPUT))
    return status


def _write_topics(path: Path) -> None:
    """The topics as rows; a file that is there and differs is somebody's own."""
    from pydoc_data.topics import topics

    lines = [msgspec.json.encode({"topic": topic, "text": text}) for topic, text in sorted(topics.items())]
    content = b"\n".join(lines) + b"\n"
    if path.exists() and path.read_bytes() != content:
        raise click.UsageError(f"{path} is here already and is not the demo's: run the demo in another folder")
    path.write_bytes(content)


def _show_some(output: Path) -> None:
    with output.open("rb") as lines:
        for line in islice(lines, SHOWN):
            row = msgspec.json.decode(line)
            click.echo(f"\n{row['id']}: {row['text']}")
    click.echo(
        f"\n... and more in {output}. Now with a real provider: set its key and pass -m, see penstock run --help."
    )
