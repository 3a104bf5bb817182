"""Many streams in one process: how late its event loop is, and what becomes of many under a low limit of open files.

    python bench/many_streams.py [--streams 5000] [--token-latency 0.5] [--rounds 1]

The provider is `penstock simulate`, which sends the 100 chunks of each stream so many seconds apart. A timer in the client's loop
is due every 10 ms, whether the loop has come to the last one or not; how late each comes is the lag of whatever else runs there.
It is taken from before the first stream is opened, with all the connecting, to the end of the last. The process is run as our own
commands and server are: the collector of garbage comes rarely. Then a process is given 1,024
open files: a figure above what they allow must be refused in words; without a figure as many as fit may go at once, with a note;
and when as many as fit do, all must be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# The kit of the tests starts simulators; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.figures import Target, machine, median
from bench.points import SIMULATED_TOKENS
from penstock.edges.environment import connection_cap, raise_descriptor_limit, runner
from tests.kit.simulated import Simulated, simulated

STREAMS, TOKEN_LATENCY = 5_000, 0.5
TICK_SECONDS = 0.01
LOW_LIMIT = 1024
LOW_LIMIT_ROWS = 2_000


def late_ticks(due: float, now: float) -> tuple[list[float], float]:
    """How late each tick is that fell due from `due` until now, in milliseconds, and when the next one is due.

    All of them count: one figure for a loop that stood still for a second, and so missed a hundred, would hide that second.
    """
    missed = max(1, int((now - due) / TICK_SECONDS) + 1)
    # uvloop's timers may come a little early; that is no lag.
    late = [max(0.0, now - due - tick * TICK_SECONDS) * 1000 for tick in range(missed)]
    return late, due + missed * TICK_SECONDS


class Ticks:
    """A timer that is due every 10 ms and notes how late it comes, in milliseconds."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self._loop = asyncio.get_running_loop()
        self._due = time.monotonic() + TICK_SECONDS
        self._arm()

    def _arm(self) -> None:
        self._timer = self._loop.call_later(max(0.0, self._due - time.monotonic()), self._tick)

    def _tick(self) -> None:
        late, self._due = late_ticks(self._due, time.monotonic())
        self.late_ms += late
        self._arm()

    def stop(self) -> None:
        """What is due by now still counts."""
        self._timer.cancel()
        if (now := time.monotonic()) > self._due:
            self.late_ms += late_ticks(self._due, now)[0]


