"""A guard of the hot path: how many instructions a call takes, against the figures that are kept beside this program.

    python bench/guard.py [--update] [--only NAME ...] [--tolerance 0.03]

Each work is done twice under callgrind, with few calls and with many; the difference is that of the calls alone, without the
start of the process. Instructions do not depend on how busy a machine is, unlike seconds; they do on Python and the packages, so
that the file names these and is not compared under others. What threads and sockets bring together varies a little (by up to
1 % in repeated counts), which the tolerance is for.

Exit status: 0 as kept, 1 more than kept (or much less: `--update` keeps the gain), 2 not comparable.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

# The bench is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.figures import markdown
from bench.guarded import STREAM, WORKS

KEPT = Path(__file__).with_suffix(".json")
PROGRAM = KEPT.with_name("guarded.py")
FEW, MANY = 200, 1_200
FEW_STREAMS, MANY_STREAMS = 20, 120
PACKAGES = ("httptools", "msgspec", "uvloop")
TOLERANCE = 0.03
COUNTED = re.compile(r"Collected : (\d+)")


class Kept(msgspec.Struct, frozen=True):
    """What the file holds: what it was counted with, and instructions for each call."""

    versions: dict[str, str]
    instructions: dict[str, int]


def versions() -> dict[str, str]:
    """What a count depends on besides our own code."""
    return {"python": platform.python_version(), "machine": platform.machine()} | {
        name: version(name) for name in PACKAGES
    }


def compared(
    kept: Mapping[str, int], counted: Mapping[str, int], tolerance: float
) -> Iterator[tuple[str, float, bool]]:
    """For each work that was counted: its name, how much of the kept figure it takes more, and whether that may be.

    Less than kept by more than the tolerance may not be, either: the gain would be lost unseen if it were not kept. A work that
    is not in the file is more by infinity.
    """
    for name, count in counted.items():
        more = count / kept[name] - 1 if kept.get(name) else float("inf")
        yield name, more, abs(more) <= tolerance


def counted_in(said: str) -> int:
    """The instructions that callgrind tells of at its end; raises ValueError where it tells none."""
    found = COUNTED.search(said)
    if found is None:
        raise ValueError(f"callgrind counted nothing: {said[-400:]}")
    return int(found[1])


def instructions(name: str, calls: int) -> int:
    """Of a whole process that does a work."""
    with tempfile.TemporaryDirectory() as folder:
        callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        done = subprocess.run(
            [*callgrind, sys.executable, PROGRAM, name, str(calls)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{name} failed under callgrind:\n{done.stderr[-2000:]}")
    return counted_in(done.stderr)


def of_a_call(name: str) -> int:
    """Instructions of one call, or of one stream."""
    few, many = (FEW_STREAMS, MANY_STREAMS) if name == STREAM else (FEW, MANY)
    return round((instructions(name, many) - instructions(name, few)) / (many - few))


def guard(names: list[str], tolerance: float) -> int:
    """Count, compare, print the table; returns the exit status."""
    kept = msgspec.json.decode(KEPT.read_bytes(), type=Kept)
    if kept.versions != versions():
        print(f"{KEPT.name} was counted with {kept.versions}, this is {versions()}: keep new figures by --update")
        return 2
    counted = {name: of_a_call(name) for name in names}
    told = list(compared(kept.instructions, counted, tolerance))
    rows = [["instructions a call", "kept", "now", "more", ""]]
    for name, more, may_be in told:
        was = f"{kept.instructions.get(name, 0):,}"
        rows.append([name, was, f"{counted[name]:,}", f"{more:+.1%}", "" if may_be else "NOT AS KEPT"])
    print("\n".join(markdown(rows)))
    return 0 if all(may_be for _, _, may_be in told) else 1


def update(names: list[str]) -> None:
    """Count and keep; figures of other works stay where they were counted with the same versions."""
    before = msgspec.json.decode(KEPT.read_bytes(), type=Kept) if KEPT.exists() else Kept({}, {})
    others = before.instructions if before.versions == versions() else {}
    kept = Kept(versions(), others | {name: of_a_call(name) for name in names})
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")
    print(KEPT.read_text(), end="")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--update", action="store_true", help="keep what is counted now")
    options.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="NAME", help=", ".join(WORKS))
    options.add_argument("--tolerance", type=float, default=TOLERANCE)
    given = options.parse_args()
    if shutil.which("valgrind") is None:
        print("there is no valgrind")
        raise SystemExit(2)
    if given.update:
        update(given.only)
        return
    raise SystemExit(guard(given.only, given.tolerance))


if __name__ == "__main__":
    main()
