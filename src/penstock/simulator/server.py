"""The simulated provider over HTTP: chat completions (whole and streamed), models, and its own account at `/stats`.

It puts plans on the wire and decides nothing about them (that is `behaviour`). One process, any event loop, no task for
a request: a timer where there is latency, cancelled when the client leaves.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple, cast

import httptools
import msgspec

from penstock.simulator import answers
from penstock.simulator.answers import Header
from penstock.simulator.behaviour import Phase, Plan, Settings, Simulator, Spread, Stats
from penstock.simulator.extractive import answer as extractive_answer

_CHAT = frozenset({b"/v1/chat/completions", b"/chat/completions"})
_MODELS = frozenset({b"/v1/models", b"/models"})
_MAX_BODY_BYTES = 64 * 1024 * 1024
_MAX_HEAD_BYTES = 64 * 1024
_READ_BYTES = 256 * 1024
_BACKLOG = 4096
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_LINGER_NOT = struct.pack("ii", 1, 0)
_CHUNKED: Header = (b"transfer-encoding", b"chunked")
_LAST_CHUNK = b"0\r\n\r\n"


def builtin_settings() -> Settings:
    """The settings that serve `builtin/extractive`: the summariser, at 0.3 to 1.5 s an answer, by the text."""
    return Settings(models=("extractive",), text=extractive_answer, latency=Spread.between(0.3, 1.5))


class Server:
    """A running simulator; `base_url` ends in `/v1`."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.simulator = Simulator(settings)
        self.base_url = ""
        self.connections: set[_Connection] = set()
        self.to_come = settings.schedule
        self._host, self._port = host, port
        self._listener: asyncio.Server | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._opening: asyncio.Task[None] | None = None
        self._outbox: list[tuple[_Connection, bytes]] = []

    async def open(self) -> None:
        """Take connections; raises OSError where the port is taken. A free port that was taken once is kept."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), self._host, self._port, backlog=_BACKLOG)
        self._port = self._listener.sockets[0].getsockname()[1]
        name = f"[{self._host}]" if ":" in self._host else self._host
        self.base_url = f"http://{name}:{self._port}/v1"

    def close(self) -> None:
        """Take no connections and break those that are there."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in list(self.connections):
            connection.abort()

    async def aclose(self) -> None:
        """The end, also of what the schedule would have brought."""
        for timer in self._timers:
            timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        listener = self._listener
        self.close()
        if listener is not None:
            await listener.wait_closed()

    def follow_schedule(self) -> None:
        """To be called at the first arrival, which the times of the schedule count from: only we can refuse to connect."""
        loop = asyncio.get_running_loop()
        self._timers = [loop.call_later(phase.at, self._enter, phase) for phase in self.to_come]
        self.to_come = ()

    def _enter(self, phase: Phase) -> None:
        if phase.outage == "refused":
            self.close()
        elif self._listener is None:
            self._opening = asyncio.get_running_loop().create_task(self.open())

    def stats(self) -> Stats:
        """The account so far."""
        return self.simulator.stats(time.monotonic())

    def post(self, connection: _Connection, answer: bytes) -> None:
        """Send an answer once all that came in together is read.

        A client on another core then wakes once for many answers, which was measured to double what one process serves.
        """
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._outbox.append((connection, answer))

    def _deliver(self) -> None:
        outbox, self._outbox = self._outbox, []
        for connection, answer in outbox:
            connection.deliver(answer)

    def __repr__(self) -> str:
        return f"Server({self.base_url}, {len(self.connections)} connections)"


@asynccontextmanager
async def serve(settings: Settings, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Server]:
    """Serve on the running loop; port 0 takes a free one. Raises OSError where the port is taken.

    Leaving closes every connection at once.
    """
    server = Server(settings, host, port)
    await server.open()
    try:
        yield server
    finally:
        await server.aclose()


class _Incoming(NamedTuple):
    """One whole request, as far as it matters here."""

    method: bytes
    path: bytes
    key: str | None
    keep_alive: bool
    body: bytes


