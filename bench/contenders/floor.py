"""The floor: a bare `asyncio.Protocol` fed to httptools on uvloop that encodes and decodes with msgspec and does nothing else.

It decides nothing about what comes: no time-out, no retry, no limit, and a connection for each that may be in flight.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop
from completion import Completion
from contest import KEY, AnswerAll, Work, perform, request

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)


encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Completion).decode


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        body, self._parts = b"".join(self._parts), []
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        self._answer.set_result((status, body))

    def post(self, body: bytes) -> asyncio.Future[tuple[int, bytes]]:
        self._answer: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        self.transport.write(HEAD % (KEY.encode(), len(body), body))
        return self._answer


@asynccontextmanager
async def opened(work: Work) -> AsyncIterator[AnswerAll]:
    loop, url = asyncio.get_running_loop(), urlsplit(work.base_url)
    context = ssl.create_default_context() if url.scheme == "https" else None

    async def answer_all(asked: Iterable[str]) -> int:
        left = iter(asked)

        async def worker() -> int:
            transport, connection = await loop.create_connection(Connection, url.hostname, url.port, ssl=context)
            answered = 0
            for prompt in left:
                status, body = await connection.post(encode(request(prompt)))
                assert status == 200
                answered += bool(decode(body).choices)
            transport.close()
            return answered

        return sum(await asyncio.gather(*(worker() for _ in range(work.in_flight))))

    yield answer_all


if __name__ == "__main__":
    perform(opened, "httptools", "uvloop", "msgspec", loop_factory=uvloop.new_event_loop)
