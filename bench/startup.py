"""How long until Penstock is there, beside what cannot be done without: CPU of whole processes, as ratios in one run.

    python bench/startup.py [--rounds 25]

Each pair is started in turn, ours after the other, in the same interpreter and environment; the figures are medians of user and
system time, the ratios are taken pair by pair. Bytecode is compiled and files are in memory, because each is started once before;
no variable of Python's reaches them, for one of them would forbid to keep bytecode.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# The bench is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.figures import Target, machine, markdown, median, number, ratio

ROUNDS = 25
SCRIPT = Path(sys.executable).with_name("penstock")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class Pair(NamedTuple):
    """What is started, and beside what; `most` is how many times its CPU ours may take."""

    title: str
    ours: Sequence[str | Path]
    beside: str
    other: Sequence[str | Path]
    most: float


def python(code: str) -> list[str | Path]:
    return [sys.executable, "-c", code]


PAIRS = (
    Pair("import penstock", python("import penstock"), "python -c pass", python("pass"), 1.5),
    Pair(
        "from penstock import Client",
        python("from penstock import Client"),
        "import asyncio, msgspec, httptools, uvloop",
        python("import asyncio, msgspec, httptools, uvloop"),
        1.3,
    ),
    Pair("penstock --help", [SCRIPT, "--help"], "import click", python("import click"), 1.5),
)


def cpu_ms(command: Sequence[str | Path]) -> float:
    """User and system time of a process that must succeed, in milliseconds."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(map(str, command)))
    return (used.ru_utime + used.ru_stime) * 1000


def compared(pair: Pair, rounds: int) -> tuple[list[str], Target]:
    """A row of the table, and what was promised of it."""
    cpu_ms(pair.other), cpu_ms(pair.ours)
    told = [(cpu_ms(pair.other), cpu_ms(pair.ours)) for _ in range(rounds)]
    others, ours = zip(*told, strict=True)
    times = ratio(ours, others)
    row = [f"`{pair.title}`", number(median(ours)), f"`{pair.beside}`", number(median(others)), number(times)]
    return row, Target(f"`{pair.title}`, times `{pair.beside}`, at most {pair.most}", times, pair.most, at_least=False)


def told(rounds: int) -> Iterator[str]:
    """The table and what was promised."""
    rows, targets = zip(*(compared(pair, rounds) for pair in PAIRS), strict=True)
    yield from markdown([["", "CPU ms", "beside", "CPU ms", "times"], *rows], left=(0, 2))
    yield from ("", *map(str, targets))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = options.parse_args().rounds
    print(f"{machine()}; medians of {rounds}\n", *told(rounds), sep="\n")


if __name__ == "__main__":
    main()
