"""What a journey needs: the command as users call it, an input, the answers that must come out, and what a run leaves on disk.

Nothing here goes through the code that it checks: OUTPUT is read as JSON, the ledger as a database, the slot file as bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from penstock.edges.ledger.schema import INDEX_BITS
from penstock.edges.ledger.slots import FIRST_SLOT, SLOT
from penstock.simulator.behaviour import expected_text
from tests.kit.simulated import Simulated

SEED = int(os.environ.get("PENSTOCK_SEED", "20260904"))
"""Where chance comes from; read at import, because every test starts without the machine's own variables."""

PATIENCE_SECONDS = 180
"""Nothing here takes so long: a command that does is stuck."""

LINES_SHOWN = 5
INDEX_MASK = (1 << INDEX_BITS) - 1


def note(record_property: Callable[[str, object], None], **figures: object) -> None:
    """Keep figures with the test's result and print them, for whoever runs it by `-s` or sees it fail."""
    for name, value in figures.items():
        record_property(name, value)
        sys.stdout.write(f"{name}={value}\n")


class Line(msgspec.Struct):
    """What is compared of a line of OUTPUT."""

    id: str
    index: int
    text: str | None
    attempts: int
    error: dict[str, Any] | None


read_line = msgspec.json.Decoder(Line).decode


def prompt_of(index: int) -> str:
    """What row `index` asks; no two rows ask the same."""
    return f"Row {index} asks: what follows {index}?"


def row_id(index: int) -> str:
    """The row's own id, which is not its index."""
    return f"row-{index:07}"


def write_input(path: Path, rows: int, special: Mapping[int, Mapping[str, str]] = MappingProxyType({})) -> Path:
    """An input of so many rows; `special` has columns that some of them have instead or besides."""
    with path.open("w", encoding="ascii") as stream:
        for index in range(rows):
            line = {"id": row_id(index), "prompt": prompt_of(index), **special.get(index, {})}
            stream.write(json.dumps(line) + "\n")
    return path


def command(*arguments: object) -> list[str]:
    """`penstock ...` by this interpreter, as one process whose number is that of the run."""
    return [sys.executable, "-m", "penstock", *map(str, arguments)]


def penstock(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command from its start to its end."""
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=environment, check=False
    )


@contextmanager
def under_way(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on meanwhile; it is killed at the end if it still runs."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; returns the exit status and what was told on standard error."""
    _, told = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, told


def wait_until(provider: Simulated, name: str, count: int) -> None:
    """Ask a provider for its account until it has come so far; each question waits for its answer."""
    while provider.stats()[name] < count:
        assert provider.process.poll() is None, "the provider is gone"


def beside(output: Path, suffix: str) -> Path:
    """A file that stands beside OUTPUT: `.ledger`, `.ledger.slots`, ..."""
    return output.with_name(output.name + suffix)


def wrong_lines(output: Path, rows: int, but: frozenset[int] = frozenset()) -> list[str]:
    """The first few places where OUTPUT is not what it must be: one line for each row, in order, with its own answer.

    The rows in `but` may say anything, on their own line.
    """
    with output.open("rb") as lines:
        compared = zip_longest(range(rows), lines)
        return list(islice((wrong for pair in compared if (wrong := _wrong(*pair, but)) is not None), LINES_SHOWN))


def _wrong(index: int | None, text: bytes | None, but: frozenset[int]) -> str | None:
    if index is None or text is None:
        return f"row {index}: the line is {text!r}"
    line = read_line(text)
    right = (line.id, line.index) == (row_id(index), index)
    if index not in but:
        right = right and line.error is None and line.text == expected_text(prompt_of(index))
    return None if right and text.endswith(b"\n") else f"row {index}: the line is {text!r}"


def output_lines(output: Path, rows: set[int]) -> dict[int, Line]:
    """The lines of some rows, by index."""
    with output.open("rb") as lines:
        return {index: read_line(text) for index, text in enumerate(lines) if index in rows}


def marked_rows(output: Path) -> set[int]:
    """The rows that the slot file names: being sent, or answered and not yet known to be recorded."""
    slots = beside(output, ".ledger.slots").read_bytes()
    return {(mark - 1) & INDEX_MASK for (mark,) in SLOT.iter_unpack(slots[FIRST_SLOT:]) if mark}


def answered_rows(output: Path, scratch: Path) -> set[int]:
    """The rows with a recorded answer, as of now. Reads a copy in `scratch`, so that what a dead run left stays untouched."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for suffix in (".ledger", ".ledger-wal"):
        if beside(output, suffix).exists():
            shutil.copy(beside(output, suffix), scratch)
    with closing(sqlite3.connect(scratch / f"{output.name}.ledger")) as database:
        rows = database.execute("SELECT position FROM results WHERE state = 1").fetchall()
    return {position & INDEX_MASK for (position,) in rows}