class Collections:
    """The time that Python's collector of garbage takes, in seconds; it is part of the lag and none of ours to bound."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0
        gc.callbacks.append(self._told)

    def _told(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.monotonic()
        else:
            self.seconds += time.monotonic() - self._began


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def all_at_once(base_url: str, streams: int) -> dict[str, Any]:
    """A task for each stream, all opened at once."""
    from penstock import Client

    async with Client("custom/m", base_url=base_url, max_concurrency=streams) as client:

        async def read(index: int) -> int:
            nonlocal begun, opening
            stream = client.stream(f"Tell story {index}, please.")
            pieces = 0
            async for _ in stream:
                if not pieces:
                    begun, opening = begun + 1, len(ticks.late_ms)
                pieces += 1
            assert stream.text
            return pieces

        begun = opening = 0
        ticks, collections, began = Ticks(), Collections(), time.perf_counter()
        pieces = await asyncio.gather(*map(read, range(streams)))
        wall = time.perf_counter() - began
        ticks.stop()
    assert begun == streams
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "p50": percentile(ticks.late_ms, 50),
        "p99": percentile(ticks.late_ms, 99),
        "worst": max(ticks.late_ms),
        "opening": opening * TICK_SECONDS,
        "p99_after": percentile(ticks.late_ms[opening:], 99),
        "worst_after": max(ticks.late_ms[opening:]),
        "collecting_ms": collections.seconds * 1000,
        "wall": wall,
        "chunks": sum(pieces),
        "cpu": used.ru_utime + used.ru_stime,
    }


async def under_a_low_limit(base_url: str, streams: int) -> dict[str, Any]:
    """A figure that does not fit, none, and the largest that fits."""
    from penstock import Client
    from penstock.errors import UsageError

    resource.setrlimit(resource.RLIMIT_NOFILE, (LOW_LIMIT, LOW_LIMIT))
    refused, whole, failed = "", 0, set()
    try:
        async with Client("custom/m", base_url=base_url, max_concurrency=streams) as client:
            await client.generate("This must not be sent.")
    except UsageError as error:
        refused = str(error)
    async with Client("custom/m", base_url=base_url) as client:
        await client.generate("What do you say of it?")
        note = client.note
    async with Client("custom/m", base_url=base_url, max_concurrency=connection_cap(LOW_LIMIT)) as client:
        async for result in client.map(f"Tell story {index}, please." for index in range(streams)):
            whole += result.ok
            if result.error is not None:
                failed.add(result.error.message)
    return {"refused": refused, "note": note, "whole": whole, "failed": sorted(failed)}


WORKS = {"all_at_once": all_at_once, "under_a_low_limit": under_a_low_limit}


def told_by(name: str, provider: Simulated, streams: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--base-url", provider.base_url, "--streams", str(streams)]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def lag(streams: int, token_latency: float, rounds: int) -> Iterator[str]:
    tokens, apart = ("--output-tokens", str(SIMULATED_TOKENS)), ("--token-latency", str(token_latency))
    figures, peaks = [], []
    for _ in range(rounds):
        with simulated(*tokens, *apart) as provider:
            figures.append(told_by("all_at_once", provider, streams))
            peaks.append(provider.stats()["peak"])
    of = {name: median(one[name] for one in figures) for name in figures[0]}
    yield (
        f"{streams:,} streams, {token_latency:g} s between chunks, medians of {rounds}: {of['wall']:.0f} s,"
        f" {of['cpu']:.0f} s of CPU, {of['chunks'] / of['wall']:,.0f} chunks a second, {min(peaks):,} at the provider at once."
    )
    yield f"The loop was late by {of['p50']:.1f} ms (p50), {of['p99']:.1f} ms (p99), {of['worst']:.0f} ms (at worst)."
    yield (
        f"All had their first chunk after {of['opening']:.1f} s; from then on it was late by {of['p99_after']:.1f} ms (p99),"
        f" {of['worst_after']:.0f} ms (at worst). Python's collector of garbage took {of['collecting_ms']:.0f} ms of it all."
    )
    yield ""
    yield str(Target(f"ms of lag at p99, {streams:,} streams, at most 50", of["p99"], 50, at_least=False))


def low_limit() -> Iterator[str]:
    cap = connection_cap(LOW_LIMIT)
    with simulated("--latency", "0.2") as provider:
        told = told_by("under_a_low_limit", provider, LOW_LIMIT_ROWS)
        peak = provider.stats()["peak"]
    yield f"{LOW_LIMIT:,} open files, {LOW_LIMIT_ROWS:,} asked for at once: refused: {told['refused']!r}"
    answered = f"{told['whole']:,} answered {told['failed'] or ''}".rstrip()
    yield f"Without a figure: {told['note']!r}. With {cap} asked for: at most {peak:,} at once, {answered}."
    yield ""
    yield str(Target(f"requests at once under {LOW_LIMIT:,} open files, {cap} as promised", peak, cap))
    yield str(Target(f"of {LOW_LIMIT_ROWS:,} answered", told["whole"], LOW_LIMIT_ROWS))
    refused, noted = ("ulimit -n" in (told[name] or "") for name in ("refused", "note"))
    yield str(Target("a figure above that refused, and none lowered, in words", float(refused and noted), 1))


def told(streams: int = STREAMS, token_latency: float = TOKEN_LATENCY, rounds: int = 1) -> Iterator[str]:
    """Paragraphs, and what was promised after each."""
    yield from lag(streams, token_latency, rounds)
    yield ""
    yield from low_limit()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--streams", type=int, default=STREAMS)
    options.add_argument("--token-latency", type=float, default=TOKEN_LATENCY)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--one", choices=WORKS, help=argparse.SUPPRESS)
    options.add_argument("--base-url", default="", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        with runner() as loop:
            print(json.dumps(loop.run(WORKS[given.one](given.base_url, given.streams))))
        return
    raise_descriptor_limit()
    print(machine(), "", *told(given.streams, given.token_latency, given.rounds), sep="\n")


if __name__ == "__main__":
    main()
