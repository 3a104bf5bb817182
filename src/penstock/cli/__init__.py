"""The command line: one file for each command, loaded when it is called; what an error means for the exit status.

0    every row ok                           3    stopped early; the same command resumes
1    finished, some rows failed             130  after Ctrl-C (SIGINT); resumable
2    bad usage or input; nothing was sent   143  after SIGTERM; resumable
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import click

from penstock import __version__
from penstock.errors import PenstockError, RequestError, RunStopped

COMMANDS = {
    "run": "Send a file of prompts, write a file of answers.",
    "plan": "Tell what a run would take; sends nothing.",
    "results": "Print what a run has recorded so far, as JSON lines.",
    "verify": "Check the account of a run.",
    "report": "Draw how a run went, as one page of HTML.",
    "generate": "Ask one prompt and print the answer.",
    "serve": "Serve models over HTTP: /generate, and the OpenAI API.",
    "simulate": "Serve a simulated provider on this machine.",
    "demo": "Try the main job on the Python manual; no key, no network.",
}

EPILOG = """
\b
Examples:
  penstock demo
  penstock run articles/ -o summaries.jsonl -m openai/gpt-5-mini \\
      --prompt "Summarise in three sentences: {text}"
  penstock results summaries.jsonl --failed
  penstock generate "Why is the sky blue?" -m anthropic/claude-haiku-4-5

Every command has its own --help with examples.
"""


class Commands(click.Group):
    """Knows its commands by name and loads one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"penstock.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="penstock", message="%(prog)s %(version)s")
def cli() -> None:
    """Many LLM API calls: as fast as the limits allow, nothing lost, nothing paid twice."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status."""
    sys.exit(status_of(arguments))


def status_of(arguments: list[str] | None = None) -> int:
    """The exit status of a command; what went wrong is printed to standard error."""
    try:
        return cli.main(arguments, prog_name="penstock", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except PenstockError as error:
        click.echo(f"penstock: {error}", err=True)
        return _status(error)
    except BrokenPipeError:
        # Whoever read us (`| head`) has had enough. Python would complain once more when it flushes at exit.
        sys.stdout = None
        return 0


def _status(error: PenstockError) -> int:
    if isinstance(error, RunStopped):
        return 3
    return 1 if isinstance(error, RequestError) else 2
