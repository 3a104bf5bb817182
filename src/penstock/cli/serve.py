"""`penstock serve`: the web server, from a file or for models named on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from penstock.cli.options import POSITIVE, limit_options, patience_options
from penstock.errors import UsageError

if TYPE_CHECKING:
    from penstock.server.settings import Settings

KEY_VARIABLE = "PENSTOCK_SERVER_KEY"
CONFIG = "penstock.toml"
_OF_THE_SERVER = frozenset({"config", "host", "port", "data", "key", "hosts", "grace"})
_OF_A_MODEL = (
    *("rpm", "tpm", "input_tpm", "output_tpm", "rpd", "share"),
    *("max_concurrency", "max_retries", "timeout", "deadline"),
)
"""What the command line and a model's table in the file call by the same name."""

_HELP = """Serve models over HTTP: POST /generate, and the OpenAI API with chat, models, files and batches.

\b
Every request goes through one engine per model: its limits, its retries, its
account. Interactive requests do not wait behind batches.

\b
Examples:
  penstock serve -m builtin/extractive
  penstock serve -m openai/gpt-5-mini --rpm 500 --tpm 200000
  penstock serve -m custom/llama --base-url http://localhost:8001/v1 --port 9000
  penstock serve --config penstock.toml
  PENSTOCK_SERVER_KEY=... penstock serve -m openai/gpt-5-mini --host 0.0.0.0 --allow-host api.example.com

\b
  curl localhost:8000/generate -H 'content-type: application/json' \\
       -d '{"prompt": "Explain quantum computing in simple terms."}'
  OpenAI(base_url="http://localhost:8000/v1", api_key="any")

Without a key it listens on this machine only. With one (in PENSTOCK_SERVER_KEY, or
in the variable that --key names) every route but /healthz needs it.
"""


@click.command(help=_HELP)
@click.option("-m", "--model", "models", multiple=True, metavar="PROVIDER/MODEL", help="Model to serve (repeatable).")
@click.option("--config", metavar="FILE", help=f"Settings.  [default: {CONFIG}, where there is one and no -m]")
@click.option("--base-url", metavar="URL", help="Another server of the same protocol, with its /v1.")
@click.option("--host", metavar="H", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="P", help="Port; 0 takes a free one.  [default: 8000]")
@click.option(
    "--data", metavar="DIR", help="Where files, batches and the request log are kept.  [default: ./penstock-data]"
)
@click.option("--key", metavar="VARIABLE", help=f"Variable with the key that clients send.  [default: {KEY_VARIABLE}]")
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME", help="Further host name to answer to (repeatable)."
)
@click.option("--grace", type=POSITIVE, metavar="S", help="How long requests may finish at a stop.  [default: 30]")
@limit_options
@patience_options
def serve(**given: Any) -> int:
    try:
        from penstock.server.running import run
    except ImportError as error:
        raise UsageError(
            f"penstock serve needs the extra `server` ({error.name} is missing): pip install 'penstock[server]'"
        ) from error
    from penstock.server.app import Server

    server = Server(settings_of(given), os.environ)
    click.echo(f"serving {', '.join(server.serving.models.names)}; state in {server.data}; Ctrl-C stops", err=True)
    return run(server, lambda line: click.echo(line, err=True))


def settings_of(given: dict[str, Any]) -> Settings:
    """The file's settings, or those of the command line; `--host`, `--port`, `--data` and such win over the file."""
    from penstock.server.settings import Settings, read_settings

    config = given["config"] or (CONFIG if not given["models"] and Path(CONFIG).exists() else None)
    if config is not None and given["models"]:
        raise click.UsageError("give -m or --config, not both")
    if config is not None and (silenced := _silenced_options()):
        raise click.UsageError(
            f"{', '.join(silenced)}: with a file, say it there, in the tables of its models and endpoints"
        )
    settings = read_settings(Path(config)) if config is not None else Settings(**_named_models(given))
    return _overridden(settings, given)


def _silenced_options() -> list[str]:
    """The options given that are about a model of the command line: with a file they would change nothing."""
    context = click.get_current_context()
    given = (
        parameter
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    )
    return [parameter.opts[-1] for parameter in given if parameter.name not in _OF_THE_SERVER]


def _named_models(given: dict[str, Any]) -> dict[str, Any]:
    from penstock.server.settings import Endpoint, Served

    endpoint = "command line" if given["base_url"] is not None else None
    served = Served(endpoint=endpoint, **{name: given[name] for name in _OF_A_MODEL})
    endpoints = {endpoint: Endpoint(base_url=given["base_url"])} if endpoint is not None else {}
    return {"models": dict.fromkeys(given["models"], served), "endpoints": endpoints}


def _overridden(settings: Settings, given: dict[str, Any]) -> Settings:
    import msgspec

    from penstock.server.settings import Key

    told = {name: given[name] for name in ("host", "port", "data", "grace") if given[name] is not None}
    if given["hosts"]:
        told["hosts"] = [*settings.server.hosts, *given["hosts"]]
    variable = given["key"] or (KEY_VARIABLE if os.environ.get(KEY_VARIABLE) and not settings.keys else None)
    keys = settings.keys | ({"default": Key(variable=variable)} if variable is not None else {})
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, **told), keys=keys)
