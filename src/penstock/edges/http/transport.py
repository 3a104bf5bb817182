"""The transport: one call in, one answer out, whole or as a stream. It decides only whether a call that met a closed
connection goes out once more; retrying is the engine's.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Self

from penstock.edges.http.connection import Connection, StaleConnection
from penstock.edges.http.dial import Dialer
from penstock.edges.http.exchange import AnswerLimits, WholeAnswer
from penstock.edges.http.pool import Pool, Statistics
from penstock.edges.http.streaming import AnswerStream, StreamedAnswer
from penstock.edges.http.wire import Origin, RequestHeads
from penstock.errors import NotSent, UsageError
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall


class HttpTransport:
    """Pooled HTTP/1.1 with keep-alive; implements `penstock.ports.Transport`, and streams. For one event loop.

    `max_connections` is a safety cap: who sends decides how many go at once. `environ` names proxies (`HTTPS_PROXY`)
    and certificates (`SSL_CERT_FILE`); pass `{}` for none. `ssl_context` replaces the default one.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = 1000,
        max_head_bytes: int = 64 * 1024,
        max_body_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        if min(max_connections, max_head_bytes, max_body_bytes) < 1:
            raise UsageError("max_connections, max_head_bytes and max_body_bytes must be at least 1")
        self._limits = AnswerLimits(max_head_bytes=max_head_bytes, max_body_bytes=max_body_bytes)
        self._dialer = Dialer(environ, ssl_context)
        self._heads = RequestHeads(self._dialer.plain_proxy_headers)
        self._pool = Pool(max_connections)
        self._closed = False

    def __repr__(self) -> str:
        now = self.statistics()
        state = "closed" if self._closed else f"{now.busy} busy, {now.idle} idle, {now.waiting} waiting"
        return f"HttpTransport({state})"

    def statistics(self) -> Statistics:
        """Connections now and since the start."""
        return self._pool.statistics()

    def check(self, call: HttpCall) -> None:
        """Raise the `UsageError` that sending this call would raise: its URL or headers, the proxy, the certificates."""
        self._dialer.check(self._heads.get(call).origin)

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        """The whole answer, of any status. Raises `UsageError`, `NotSent`, `NoAnswer` or `BadAnswer`."""
        head = self._heads.get(call)
        now = monotonic()
        deadline = math.inf if timeouts.total is None else now + timeouts.total
        while True:
            connection = self._pool.take(head.origin, now)
            if connection is None:
                connection = await self._acquire(head.origin, timeouts, deadline)
                now = monotonic()
            exchange = WholeAnswer(connection, self._limits, timeouts, deadline)
            connection.begin(exchange, head.payload(call.body), now)
            if timeouts is not self._pool.noted:
                self._pool.watch(timeouts)
            try:
                return await exchange.outcome
            except StaleConnection:
                now = monotonic()  # happens to kept connections only, and each turn uses one up
            except asyncio.CancelledError:
                connection.abandon(exchange)
                raise

    @asynccontextmanager
    async def stream(self, call: HttpCall, timeouts: Timeouts) -> AsyncIterator[AnswerStream]:
        """The answer as it comes, of any status; entering waits for its head. Leaving early closes the connection.

        Raises what `send` raises, on entering or while iterating.
        """
        head = self._heads.get(call)
        now = monotonic()
        deadline = math.inf if timeouts.total is None else now + timeouts.total
        while True:
            connection = self._pool.take(head.origin, now)
            if connection is None:
                connection = await self._acquire(head.origin, timeouts, deadline)
                now = monotonic()
            exchange = StreamedAnswer(connection, self._limits, timeouts, deadline)
            connection.begin(exchange, head.payload(call.body), now)
            if timeouts is not self._pool.noted:
                self._pool.watch(timeouts)
            try:
                try:
                    await exchange.wait_for_head()
                except StaleConnection:
                    now = monotonic()
                    continue
                yield AnswerStream(exchange)
            finally:
                connection.abandon(exchange)
            return

    async def _acquire(self, origin: Origin, timeouts: Timeouts, deadline: float) -> Connection:
        """A connection before `deadline` (monotonic seconds), each attempt to open one within the connect time-out."""
        if self._closed:
            raise UsageError("the transport was closed; open a new one")

        async def dial(connection: Connection) -> None:
            await self._dialer.open(connection, timeouts.connect)

        try:
            async with asyncio.timeout(None if deadline == math.inf else deadline - monotonic()):
                return await self._pool.acquire(origin, dial)
        except TimeoutError as error:
            reason = f"no connection within {timeouts.total:g} s (timeout)"
            raise NotSent("connect", f"{origin.authority}: {reason}", code="timeout") from error

    async def aclose(self) -> None:
        """Close all connections; what is under way fails. Closing twice is fine."""
        self._closed = True
        await self._pool.aclose()
        await self._dialer.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
