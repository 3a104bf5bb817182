"""The answers that an earlier session recorded, as what a forecast learns from. Reads a ledger and never writes one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from penstock.edges.ledger import LedgerReader, has_ledger
from penstock.planning.sample import Recorded, Sampler
from penstock.ports import Ledger
from penstock.records import Entry
from penstock.rules.entries import meta_of
from penstock.rules.forecast import Answer, Shape
from penstock.rules.identity import ABSENT, ANSWERED

Read = Callable[[Sequence[int]], Awaitable[list[Entry | None]]]


class Past(msgspec.Struct, frozen=True):
    """What is recorded: the `state` of any row, and a way to `read` the entries of some."""

    state: Callable[[int], int]
    read: Read


async def _nothing(indexes: Sequence[int]) -> list[Entry | None]:
    return [None] * len(indexes)


NO_PAST = Past(lambda _: ABSENT, _nothing)


def past_of(ledger: Ledger) -> Past:
    """The past that an open ledger holds."""

    async def read(indexes: Sequence[int]) -> list[Entry | None]:
        return [await ledger.read(index) for index in indexes]

    return Past(ledger.state, read)


async def past_in(ledger: str | Path) -> Past:
    """The past that a ledger's latest run holds, also while that run is under way; `NO_PAST` where there is no such ledger."""
    path = Path(ledger)
    if not has_ledger(path):
        return NO_PAST
    states = await asyncio.to_thread(_states, path)

    async def read(indexes: Sequence[int]) -> list[Entry | None]:
        return await asyncio.to_thread(_entries, path, indexes)

    return Past(lambda index: states[index] if index < len(states) else ABSENT, read)


def _states(path: Path) -> bytearray:
    states = bytearray()
    with closing(LedgerReader(path)) as reader:
        for entry in reader.entries():
            if entry is not None:
                states.extend(bytes(max(0, entry.index + 1 - len(states))))
                states[entry.index] = entry.state
    return states


def _entries(path: Path, indexes: Sequence[int]) -> list[Entry | None]:
    with closing(LedgerReader(path)) as reader:
        return [next(reader.entries(index, index + 1), None) for index in indexes]


class Lessons(msgspec.Struct, frozen=True):
    """What the recorded rows teach: their `answers`; how long rows that were given up had waited at least (`waiting_s`); and the
    shapes of rows whose content has `changed` since, so that they are sent again."""

    answers: list[Answer]
    waiting_s: list[float]
    changed: list[Shape]


async def learn(past: Past, done: Sampler[Recorded], most_waiting: int) -> Lessons:
    """What is to be learned from rows of which something is recorded. At most `most_waiting` can have been under way at once."""
    rows = done.items
    entries = await past.read([row.index for row in rows])
    lessons = Lessons([], [], [])
    times: list[tuple[int, float]] = []
    for row, entry in zip(rows, entries, strict=True):
        if entry is None or entry.request != row.request:
            lessons.changed.append(row.shape)
        elif entry.state == ANSWERED and (answer := _answer(row.shape, entry)) is not None:
            lessons.answers.append(answer)
            times.append((row.gaps, answer.latency_s))
    if done.whole:
        lessons.waiting_s.extend(_waiting(times, most_waiting))
    return lessons


def _waiting(times: Sequence[tuple[int, float]], most: int) -> list[float]:
    """How long each gap had waited at least: as long as any row after it took, since rows are sent in order.

    `times` are the answers in order of rows, each with the gaps before it. More gaps than could be under way are rows that came in
    later, and tell nothing.
    """
    waiting: list[float] = []
    longest = 0.0
    for place in range(len(times) - 1, -1, -1):
        gaps, took = times[place]
        longest = max(longest, took)
        waiting += [longest] * (gaps - (times[place - 1][0] if place else 0))
    return waiting if len(waiting) <= most else []


def _answer(shape: Shape, entry: Entry) -> Answer | None:
    meta = meta_of(entry)
    if meta.usage is None:
        return None
    return Answer(shape.text_bytes, shape.messages, meta.usage, meta.latency_s, max(1, meta.attempts))
