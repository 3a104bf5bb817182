"""The works whose instructions `guard.py` counts, each a whole process: `python bench/guarded.py WORK CALLS`.

The provider is a protocol on the same event loop, with answers made before: a loopback socket within one loop always brings the
same bytes in the same order, so that counts nearly repeat; with a provider in a process of its own they varied by 4 to 12 %. What
it costs itself is small and always the same.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec
import uvloop

from penstock import Client
from penstock.testing import completion

IN_FLIGHT = 64
CHUNKS = 100
Ask: TypeAlias = Callable[[Client, str], Awaitable[None]]
STREAM = "stream of 100 chunks"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def pieces() -> Iterator[bytes]:
    """The data of each event of a stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1767225600, "model": "m"}

    def piece(choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        return msgspec.json.encode(head | {"choices": choices, "usage": usage})

    def choice(delta: dict[str, str], finish_reason: str | None = None) -> list[Any]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

    yield piece(choice({"role": "assistant", "content": ""}))
    yield from (piece(choice({"content": f" word{number}"})) for number in range(CHUNKS))
    yield piece(choice({}, "stop"))
    yield piece([], {"prompt_tokens": 12, "completion_tokens": CHUNKS, "total_tokens": 12 + CHUNKS})
    yield b"[DONE]"


def whole_answer() -> list[bytes]:
    body = completion("echo Summarise article 17 in one sentence, please.").body
    return [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)]


def streamed_answer() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(chunked(b"data: %b\n\n" % piece) for piece in pieces()), b"0\r\n\r\n"]


class Canned(asyncio.Protocol):
    """Answers whatever comes, one part in each turn of the loop; a request is small enough to come at once."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, _: bytes) -> None:
        self._write(0)

    def _write(self, number: int) -> None:
        self._transport.write(self._parts[number])
        if number + 1 < len(self._parts):
            self._loop.call_soon(self._write, number + 1)


@asynccontextmanager
async def asked(parts: list[bytes], ask: Ask, in_flight: int = 1) -> AsyncIterator[Client]:
    """A client in front of such a provider, that has been asked once."""
    server = await asyncio.get_running_loop().create_server(lambda: Canned(parts), "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with Client("custom/m", base_url=base_url, max_concurrency=in_flight) as client:
        await ask(client, "Warm up.")
        # One more collection of all that was imported costs as much as a hundred calls, and a hair decides whether there is one.
        gc.collect()
        gc.freeze()
        yield client
    server.close()


async def whole(client: Client, prompt: str) -> None:
    assert (await client.generate(prompt)).text


async def streamed(client: Client, prompt: str) -> None:
    stream = client.stream(prompt)
    assert sum([1 async for _ in stream]) >= CHUNKS
    assert stream.text


def prompts(calls: int) -> Iterator[str]:
    return (f"Summarise article {index} in one sentence, please." for index in range(calls))


async def mapped(calls: int, ledger: Path | None = None) -> None:
    async with asked(whole_answer(), whole, IN_FLIGHT) as client:
        assert sum([result.ok async for result in client.map(prompts(calls), ledger=ledger)]) == calls


async def recorded(calls: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await mapped(calls, Path(folder) / "guard.ledger")


async def one_by_one(parts: list[bytes], ask: Ask, calls: int) -> None:
    async with asked(parts, ask) as client:
        for prompt in prompts(calls):
            await ask(client, prompt)


WORKS: dict[str, Callable[[int], Awaitable[None]]] = {
    "map": mapped,
    "map, ledger": recorded,
    "generate": partial(one_by_one, whole_answer(), whole),
    STREAM: partial(one_by_one, streamed_answer(), streamed),
}

if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(WORKS[sys.argv[1]](int(sys.argv[2])))
