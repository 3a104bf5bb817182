"""Answers that are read as they come. It holds the server back when the reader is slower, so that memory stays bounded;
it never drops or joins what came.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Self

from penstock.edges.http.exchange import AnswerLimits, Carrier, Exchange
from penstock.errors import RequestError
from penstock.options import Timeouts

# Reading stops above it, until what is there is taken; one read of the event loop (256 KiB) may come on top.
HOLD_BYTES = 256 * 1024


class StreamedAnswer(Exchange):
    """An exchange whose body is taken piece by piece."""

    def __init__(self, carrier: Carrier, limits: AnswerLimits, timeouts: Timeouts, deadline: float) -> None:
        super().__init__(carrier, limits, timeouts, deadline)
        self.chunks: list[bytes] = []
        self.buffered_bytes = 0
        self._error: RequestError | None = None
        self._held = False
        self._waiter: asyncio.Future[None] | None = None

    def held(self) -> bool:
        return self._held

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._wake()

    def on_body(self, chunk: bytes) -> None:
        super().on_body(chunk)
        self.buffered_bytes += len(chunk)
        if self.buffered_bytes > HOLD_BYTES and not self._held:
            self._held = True
            self.carrier.pause()
        if self._waiter is not None:
            self._wake()

    def succeed(self) -> None:
        self._go_on()  # the connection may already be kept for the next request, which must be read
        self._wake()

    def fail(self, error: RequestError) -> None:
        self._error = error
        self._wake()

    async def wait_for_head(self) -> None:
        """Until status and headers are there; raises what the exchange failed with."""
        while not self.status:
            await self.more()

    def taken(self) -> bytes:
        """All of the body that is there and was not taken yet."""
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered_bytes = 0
        if self._held:
            self.last_byte_at = monotonic()  # the silence so far was ours
            self._go_on()
        return data

    def more(self) -> asyncio.Future[None]:
        """What to wait for while nothing is there; raises what the exchange failed with."""
        if self._error is not None:
            raise self._error
        self._waiter = self.carrier.loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _go_on(self) -> None:
        if self._held:
            self._held = False
            self.carrier.resume()


class AnswerStream:
    """An answer under way: `status`, `headers` (names as the server wrote them), and its body by `async for`, once."""

    __slots__ = ("_exchange", "headers", "status")

    def __init__(self, exchange: StreamedAnswer) -> None:
        self._exchange = exchange
        self.status = exchange.status
        self.headers = exchange.headers

    def __repr__(self) -> str:
        return f"AnswerStream(status={self.status}, {self._exchange.buffered_bytes} bytes buffered)"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        # One coroutine and no more: it runs for every token.
        exchange = self._exchange
        while not exchange.chunks:
            if exchange.complete:
                raise StopAsyncIteration
            await exchange.more()
        return exchange.taken()
