"""Answers that are read as they come. It holds the server back when the reader is slower, so that memory stays bounded;
it never drops or joins what came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from time import monotonic

from penstock.edges.http.exchange import AnswerLimits, Carrier, Exchange
from penstock.errors import RequestError
from penstock.options import Timeouts

# Reading stops above the first and goes on below the second; one read of the event loop (256 KiB) may come on top.
HOLD_BYTES = 256 * 1024
GO_ON_BYTES = 64 * 1024


class StreamedAnswer(Exchange):
    """An exchange whose body is taken piece by piece."""

    def __init__(self, carrier: Carrier, limits: AnswerLimits, timeouts: Timeouts, deadline: float) -> None:
        super().__init__(carrier, limits, timeouts, deadline)
        self.chunks: deque[bytes] = deque()
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
            await self._more()

    async def next_chunk(self) -> bytes | None:
        """The next piece of the body, None at its end; once all are taken, raises what the exchange failed with."""
        while not self.chunks:
            if self.complete:
                return None
            await self._more()
        chunk = self.chunks.popleft()
        self.buffered_bytes -= len(chunk)
        if self._held and self.buffered_bytes < GO_ON_BYTES:
            self.last_byte_at = monotonic()  # the silence so far was ours
            self._go_on()
        return chunk

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self.carrier.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

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

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._exchange.next_chunk()) is not None:
            yield chunk
