"""The opening words with a proxy: CONNECT, and what it says to it. It knows nothing of what goes through afterwards."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from penstock.edges.http.proxies import Proxy
from penstock.edges.http.wire import Origin
from penstock.errors import NotSent

_MAX_ANSWER_BYTES = 64 * 1024
# Compiled at its first use: most have no proxy.
_STATUS_LINE = rb"HTTP/1\.[01] (\d{3})(?: |\r)"


class Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel to `origin`; `ready` is done once it stands, or raises `NotSent` with code "proxy"."""

    def __init__(self, origin: Origin, proxy: Proxy) -> None:
        self._origin = origin
        self._proxy = proxy
        self._answer = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        where = self._origin.authority
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        lines += [f"{name}: {value}" for name, value in self._proxy.headers]
        cast("asyncio.Transport", transport).write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, rest = self._answer.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _MAX_ANSWER_BYTES:
                self._refuse("its answer has no end")
            return
        status = re.match(_STATUS_LINE, head + b"\r")
        if status is None:
            self._refuse("it does not speak HTTP")
        elif not status[1].startswith(b"2"):
            self._refuse(_REASONS.get(status[1], "it refused the tunnel") + f" (status {status[1].decode()})")
        elif rest:
            self._refuse("it sent bytes that nobody asked for")  # TLS starts with us, so these are not the origin's
        elif not self.ready.done():
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._refuse("it closed the connection" if exc is None else "it reset the connection")

    def leave(self) -> None:
        """Nobody waits any more: what happens from now on, or happened meanwhile, is no news."""
        if not self.ready.cancel() and not self.ready.cancelled():
            self.ready.exception()

    def _refuse(self, reason: str) -> None:
        if not self.ready.done():
            where = f"proxy {self._proxy.origin.authority} for {self._origin.authority}"
            self.ready.set_exception(NotSent("connect", f"{where}: {reason}; check HTTPS_PROXY", code="proxy"))


_REASONS = {b"407": "it wants a user name and password: write them as http://user:password@host:port"}
