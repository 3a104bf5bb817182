"""uvicorn's HTTP protocol with the bounds that it lacks: how large the head of a request may be, and how slowly it may come."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 1024
WHOLE = "penstock.whole"
"""In a scope: the body has come with the head, as nearly every one does, so that nobody need watch the time for it."""

READ_BYTES = 256 * 1024
"""What the event loop hands over at once, at most: part of it may be body."""

SLOWEST_HEAD = 30.0
"""Seconds for a head to be whole: whoever sends slower holds a connection for nothing."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class CappedProtocol(HttpToolsProtocol):
    """One client connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fed_bytes = self._header_bytes = 0
        self._in_head = True
        self._slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._slow = self.loop.call_later(SLOWEST_HEAD, transport.close)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head before the parser sees them: it takes quadratic time over an endless line."""
        if self._in_head:
            self._fed_bytes += len(data)
            if self._fed_bytes > MOST_HEAD_BYTES + READ_BYTES:
                self._refuse()
                return
        super().data_received(data)
        if self._in_head and self._slow is None and not self.transport.is_closing():
            self._slow = self.loop.call_later(SLOWEST_HEAD, self.transport.close)

    def on_message_begin(self) -> None:
        self._in_head, self._fed_bytes, self._header_bytes = True, 0, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + len(b": \r\n")
        if self._header_bytes <= MOST_HEAD_BYTES:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._header_bytes > MOST_HEAD_BYTES:
            self._refuse()
            return
        self._in_head = False
        self._calm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.scope[WHOLE] = True  # type: ignore[literal-required] # a key of our own
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def _calm(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
