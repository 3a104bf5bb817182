"""Commands on a disk that fails: `with faulty_disk(folder) as disk: disk.run(arguments, on, FULL_FROM_THEN_ON, 17)`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.durability.commands_program import Done, Order
from tests.kit.disk import built_shim

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """How a command ended, what it told, and how many calls of the counted kind it made."""

    status: int
    told: str
    calls: int


class FaultyDisk:
    """The program that runs commands, one after the other."""

    def __init__(self, process: subprocess.Popen[bytes], told: Path) -> None:
        self._process, self._told = process, told

    def run(self, arguments: list[str], folder: Path, how: int = 0, at: int = 0) -> Ended:
        """`penstock ARGUMENTS`, where the `at`-th call on files in `folder` fails; 0 for none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = Order(arguments, str(folder), str(self._told), how, at)
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        done = msgspec.json.decode(self._process.stdout.readline(), type=Done)
        return Ended(done.status, self._told.read_text(), done.calls)


@contextmanager
def faulty_disk(folder: Path) -> Iterator[FaultyDisk]:
    """The program under way; `folder` takes the shim and what commands tell, and is not the one that fails."""
    environment = {**os.environ, "LD_PRELOAD": str(built_shim(folder)), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, Path(__file__).with_name("commands_program.py")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield FaultyDisk(process, folder / "told")
        finally:
            process.kill()
