"""`penstock run`: what the options mean. The run itself is `cli.session`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from penstock.cli.options import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    asking_of,
    limit_options,
    limits_of,
    model_options,
    patience_options,
    row_options,
)

_HELP = """Send every row of INPUT to a model and write one line for each to OUTPUT.

\b
INPUT   .jsonl/.ndjson, .csv, .tsv, .txt (a prompt a line), each also as .gz;
        a folder of text files; or - for JSON lines from standard input.
        Rows have `messages`, or a `prompt`, or columns that --prompt names;
        lines of the OpenAI batch format are answered in that format.
OUTPUT  JSON lines in input order, written whole at the end. Until then the
        state is in OUTPUT.ledger: run the same command again to resume.

\b
Examples:
  penstock run articles/ -o summaries.jsonl -m openai/gpt-5-mini \\
      --prompt "Summarise in three sentences: {text}"
  penstock run rows.csv -o out.jsonl -m mistral/mistral-small \\
      --prompt-file ask.txt --id article --keep author --rpm 300
  penstock run batch.jsonl -o answers.jsonl -m openai/gpt-5-mini
  penstock run prompts.txt -o out.jsonl -m vllm/my-model \\
      --base-url http://gpu:8000/v1
  penstock run books/ -o out.jsonl -m openai/gpt-5-mini --workflow summarise
  penstock run rows.csv -o out.jsonl -m openai/gpt-5-mini --prompt "..." \\
      --tpm 2000000 --share 0.6 --max-cost 25
  penstock run rows.jsonl -o out.jsonl -m vllm/my-model \\
      --base-url http://gpu:8000/v1 --max-concurrency 4000 --processes 4

\b
Exit status: 0 every row ok; 1 finished, some rows failed; 2 bad usage or
input, nothing sent; 3 stopped early, 130 or 143 after a signal: run the same
command again to resume.
"""


@click.command(help=_HELP)
@click.argument("input", metavar="INPUT")
@click.option("-o", "--output", required=True, metavar="OUTPUT", help="File of answers.")
@model_options
@row_options
@click.option(
    "--workflow",
    metavar="MODULE:FUNCTION",
    help="Run `async def FUNCTION(row, llm)` over each row; or a ready-made one: summarise.",
)
@limit_options
@click.option(
    "--processes",
    type=COUNT,
    default=1,
    metavar="N",
    help="Processes that send, each on a core of its own, where one core is too slow.  [default: 1]",
)
@patience_options
@click.option(
    "--grace",
    type=NOT_NEGATIVE,
    default=30.0,
    show_default=True,
    help="Seconds for what is in flight at Ctrl-C.",
)
@click.option(
    "--max-cost",
    type=POSITIVE,
    metavar="USD",
    help="Stop before the run would cost more; run again with more to go on.",
)
@click.option("--hedge", is_flag=True, help="Send again what is slower than nearly all; both may be billed.")
@click.option("--update", is_flag=True, help="Rows or options changed: send what has no answer yet.")
@click.option("--fresh", is_flag=True, help="Start over; the old ledger is kept under another name.")
@click.option("--retry-failed", is_flag=True, help="Send rows again that were refused for good.")
@click.option("--dedupe", is_flag=True, help="Send rows of equal content once.")
@click.option("--summary", metavar="FILE", help="Write the account as JSON.")
@click.option("--no-progress", is_flag=True, help="Show no progress.")
@click.option("-v", "--verbose", is_flag=True, help="Tell of each row that fails.")
def run(**given: Any) -> int:
    from penstock.cli.session import Telling, run_job
    from penstock.client import Client

    job = _job(given)
    client = Client(
        given["model"],
        base_url=given["base_url"],
        limits=limits_of(given),
        max_concurrency=given["max_concurrency"],
        max_retries=given["max_retries"],
        timeout=given["timeout"],
        deadline=given["deadline"],
        hedge=given["hedge"],
        processes=given["processes"],
    )
    telling = Telling(
        summary=_summary(given["summary"], (job.input, job.output, str(job.ledger))),
        progress=not given["no_progress"],
        verbose=given["verbose"],
        grace=given["grace"],
    )
    return run_job(job, client, telling)


def _job(given: dict[str, Any]) -> Any:
    from penstock.jobs import Job

    return Job(
        input=given["input"],
        output=given["output"],
        asking=asking_of(given),
        limit=given["limit"],
        again=_again(update=given["update"], fresh=given["fresh"]),
        retry_failed=given["retry_failed"],
        dedupe=given["dedupe"],
        max_cost=given["max_cost"],
        workflow=_workflow(given),
    )


def _workflow(given: dict[str, Any]) -> Any:
    """The function that `--workflow` names."""
    if given["workflow"] is None:
        return None
    if given["prompt"] is not None or given["prompt_file"] is not None:
        raise click.UsageError("give --workflow or --prompt, not both: a workflow's function asks what it wants")
    from penstock.edges.functions import load_function

    return load_function(given["workflow"])


def _again(*, update: bool, fresh: bool) -> Literal["resume", "update", "fresh"]:
    if update and fresh:
        raise click.UsageError("give --update or --fresh, not both")
    return "update" if update else "fresh" if fresh else "resume"


def _summary(path: str | None, taken: tuple[str, ...]) -> str | None:
    """The path of the summary; refused where writing it would fail or destroy a file that the run has."""
    if path is None:
        return None
    place = Path(path).resolve()
    if not place.parent.is_dir():
        raise click.UsageError(f"--summary {path}: the folder does not exist; create it first")
    if place.is_dir():
        raise click.UsageError(f"--summary {path} is a folder; name a file")
    if place in {Path(other).resolve() for other in taken}:
        raise click.UsageError(f"--summary {path} is a file of the run itself; choose another name")
    return path
