"""A chain of three steps over many rows: `run` of Penstock's LangChain integration, beside LangChain's own `abatch`.

    python bench/chains.py [--rows 1000] [--at-once 1000 100] [--rounds 1]

Both have the same chain of the same ChatPenstock, the same rows, and a provider whose answers take a log-normal time (median
0.5 s, sigma 0.8), drawn from the prompt, so that each call takes as long for the one as for the other. `abatch` takes all rows
through a step before any begins the next; `run` takes each through all steps. Each is a process of its own and has a fresh
provider; they take turns. Wall times are from the first request to the last result, as the client sees it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

# The kit of the tests starts simulators; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.kit.simulated import Simulated, simulated

LATENCY = "0.5,0.8"
STEPS = ("Summarise: {text}", "Classify this summary: {text}", "Translate this label: {text}")
TARGETS = {1_000: 0.6, 100: 0.9}
"""By how many go at once: the wall time of `run`, as a share of that of `abatch`."""


def chain_of(base_url: str, at_once: int) -> Any:
    """Prompt, model and parser, three times."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import PromptTemplate

    from penstock.integrations.langchain import ChatPenstock

    model = ChatPenstock(model="custom/m", base_url=base_url, max_concurrency=at_once)
    first, *others = [PromptTemplate.from_template(step) | model | StrOutputParser() for step in STEPS]
    return reduce(or_, others, first)


def texts(rows: int) -> list[dict[str, str]]:
    return [{"text": f"article {row}, which is about something"} for row in range(rows)]


async def by_run(chain: Any, rows: int, at_once: int) -> int:  # noqa: ARG001  the client's own bound holds
    from penstock.integrations.langchain import run

    return sum([result.ok async for result in run(chain, texts(rows))])


async def by_abatch(chain: Any, rows: int, at_once: int) -> int:
    answers = await chain.abatch(texts(rows), {"max_concurrency": at_once}, return_exceptions=True)
    return sum(isinstance(answer, str) for answer in answers)


CONTENDERS: dict[str, Callable[[Any, int, int], Awaitable[int]]] = {"abatch": by_abatch, "run": by_run}


def contend(name: str, base_url: str, rows: int, at_once: int) -> None:
    """One contender in this process; prints its wall and CPU seconds and how many rows have a value."""
    chain = chain_of(base_url, at_once)

    async def measured() -> dict[str, float]:
        await chain.ainvoke({"text": "warm up"})
        began, cpu = time.perf_counter(), time.process_time()
        answered = await CONTENDERS[name](chain, rows, at_once)
        return {
            "wall": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "answered": answered,
        }

    print(json.dumps(asyncio.run(measured())))


def told_by(name: str, provider: Simulated, rows: int, at_once: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", name, "--base-url", provider.base_url]
    command += ["--rows", str(rows), "--at-once", str(at_once)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told["answered"] == rows, f"{name}: {told['answered']:.0f} of {rows} rows"
    return {**told, "peak": provider.stats()["peak"]}


def compare(rows: int, at_once: int, rounds: int) -> None:
    """Take turns, print the table and the ratio."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for seed in range(rounds):
        for name in CONTENDERS:
            with simulated("--latency", LATENCY, "--seed", str(seed)) as provider:
                figures[name].append(told_by(name, provider, rows, at_once))
    print(f"{rows:,} rows of {len(STEPS)} steps, {at_once:,} at once, {rounds} round(s)")
    for name, told in figures.items():
        wall, cpu, peak = (statistics.median(one[column] for one in told) for column in ("wall", "cpu", "peak"))
        print(f"  {name:8}{wall:8.1f} s wall{cpu:8.1f} s CPU{peak:8.0f} at once at most")
    ratio = statistics.median(
        mine["wall"] / theirs["wall"] for mine, theirs in zip(figures["run"], figures["abatch"], strict=True)
    )
    target = f", target {TARGETS[at_once]:.2f}" if at_once in TARGETS else ""
    print(f"  run / abatch: {ratio:.2f}{target}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000)
    options.add_argument("--at-once", type=int, nargs="+", default=list(TARGETS))
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options.add_argument("--base-url", default="", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        contend(given.one, given.base_url, given.rows, given.at_once[0])
        return
    for at_once in given.at_once:
        compare(given.rows, at_once, given.rounds)


if __name__ == "__main__":
    main()
