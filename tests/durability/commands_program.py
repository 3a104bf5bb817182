"""Commands of Penstock, each in a forked process of its own on a disk that fails at a chosen call.

Run by `faulty_disk.py` with the shim preloaded. Each line on standard input is an `Order`; what became of it is a line on
standard output, a `Done`. Forking saves each command the start of the interpreter and the imports, nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

import msgspec

from penstock.cli import status_of
from tests.kit.disk import Shim

LOADED_BEFORE = ("uvloop", "penstock.cli.run", "penstock.cli.session", "penstock.cli.verify", "penstock.edges.prices")
PATIENCE_SECONDS = 60
"""A command takes less than a second: one that takes so long is stuck, and is ended by SIGALRM."""


class Order(msgspec.Struct, frozen=True):
    """`penstock ARGUMENTS`; in `folder` the `at`-th call fails as `how` says; what it prints is written to `told`."""

    arguments: list[str]
    folder: str
    told: str
    how: int = 0
    at: int = 0


class Done(msgspec.Struct, frozen=True):
    """How it ended (negative: by that signal) and how many calls to the disk it made; -1 where it died before it could say."""

    status: int
    calls: int


def carried_out(order: Order) -> Done:
    """Fork, and wait for the end of the command."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        sys.exit(_command(order, theirs))
    os.close(theirs)
    with os.fdopen(ours) as counted:
        calls = counted.read()
    return Done(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(calls or -1))


def _command(order: Order, count: int) -> int:
    signal.alarm(PATIENCE_SECONDS)
    told = os.open(order.told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(told, stream)
    sys.argv = ["penstock", *order.arguments]
    shim = Shim()
    shim.watch(Path(order.folder))
    shim.fail(order.how, order.at)
    status = status_of(order.arguments)
    os.write(count, b"%d" % shim.calls())
    return status


def main() -> None:
    for name in LOADED_BEFORE:
        import_module(name)
    answers = os.dup(1)
    for line in sys.stdin:
        done = carried_out(msgspec.json.decode(line, type=Order))
        os.write(answers, msgspec.json.encode(done) + b"\n")


if __name__ == "__main__":
    main()
