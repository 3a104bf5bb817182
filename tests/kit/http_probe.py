"""What the tests of the HTTP client look at: descriptors, loop turns, short time-outs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from penstock.options import Timeouts
from penstock.records import HttpCall
from tests.kit.hostile import Peer, hostile

# Long where the test must not be ended by it, short where it is what is tested.
PATIENT = Timeouts(connect=10, first_byte=10, between_bytes=10, total=10)
SHORT = Timeouts(connect=0.2, first_byte=0.2, between_bytes=0.2)


def post(url: str, body: bytes = b'{"model":"m"}', headers: tuple[tuple[str, str], ...] = ()) -> HttpCall:
    """A call as a provider makes it."""
    return HttpCall(url, (("Authorization", "Bearer sk-canary"), ("Content-Type", "application/json"), *headers), body)


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - a listing of /dev/fd opens one itself, the same each time


async def until(condition: Callable[[], bool], turns: int = 20_000) -> None:
    """Let the loop turn until a condition holds; fails where it never does."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition did not come true")


@asynccontextmanager
async def nothing_leaks() -> AsyncIterator[None]:
    """Fails where descriptors or tasks are left over at the end of the block."""
    # The loop keeps some descriptors of its own from its first server and connection on.
    async with hostile(Peer.gone) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.transport.abort()
        await until(lambda: server.accepted == 1)
    for _ in range(10):
        await asyncio.sleep(0)
    opened, tasks = descriptors(), asyncio.all_tasks()
    yield
    await until(lambda: descriptors() <= opened and asyncio.all_tasks() <= tasks)
