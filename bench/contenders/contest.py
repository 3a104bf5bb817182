"""What every contender is given, how it is measured and what it tells; the same for all of them.

A contender is a program of its own, in an environment where neither Penstock nor a test kit can be imported: standard library
only. It answers one prompt to warm up, so that imports made late, contexts of TLS and pools are there, and then all others under
the clock. It is told how many may be in flight and keeps to that by itself.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

MODEL = "m"
KEY = "unused"
TIMEOUT_SECONDS = 600


class Work(NamedTuple):
    """So many calls of the server at `base_url` (with its `/v1`), at most so many at once, streamed or whole."""

    base_url: str
    calls: int
    in_flight: int
    streams: bool = False


AnswerOne: TypeAlias = Callable[[str], Awaitable[object]]
"""Asks one prompt and gives what came of it; nothing true where that is no answer."""

AnswerAll: TypeAlias = Callable[[Iterable[str]], Awaitable[int]]
"""Answers all prompts; gives how many have an answer."""


def prompts(calls: int) -> Iterable[str]:
    return (f"Summarise article {index} in one sentence, please." for index in range(calls))


def request(prompt: str, streams: bool = False) -> dict[str, Any]:
    """The body of a call."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    return body | {"stream": True, "stream_options": {"include_usage": True}} if streams else body


def gathered(answer: AnswerOne, in_flight: int) -> AnswerAll:
    """A task for each prompt and a semaphore in front, as guides have it."""

    async def answer_all(asked: Iterable[str]) -> int:
        semaphore = asyncio.Semaphore(in_flight)

        async def one(prompt: str) -> bool:
            async with semaphore:
                return bool(await answer(prompt))

        return sum(await asyncio.gather(*map(one, asked)))

    return answer_all


def by_workers(answer: AnswerOne, in_flight: int) -> AnswerAll:
    """A task for each that may be in flight, which is the least that asyncio can do."""

    async def answer_all(asked: Iterable[str]) -> int:
        left = iter(asked)

        async def worker() -> int:
            return sum([bool(await answer(prompt)) for prompt in left])

        return sum(await asyncio.gather(*(worker() for _ in range(in_flight))))

    return answer_all


async def text_of(stream: AsyncIterator[Any]) -> str:
    """All that a stream in the form of OpenAI's SDK brings."""
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


def perform(
    opened: Callable[[Work], AbstractAsyncContextManager[AnswerAll]],
    *distributions: str,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Do the work that standard input tells, on one event loop; see `measure`."""
    work = given()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        context = opened(work)
        answer_all = runner.run(_entered(context))
        measure(lambda asked: runner.run(_answered(answer_all, asked)), work, *distributions)
        runner.run(_left(context))


def given() -> Work:
    return Work(**json.load(sys.stdin))


def measure(answer_all: Callable[[Iterable[str]], int], work: Work, *distributions: str) -> None:
    """Warm up, answer, and print one line of JSON: microseconds of CPU a call, calls a second, peak MB, versions.

    CPU is that of the process and of all that it started, which must have ended; memory is that of the process from its start.
    """
    assert answer_all(["warm up"]) == 1
    cpu, start = _cpu_seconds(), time.perf_counter()
    answered = answer_all(prompts(work.calls))
    wall, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    assert answered == work.calls, f"{answered:,} of {work.calls:,} calls were answered"
    assert not (left := _children()), f"processes {left} are still there: their CPU would not be counted"
    told = {
        "cpu_us": cpu / work.calls * 1e6,
        "rate": work.calls / wall,
        "peak_mb": _peak_mb(),
        "versions": [f"{name} {version(name)}" for name in distributions],
    }
    print(json.dumps(told), flush=True)


async def _entered(context: AbstractAsyncContextManager[AnswerAll]) -> AnswerAll:
    return await context.__aenter__()


async def _answered(answer_all: AnswerAll, asked: Iterable[str]) -> int:
    return await answer_all(asked)


async def _left(context: AbstractAsyncContextManager[AnswerAll]) -> None:
    await context.__aexit__(None, None, None)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _children() -> list[str]:
    """Processes that this one started and has not seen off."""
    children: list[str] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has come to its end meanwhile
            children += (thread / "children").read_text().split()
    return children


def _peak_mb() -> float:
    """Of this program: `ru_maxrss` would count what started it, too, where that was larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
