"""Options that several commands share, and how text from the command line becomes a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from penstock.options import Limits
    from penstock.rules.asking import Asking

F = TypeVar("F", bound=Callable[..., Any])


def chain(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class FiniteRange(click.FloatRange):
    """A range of floats without infinity and not-a-number, which pass the comparisons of click's own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} must be a finite number.", param, ctx)
        return number


POSITIVE = FiniteRange(min=0, min_open=True)
NOT_NEGATIVE = FiniteRange(min=0)
COUNT = click.IntRange(min=1)

model_options = chain(
    click.option("-m", "--model", required=True, metavar="PROVIDER/MODEL", help="For example openai/gpt-5-mini."),
    click.option("--base-url", metavar="URL", help="Another server of the same protocol, with its /v1."),
)
asking_options = chain(
    click.option("--system", metavar="TEXT", help="System message for rows that have none."),
    click.option("--max-tokens", type=COUNT, metavar="N", help="Longest answer, in tokens."),
    click.option("--temperature", type=NOT_NEGATIVE, metavar="T", help="Sampling temperature."),
    click.option(
        "--param", "params", multiple=True, metavar="KEY=VALUE", help="Any other field of the body (JSON or text)."
    ),
)
stream_end_option = click.option(
    "--stream-end",
    type=click.Choice(["done", "finish_reason", "close"]),
    help="The least that ends a stream of this server well: [DONE], as is usual; a finish reason; or no more than its close.",
)
file_options = chain(
    click.option("--prompt", metavar="TEMPLATE", help="What to ask; {column} is filled from the row."),
    click.option("--prompt-file", metavar="FILE", help="The same, from a file."),
    asking_options,
    click.option("--limit", type=COUNT, metavar="N", help="Only the first N rows."),
    click.option("--id", "id_column", metavar="COLUMN", help="Column that names the rows."),
)
row_options = chain(
    file_options,
    click.option("--keep", multiple=True, metavar="COLUMN", help="Column to copy to the output (repeatable)."),
)
limit_options = chain(
    click.option(
        "--max-concurrency", type=COUNT, metavar="N", help="Requests in flight.  [default: found out, up to 1000]"
    ),
    click.option("--rpm", type=POSITIVE, metavar="N", help="Requests a minute that the account allows."),
    click.option("--tpm", type=POSITIVE, metavar="N", help="Tokens a minute that the account allows."),
    click.option(
        "--input-tpm", type=POSITIVE, metavar="N", help="Input tokens a minute, where they are counted apart."
    ),
    click.option("--output-tpm", type=POSITIVE, metavar="N", help="Output tokens a minute, likewise."),
    click.option("--rpd", type=POSITIVE, metavar="N", help="Requests a day that the account allows."),
    click.option(
        "--share",
        type=FiniteRange(min=0, min_open=True, max=1),
        default=1.0,
        metavar="S",
        help="How much of every limit to use, told by the provider or by you; 0.6 leaves 40 % to others.",
    ),
)
patience_options = chain(
    click.option("--max-retries", type=click.IntRange(min=0), default=5, show_default=True, help="Retries of a row."),
    click.option("--timeout", type=POSITIVE, metavar="S", help="Longest attempt, in seconds."),
    click.option("--deadline", type=POSITIVE, metavar="S", help="Longest row with all its attempts, in seconds."),
)


def asking_of(given: Mapping[str, Any]) -> Asking:
    """What `row_options` ask of every row."""
    from penstock.rules.asking import Asking

    return Asking(
        prompt=prompt_of(given["prompt"], given["prompt_file"]),
        system=given["system"],
        params=params_of(given["params"], given["max_tokens"], given["temperature"]),
        id_column=given["id_column"],
        keep=given.get("keep", ()),
    )


def limits_of(given: Mapping[str, Any]) -> Limits:
    """The limits that the options name."""
    from penstock.options import Limits

    return Limits(
        requests_per_minute=given["rpm"],
        tokens_per_minute=given["tpm"],
        input_tokens_per_minute=given["input_tpm"],
        output_tokens_per_minute=given["output_tpm"],
        requests_per_day=given["rpd"],
        share=given["share"],
    )


def params_of(pairs: Sequence[str], max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
    """The parameters of the body; a value that is JSON is meant as JSON, any other is text."""
    params: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        key = name.strip()
        if not sign or not key:
            raise click.UsageError(f"--param takes KEY=VALUE, not {pair!r}; for example --param top_p=0.9")
        if key in params:
            raise click.UsageError(f"--param {key} is given twice")
        params[key] = _json_or_text(value)
    for key, given in (("max_tokens", max_tokens), ("temperature", temperature)):
        if given is not None:
            if key in params:
                raise click.UsageError(f"{key} is given twice: by --{key.replace('_', '-')} and by --param")
            params[key] = given
    return params


def _json_or_text(value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


def prompt_of(prompt: str | None, prompt_file: str | None) -> str | None:
    """The prompt template from the one place where it was given."""
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("give --prompt or --prompt-file, not both")
    if prompt_file is None:
        return prompt
    try:
        return Path(prompt_file).read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--prompt-file {prompt_file} cannot be read: {error}") from error
