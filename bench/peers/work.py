"""What every client is given, and what it tells at the end; the same for all of them, so that they differ in themselves only.

A client runs in an environment of its own, where neither Penstock nor a test kit can be imported: standard library only.
It never judges itself: what it did is counted by the server.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import NamedTuple, TypeAlias

MODEL = "m"
KEY = "unused"
Answers: TypeAlias = Sequence[str | BaseException | None]
"""One for each prompt: its text, or why there is none."""


class Work(NamedTuple):
    """Prompts to be answered by the server at `base_url`, and the account's limits as far as they are told."""

    base_url: str
    prompts: list[str]
    in_flight: int
    requests_per_minute: float | None
    tokens_per_minute: float | None


def messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


async def gathered(answer: Callable[[str], Awaitable[str | None]], work: Work) -> Answers:
    """All prompts at once under a semaphore, as guides have it."""
    semaphore = asyncio.Semaphore(work.in_flight)

    async def one(prompt: str) -> str | None:
        async with semaphore:
            return await answer(prompt)

    return await asyncio.gather(*map(one, work.prompts), return_exceptions=True)


def perform(answer_all: Callable[[Work], Awaitable[Answers]], *distributions: str) -> None:
    """Do the work that standard input tells, then print one line of JSON: answers, errors by kind, CPU seconds, versions."""
    work = Work(**json.load(sys.stdin))
    asyncio.run(_performed(answer_all, work, distributions))


async def _performed(
    answer_all: Callable[[Work], Awaitable[Answers]], work: Work, distributions: Sequence[str]
) -> None:
    before = _cpu_seconds()
    answers = await answer_all(work)
    told = {
        "answered": sum(isinstance(answer, str) for answer in answers),
        "errors": Counter(type(answer).__name__ for answer in answers if not isinstance(answer, str)),
        "cpu_s": _cpu_seconds() - before,
        "versions": [f"{name} {version(name)}" for name in distributions],
    }
    # Told before the loop is closed: the clock that waits for this line must not count the farewell.
    print(json.dumps(told), flush=True)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
