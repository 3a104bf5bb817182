"""One connection: writes a request in one piece, feeds what comes back to its exchange, tells the pool when it is
free or gone. It decides whether it may carry another request; it never opens itself and never waits.
"""

from __future__ import annotations

import asyncio
import select
from time import monotonic
from typing import Protocol, cast

from penstock.edges.http.exchange import Exchange
from penstock.edges.http.wire import Origin
from penstock.errors import BadAnswer, NotSent, RequestError

# Servers close idle connections, uvicorn after 5 s: reusing one at that moment loses the request in doubt.
IDLE_SECONDS = 4.0
# A share of what `Keep-Alive: timeout=` grants, because the server's clock started before ours.
KEEP_ALIVE_SHARE = 0.8
# Renewed after ten minutes, so that a change of DNS is followed.
LIFETIME_SECONDS = 600.0
# A connection idle for less was seen alive by the event loop just before; asking the kernel again would cost a call.
FRESH_SECONDS = 0.05
# The kernel takes this much into an empty send buffer in one piece, so a write that fails took nothing.
ONE_WRITE_BYTES = 16 * 1024


class StaleConnection(NotSent):
    """A kept connection that was already closed when its first byte was to be written: safe to send on a fresh one."""


class Owner(Protocol):
    """What a connection tells its pool."""

    def release(self, connection: Connection) -> None:
        """It may carry the next request."""

    def forget(self, connection: Connection) -> None:
        """It will carry no more."""

    def closed(self, connection: Connection) -> None:
        """Its socket is given back."""


class Connection(asyncio.Protocol):
    """A connection to one origin, directly or through a proxy. At most one exchange at a time.

    `shelf` is where it stands while it is idle.
    """

    __slots__ = (
        "_owner",
        "_payload_bytes",
        "_transport",
        "_usable",
        "exchange",
        "idle_limit",
        "idle_since",
        "loop",
        "opened_at",
        "origin",
        "served",
        "shelf",
        "where",
    )

    def __init__(self, origin: Origin, owner: Owner, shelf: list[Connection]) -> None:
        self.origin = origin
        self.shelf = shelf
        self.where = origin.authority
        self.loop = asyncio.get_running_loop()
        self.exchange: Exchange | None = None
        self.served = 0
        self.idle_since = self.opened_at = 0.0
        self.idle_limit = IDLE_SECONDS
        self._owner = owner
        self._payload_bytes = 0
        self._transport: asyncio.Transport
        self._usable = False

    def __repr__(self) -> str:
        state = "closed" if not self.is_open else "idle" if self.exchange is None else "busy"
        return f"Connection({self.where}, {state}, served {self.served})"

    @property
    def is_open(self) -> bool:
        return self._usable and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because the transports of uvloop are none by inheritance.
        self._transport = cast("asyncio.Transport", transport)
        self._usable = True
        self.idle_since = self.opened_at = monotonic()

    # -- one request

    def begin(self, exchange: Exchange, payload: bytes, now: float) -> None:
        """Send a request; its exchange is told of the end, whatever that is."""
        self.exchange = exchange
        exchange.sent_at = now
        self._payload_bytes = len(payload)
        self._transport.write(payload)
        if self._transport.is_closing():
            self.fail(self._not_taken())  # it was closed before, or this very write found it so

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()  # nothing was asked
            return
        try:
            exchange.feed(data, monotonic())
        except BadAnswer as error:
            self.fail(error)
            return
        if exchange.complete:
            self._finish(exchange)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self._owner.closed(self)

    def _end(self, cause: Exception | None) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()
        elif not exchange.begun and self._refused_write(cause):
            self.fail(self._not_taken())
        else:
            error = exchange.end_of_file(cause)
            if error is None:
                self._finish(exchange)
            else:
                error.__cause__ = cause
                self.fail(error)

    def _refused_write(self, cause: Exception | None) -> bool:
        """True where no byte of the request was taken: only a write tells of a broken pipe, and it was the first."""
        return isinstance(cause, BrokenPipeError) and self._payload_bytes <= ONE_WRITE_BYTES

    def _not_taken(self) -> NotSent:
        kind = StaleConnection if self.served else NotSent
        return kind("connect", f"{self.where}: the connection was closed before the request was written", code="reset")

    def _finish(self, exchange: Exchange) -> None:
        self.exchange = None
        exchange.detach()
        self.served += 1
        if exchange.keep_alive and self._may_go_on(exchange):
            self._owner.release(self)
        else:
            self.close()
        exchange.succeed()

    def _may_go_on(self, exchange: Exchange) -> bool:
        if self._payload_bytes > ONE_WRITE_BYTES and self._transport.get_write_buffer_size():
            return False  # an answer before the whole request was read leaves the rest of the request in the way
        if exchange.idle_limit is not None:
            self.idle_limit = min(IDLE_SECONDS, exchange.idle_limit * KEEP_ALIVE_SHARE)
        self.idle_since = exchange.last_byte_at
        return self.idle_since - self.opened_at < LIFETIME_SECONDS

    def fail(self, error: RequestError) -> None:
        """End the exchange under way with an error, and the connection with it."""
        exchange, self.exchange = self.exchange, None
        self.close()
        if exchange is not None:
            exchange.detach()
            exchange.fail(error)

    def abandon(self, exchange: Exchange) -> None:
        """Nobody waits for this exchange any more: close at once, unless the connection already serves another one."""
        if self.exchange is exchange:
            self.exchange = None
            exchange.detach()
            self.close()

    # -- between requests

    def is_fresh(self, now: float) -> bool:
        """True where an idle connection may carry a request: not too old, and not closed by the other side."""
        return now - self.idle_since <= self.idle_limit and self.is_open and not self._readable()

    def _readable(self) -> bool:
        """True where something waits to be read, which on an idle connection is its end or nothing good."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def pause(self) -> None:
        """Stop reading: the consumer of a stream is slower than the server."""
        if self.is_open:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.is_open:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close at once, without a farewell: what is left unread or unwritten is of no use to anyone."""
        if self._usable:
            self._usable = False
            self._owner.forget(self)
            self._transport.abort()
