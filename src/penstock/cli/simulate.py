"""`penstock simulate`: a provider on loopback, with limits, latency and faults, until it is told to stop.

It reads options and prints; what the provider does is decided in `simulator.behaviour`.
"""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING, Any

import click

from penstock.errors import UsageError

if TYPE_CHECKING:
    from penstock.simulator.behaviour import Faults, Seconds, Settings
    from penstock.simulator.server import Server

_SECONDS = re.compile(r"(?P<first>\d+(?:\.\d+)?)(?:(?P<sign>\.\.|,)(?P<second>\d+(?:\.\d+)?))?")

_HELP = """Serve a simulated provider, compatible with OpenAI's chat completions, on this machine.

\b
It answers each prompt with a short text made of it, needs no key, and stops at
Ctrl-C or SIGTERM with its account of what came in. GET /stats tells it earlier.

A prompt may choose its own fate: [[simulate:500]] in it is answered by a 500,
[[simulate:500*2]] only the first two times. Others: 400, 401, 429, 502, 503,
throttle-bare, no-credit, too-long, content-filter, filtered, length,
empty-choices, error-in-200, reset, stall, truncate, garbage.

\b
Examples:
  penstock simulate
  penstock simulate --rpm 600 --tpm 100000 --latency 0.3..1.5
  penstock simulate --fault error_500=0.05 --fault reset=0.01 --seed 7
  penstock simulate --port 0 --latency 0.8,0.5 --token-latency 0.01
  penstock simulate --slots 64 --latency 0.5

SECONDS is a number (0.5), a range (0.3..1.5: log-normal, nearly all of it well
inside, nothing outside), or MEDIAN,SIGMA of a log-normal (0.8,0.5).
"""


def _seconds(_: click.Context, __: click.Parameter, value: str) -> Seconds:
    """SECONDS as the help tells it."""
    from penstock.simulator.behaviour import Spread

    found = _SECONDS.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value!r}: write 0.5, or 0.3..1.5, or 0.8,0.5 for median,sigma")
    first, second = float(found["first"]), float(found["second"] or 0)
    try:
        if found["sign"] is None:
            return first
        return Spread.between(first, second) if found["sign"] == ".." else Spread(first, second)
    except UsageError as error:
        raise click.BadParameter(f"{value!r}: {error}") from error


def _faults(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Faults:
    """Each NAME=RATE; a name given twice counts once, the last."""
    from penstock.simulator.behaviour import Faults

    rates = {}
    for value in values:
        name, _sign, rate = value.partition("=")
        if name not in Faults.__struct_fields__:
            raise click.BadParameter(f"{name!r} is none: use one of {', '.join(Faults.__struct_fields__)}")
        try:
            rates[name] = float(rate)
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: write {name}=0.05, with a rate from 0 to 1") from error
    try:
        return Faults(**rates)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error


@click.command(help=_HELP)
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--rpm", "requests_per_minute", type=float, help="Requests a minute, for each model.")
@click.option("--tpm", "tokens_per_minute", type=float, help="Tokens a minute, for each model.")
@click.option(
    "--burst",
    "burst_seconds",
    metavar="SECONDS",
    type=float,
    default=60.0,
    show_default=True,
    help="How much of a limit may be used at once, as seconds of it.",
)
@click.option(
    "--window",
    type=click.Choice(["bucket", "fixed", "sliding"]),
    default="bucket",
    show_default=True,
    help="How a minute's limit is kept: a draining bucket, a counter anew each minute, a log of the last minute.",
)
@click.option("--slots", metavar="N", type=click.IntRange(1), help="Answer at most N at once; the others queue.")
@click.option(
    "--headers",
    type=click.Choice(["right", "none", "tenfold", "tenth", "spent", "garbage"]),
    default="right",
    show_default=True,
    help="What the limit headers tell; with none, a 429 names no wait either.",
)
@click.option("--latency", metavar="SECONDS", callback=_seconds, default="0", help="To the first token.")
@click.option("--token-latency", metavar="SECONDS", callback=_seconds, default="0", help="For each output token.")
@click.option("--output-tokens", type=int, help="Length that answers are filled up to.")
@click.option(
    "--fault",
    "faults",
    metavar="NAME=RATE",
    callback=_faults,
    multiple=True,
    help="Share of requests hit: error_500, error_503, throttle, throttle_bare, reset, stall, truncate, garbage, html.",
)
@click.option("--retry-after", metavar="SECONDS", type=float, default=1.0, help="Wait named by throttle and error_503.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same faults and times.")
@click.option("--api-key", metavar="KEY", help="Refuse every other key with 401.")
@click.option("--model", "models", metavar="NAME", multiple=True, help="Refuse every other model with 404; repeatable.")
@click.option("--key-refused-after", metavar="N", type=click.IntRange(0), help="After N requests the key is bad.")
@click.option("--credit-gone-after", metavar="N", type=click.IntRange(0), help="After N requests the money is spent.")
def simulate(port: int, host: str, models: tuple[str, ...], **chosen: Any) -> None:
    """Serve a simulated provider until SIGINT or SIGTERM, then print its account."""
    from penstock.simulator.behaviour import Settings

    try:
        settings = Settings(models=models or None, **chosen)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    try:
        _run(settings, host, port)
    except OSError as error:
        # asyncio wraps the reason in a sentence of its own, so that the number is what tells it.
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise click.UsageError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port (0 takes a free one) or --host"
        ) from error


def _run(settings: Settings, host: str, port: int) -> None:
    from penstock.edges.environment import raise_descriptor_limit, runner

    raise_descriptor_limit()
    with runner() as loop:
        loop.run(_serve(settings, host, port))


async def _serve(settings: Settings, host: str, port: int) -> None:
    import asyncio

    import msgspec

    from penstock.simulator.server import serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serve(settings, host, port) as server:
        _greet(server)
        await stop.wait()
        stats = server.stats()
    click.echo(msgspec.json.format(msgspec.json.encode(stats), indent=2).decode())


def _greet(server: Server) -> None:
    click.echo(f"listening on {server.base_url}")
    click.echo(f"try: penstock run prompts.jsonl -o answers.jsonl -m openai/any --base-url {server.base_url}")
