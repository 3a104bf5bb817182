"""Opens connections: the one file that opens sockets. Name, addresses, proxy, TLS, all within the connect time-out.

Whatever fails here is `NotSent`, for no byte of a request has left. Its code says what to look at: dns, refused,
unreachable, timeout, reset, tls, proxy, forbidden.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import cast

from penstock.edges.http.connection import Connection
from penstock.edges.http.proxies import Proxies, Proxy
from penstock.edges.http.resolver import Address, Resolver
from penstock.edges.http.tls import context_from
from penstock.edges.http.tunnel import Tunnel
from penstock.edges.http.turns import Turns
from penstock.edges.http.wire import Origin
from penstock.errors import NotSent

# As the Anthropic client sets them: a dead peer is noticed after 60 + 5 x 60 s, before any answer's time-out of 600 s.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}
# Several addresses share the time, but none gets so little that a slow one has no chance (as in Go's dialer).
_LEAST_SECONDS_PER_ADDRESS = 2.0


class Dialer:
    """Opens connections to origins, through the proxies of `environ`."""

    def __init__(self, environ: Mapping[str, str], ssl_context: ssl.SSLContext | None) -> None:
        self._environ = environ
        self._ssl_context = ssl_context
        self._proxies = Proxies(environ)
        self._resolver = Resolver()
        self._turns = Turns()

    def plain_proxy_headers(self, origin: Origin) -> tuple[tuple[str, str], ...] | None:
        """What a request to this origin says to the proxy it is handed to, None where it goes to the origin itself."""
        proxy = self._proxies.proxy_for(origin) if origin.scheme == "http" else None
        return None if proxy is None else proxy.headers

    def check(self, origin: Origin) -> None:
        """Raise the `UsageError` that opening a connection would raise: a proxy or certificates that cannot be used."""
        proxy = self._proxies.proxy_for(origin)
        if origin.scheme == "https" or (proxy is not None and proxy.origin.scheme == "https"):
            self._context()

    async def open(self, connection: Connection, seconds: float) -> None:
        """Connect `connection` to its origin within `seconds`, or raise `NotSent`."""
        where = connection.origin.authority
        await self._turns.take()
        try:
            async with asyncio.timeout(seconds):
                await self._open(connection, asyncio.get_running_loop().time() + seconds)
        except ssl.SSLError as error:
            raise _tls_error(where, error) from error
        except TimeoutError as error:
            raise NotSent(
                "connect", f"{where}: no connection within {seconds:g} s (connect)", code="timeout"
            ) from error
        except OSError as error:
            # Refused and unreachable were told apart when the address was tried; what is left broke during TLS.
            raise NotSent("connect", f"{where}: the connection broke while it was set up", code="reset") from error

    async def _open(self, connection: Connection, until: float) -> None:
        origin = connection.origin
        proxy = self._proxies.proxy_for(origin)
        hop = proxy.origin if proxy is not None else origin
        try:
            sock = await self._connect(hop, until)
        except NotSent as error:
            if proxy is None or error.code in ("forbidden", "timeout"):
                raise
            raise NotSent(
                "connect", f"proxy {error.message}; check HTTPS_PROXY and HTTP_PROXY", code="proxy"
            ) from error
        if proxy is None or origin.scheme == "http":
            await self._adopt(sock, connection, hop)
        else:
            await self._tunnel(sock, connection, proxy)

    async def _tunnel(self, sock: socket.socket, connection: Connection, proxy: Proxy) -> None:
        loop = asyncio.get_running_loop()
        tunnel = Tunnel(connection.origin, proxy)
        try:
            transport = await self._adopt(sock, tunnel, proxy.origin)
            try:
                await tunnel.ready
                secured = await loop.start_tls(
                    transport, connection, self._context(), server_hostname=connection.origin.host
                )
            except BaseException:
                transport.abort()
                raise
        finally:
            tunnel.leave()
        connection.connection_made(cast("asyncio.Transport", secured))

    async def _adopt(self, sock: socket.socket, protocol: asyncio.Protocol, hop: Origin) -> asyncio.Transport:
        """Give a connected socket to a protocol, with TLS where the hop speaks it."""
        secure = hop.scheme == "https"
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: protocol,
                sock=sock,
                ssl=self._context() if secure else None,
                server_hostname=hop.host if secure else None,
            )
        except BaseException:
            sock.close()
            raise
        return transport

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = context_from(self._environ)
        return self._ssl_context

    async def _connect(self, hop: Origin, until: float) -> socket.socket:
        """A socket connected to the first address that takes it."""
        loop = asyncio.get_running_loop()
        addresses = await self._resolver.addresses(hop.host, hop.port)
        failures: list[OSError] = []
        for tried, address in enumerate(addresses):
            left = until - loop.time()
            share = max(left / (len(addresses) - tried), _LEAST_SECONDS_PER_ADDRESS)
            try:
                async with asyncio.timeout(min(share, left)):
                    return await _connect_to(address)
            except OSError as error:
                failures.append(error)
        raise _connect_error(hop.authority, failures)

    async def aclose(self) -> None:
        """Give up the look-ups under way."""
        await self._resolver.aclose()


async def _connect_to(address: Address) -> socket.socket:
    family, sockaddr = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if hasattr(socket, name):  # macOS lacks the first
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_error(where: str, failures: list[OSError]) -> NotSent:
    """What the failures of all addresses come to; the first one is the one of the preferred address."""
    cause = failures[0]
    if isinstance(cause, ConnectionRefusedError):
        reason, code = "the connection was refused; is the server running?", "refused"
    elif isinstance(cause, TimeoutError):
        reason, code = "no connection in time (connect)", "timeout"
    else:
        reason, code = f"not reachable ({cause.strerror or cause})", "unreachable"
    error = NotSent("connect", f"{where}: {reason}", code=code)
    error.__cause__ = cause
    return error


def _tls_error(where: str, error: ssl.SSLError) -> NotSent:
    """A refused certificate and a peer that speaks no TLS will not change; a connection cut in mid-handshake may."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return NotSent("connect", f"{where}: the connection broke during the TLS handshake", code="reset")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not trusted ({error.verify_message}); set SSL_CERT_FILE if it is your own"
    else:
        reason = f"the TLS handshake failed ({error.reason or 'no reason given'}); is it https:// that it speaks?"
    return NotSent("connect", f"{where}: {reason}", code="tls")
