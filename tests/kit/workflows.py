"""Workflows for tests, a provider that remembers what it was asked, and a ledger whose disk gives up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from penstock.client import Client
from penstock.engine.workflow import Llm
from penstock.errors import LedgerFailed
from penstock.options import Timeouts
from penstock.ports import AnswerStream
from penstock.records import Call, Entry, HttpAnswer, HttpCall, Result
from penstock.simulator.behaviour import Settings, expected_text
from penstock.simulator.clock import VirtualClock
from penstock.simulator.local import LocalTransport
from penstock.testing import MemoryLedger


async def two_steps(row: Any, llm: Llm) -> dict[str, str]:
    """Summarise, then classify."""
    summary = await llm.generate(f"Summarise: {row['text']}")
    labels = await llm.generate(f"Classify: {summary.text}")
    return {"summary": summary.text, "labels": labels.text}


def value_of_two_steps(text: str) -> dict[str, str]:
    """What `two_steps` gives back when nothing goes wrong."""
    summary = expected_text(f"Summarise: {text}")
    return {"summary": summary, "labels": expected_text(f"Classify: {summary}")}


def texts(count: int) -> list[dict[str, str]]:
    """Rows of one column."""
    return [{"text": f"text {index}"} for index in range(count)]


class RememberingTransport(LocalTransport):
    """A provider in memory; `asked` counts the prompts that reached it."""

    def __init__(self, settings: Settings, clock: VirtualClock) -> None:
        super().__init__(settings, clock)
        self.asked: Counter[str] = Counter()

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        self.asked[prompt_in(call)] += 1
        return await super().send(call, timeouts)

    @asynccontextmanager
    async def stream(self, call: HttpCall, timeouts: Timeouts) -> AsyncIterator[AnswerStream]:
        self.asked[prompt_in(call)] += 1
        async with super().stream(call, timeouts) as answer:
            yield answer


def prompt_in(call: HttpCall) -> str:
    """The last message of a request."""
    prompt: str = json.loads(call.body)["messages"][-1]["content"]
    return prompt


class DyingLedger(MemoryLedger):
    """A disk that fails at one commit, before or after it was durable, and the run dies of it."""

    def __init__(self, at: int, *, durable: bool) -> None:
        super().__init__()
        self._at, self._durable = at, durable

    async def commit(self, entries: Sequence[Entry], calls: Sequence[Call] = ()) -> None:
        dies = self.commits + 1 == self._at
        if not dies or self._durable:
            await super().commit(entries, calls)
        if dies:
            self.commits = self._at
            raise LedgerFailed("the disk is full")


async def run_all(client: Client, function: Any, rows: Iterable[Any], **options: Any) -> list[Result]:
    """All results of a workflow, in input order."""
    results = [result async for result in client.run(function, rows, **options)]
    return sorted(results, key=lambda result: result.index)
