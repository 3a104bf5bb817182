"""A guard of the hot path: how many instructions a call takes, against the figures that are kept beside this program.

    python bench/guard.py [--update] [--only NAME ...] [--tolerance 0.05]

Each work is done twice under callgrind, with few calls and with many; the difference is that of the calls alone, without the
start of the process. Instructions do not depend on how busy a machine is, unlike seconds; they do on Python and the packages, so
that the file names these and is not compared under others. What threads and sockets bring together varies a little, which the
tolerance is for. Exit status: 0 as kept, 1 more than kept (or much less: `--update` keeps the gain), 2 not comparable.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

# The kit of the tests starts simulators; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.figures import markdown
from bench.points import SIMULATED_TOKENS
from tests.kit.simulated import simulated

KEPT = Path(__file__).with_suffix(".json")
FEW, MANY = 200, 1_200
IN_FLIGHT = 8
STREAMS_DIVISOR = 10
"""A stream of 100 chunks is worth more than ten calls."""

PACKAGES = ("httptools", "msgspec", "uvloop")
TOLERANCE = 0.05
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


# What is counted.


async def mapped(base_url: str, calls: int, ledger: Path | None = None) -> None:
    from penstock import Client

    done = 0
    async with Client("custom/m", base_url=base_url, max_concurrency=IN_FLIGHT) as client:
        rows = (f"Summarise article {index} in one sentence, please." for index in range(calls))
        async for result in client.map(rows, ledger=ledger):
            done += result.ok
    assert done == calls


async def recorded(base_url: str, calls: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await mapped(base_url, calls, Path(folder) / "guard.ledger")


async def single(base_url: str, calls: int) -> None:
    from penstock import Client

    async with Client("custom/m", base_url=base_url) as client:
        for index in range(calls):
            assert (await client.generate(f"Summarise article {index} in one sentence, please.")).text


async def streamed(base_url: str, calls: int) -> None:
    from penstock import Client

    async with Client("custom/m", base_url=base_url) as client:
        for index in range(calls // STREAMS_DIVISOR):
            stream = client.stream(f"Summarise article {index} in one sentence, please.")
            async for _ in stream:
                pass
            assert stream.text


WORKS: dict[str, Callable[[str, int], Awaitable[None]]] = {
    "map": mapped,
    "map, ledger": recorded,
    "generate": single,
    "stream of 100 chunks": streamed,
}


def instructions(name: str, calls: int) -> int:
    """Of a whole process that does a work, in front of a provider of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        simulated("--output-tokens", str(SIMULATED_TOKENS) if name.startswith("stream") else "16") as provider,
    ):
        callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        work = [sys.executable, __file__, "--one", name, "--base-url", provider.base_url, "--calls", str(calls)]
        done = subprocess.run(
            [*callgrind, *work],
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
    calls = (MANY - FEW) // (STREAMS_DIVISOR if name.startswith("stream") else 1)
    return round((instructions(name, MANY) - instructions(name, FEW)) / calls)


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
    options.add_argument("--one", choices=WORKS, help=argparse.SUPPRESS)
    options.add_argument("--base-url", default="", help=argparse.SUPPRESS)
    options.add_argument("--calls", type=int, default=0, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(WORKS[given.one](given.base_url, given.calls))
        return
    if shutil.which("valgrind") is None:
        print("there is no valgrind")
        raise SystemExit(2)
    if given.update:
        update(given.only)
        return
    raise SystemExit(guard(given.only, given.tolerance))


if __name__ == "__main__":
    main()