class _Connection(asyncio.Protocol):
    """One client connection: requests in order, one answered at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._simulator = server.simulator
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._waiting: deque[_Incoming] = deque()
        self._plan: Plan | None = None
        self._busy = False
        self._keep_alive = True
        self._timer: asyncio.TimerHandle | None = None
        self._chunks: Iterator[tuple[float, bytes]]
        self.on_message_begin()

    # What the event loop tells us.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            # The parser takes quadratic time over an endless line, so that its bytes are counted before it sees them.
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES + _READ_BYTES:
                self._refuse(431)
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.connections.discard(self)
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._finish(whole=False)

    def abort(self) -> None:
        """Close now, dropping what is not sent yet."""
        self._transport.abort()

    # What the parser tells us.

    def on_message_begin(self) -> None:
        self._path = b""
        self._key: str | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            self._key = key.strip() if scheme.lower() == "bearer" else None
        elif lower == b"expect" and value.lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_headers_complete(self) -> None:
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > _MAX_BODY_BYTES:
            self._refuse(413)
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        path = self._path.partition(b"?")[0]
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        incoming = _Incoming(self._parser.get_method(), path, self._key, self._parser.should_keep_alive(), body)
        if self._busy or self._waiting:
            self._waiting.append(incoming)
        elif not self._transport.is_closing():
            self._answer(incoming)

    # What we do about it.

    def _answer(self, incoming: _Incoming) -> None:
        self._busy = True
        self._keep_alive = incoming.keep_alive
        if incoming.method == b"POST" and incoming.path in _CHAT:
            plan = self._simulator.arrive(time.monotonic(), incoming.body, incoming.key)
            self._plan = plan
            if self._server.to_come:
                self._server.follow_schedule()
            if plan.queued:
                plan.begin = self._begin
            else:
                self._begin()
        elif incoming.method == b"GET" and incoming.path in _MODELS:
            names = self._simulator.settings.models or ("simulated",)
            self._whole(200, [answers.JSON], answers.models(names))
        elif incoming.method == b"GET" and incoming.path == b"/stats":
            self._whole(200, [answers.JSON], msgspec.json.encode(self._server.stats()))
        else:
            self._whole(404, [answers.JSON], answers.NOT_FOUND)

    def _begin(self) -> None:
        """The provider works on it from now on."""
        if self._plan is not None and self._plan.delay > 0:
            self._timer = self._loop.call_later(self._plan.delay, self._send)
        else:
            self._send()

    def _send(self) -> None:
        plan = self._plan
        if plan is None or plan.fault == "stall":
            return
        if plan.fault in ("reset", "refused"):
            self._reset()
        elif plan.fault == "garbage":
            self._transport.write(answers.GARBAGE)
            self._transport.close()
        elif plan.chunks is not None:
            self._transport.write(self._head(plan.status, [*plan.headers, _CHUNKED]))
            self._chunks = iter(plan.chunks if plan.fault is None else plan.chunks[: len(plan.chunks) // 2])
            self._stream(next(self._chunks, None))
        elif plan.fault == "truncate":
            head = self._head(plan.status, [*plan.headers, _length(plan.body)])
            self._transport.write(head + plan.body[: len(plan.body) // 2])
            self._transport.close()
        else:
            self._whole(plan.status, plan.headers, plan.body)

    def _stream(self, chunk: tuple[float, bytes] | None) -> None:
        """Send the chunks that are due, then wait for the next; the first of them is due now."""
        due = []
        while chunk is not None:
            due.append(b"%x\r\n%b\r\n" % (len(chunk[1]), chunk[1]))
            chunk = next(self._chunks, None)
            if chunk is not None and chunk[0] > 0:
                self._transport.write(b"".join(due))
                self._timer = self._loop.call_later(chunk[0], self._stream, chunk)
                return
        self._transport.write(b"".join(due))
        if self._plan is not None and self._plan.fault == "truncate":
            self._transport.close()
            return
        self._transport.write(_LAST_CHUNK)
        self._sent()

    def _whole(self, status: int, headers: list[Header], body: bytes) -> None:
        self._server.post(self, self._head(status, [*headers, _length(body)]) + body)

    def _head(self, status: int, headers: list[Header]) -> bytes:
        if not self._keep_alive:
            headers.append((b"connection", b"close"))
        return b"%b%b\r\n" % (_STATUS_LINES[status], b"".join([b"%b: %b\r\n" % header for header in headers]))

    def deliver(self, answer: bytes) -> None:
        """Write a whole answer, unless the client has left meanwhile."""
        if not self._transport.is_closing():
            self._transport.write(answer)
            self._sent()

    def _sent(self) -> None:
        self._finish(whole=True)
        self._busy = False
        if not self._keep_alive:
            self._transport.close()
        elif self._waiting:
            # By the loop rather than at once: a thousand pipelined requests must not be a thousand nested calls.
            self._timer = self._loop.call_later(0, self._next)

    def _next(self) -> None:
        if self._waiting:
            self._answer(self._waiting.popleft())

    def _finish(self, whole: bool) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            self._simulator.leave(time.monotonic(), plan, whole)

    def _reset(self) -> None:
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()

    def _refuse(self, status: int) -> None:
        if not self._transport.is_closing():
            self._keep_alive = False
            head = self._head(status, [answers.JSON, _length(answers.UNREADABLE)])
            self._transport.write(head + answers.UNREADABLE)
            self._transport.close()


def _length(body: bytes) -> Header:
    return b"content-length", b"%d" % len(body)
