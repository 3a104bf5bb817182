"""Penstock's `Client.map`, or `Client.stream` for streams; with `--ledger` each answer is durable before it is given."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import uvloop
from contest import KEY, MODEL, AnswerAll, Work, by_workers, perform

from penstock import Client


@asynccontextmanager
async def opened(work: Work) -> AsyncIterator[AnswerAll]:
    numbers = count()
    with tempfile.TemporaryDirectory() as folder:
        async with Client(
            f"custom/{MODEL}", api_key=KEY, base_url=work.base_url, max_concurrency=work.in_flight
        ) as client:

            async def answer_all(asked: Iterable[str]) -> int:
                ledger = Path(folder) / f"{next(numbers)}.ledger" if "--ledger" in sys.argv else None
                return sum([result.ok async for result in client.map(asked, ledger=ledger)])

            async def stream(prompt: str) -> str:
                streaming = client.stream(prompt)
                async for _ in streaming:
                    pass
                assert streaming.response.usage is not None
                return streaming.text

            yield by_workers(stream, work.in_flight) if work.streams else answer_all


if __name__ == "__main__":
    perform(opened, "penstock", loop_factory=uvloop.new_event_loop)
