"""One sending process as the parent sees it: what it was asked, what it says, and that it is gone. It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self, cast

from penstock.edges.processes.frames import (
    ANSWER,
    CANCEL,
    END,
    FAILED,
    HEAD,
    MANNER,
    PIECE,
    READY,
    SETTINGS,
    STREAM,
    TAKEN,
    WHOLE,
    WINDOW_BYTES,
    FrameReader,
    FrameWriter,
    Settings,
    encode,
    read_answer,
    read_failure,
    read_headers,
)
from penstock.errors import NoAnswer, RequestError, UsageError
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall

KEPT_MANNERS = 1024

_NO_MANNER = (HttpCall("", (), b""), Timeouts(), 0)


class StreamedAnswer:
    """`ports.AnswerStream` of an answer that another process reads. What came before a failure is given before it."""

    def __init__(self, link: Link, number: int) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._link, self._number = link, number
        self._pieces: list[bytes] = []
        self._untold_bytes = 0
        self._over = False
        self._error: RequestError | UsageError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"StreamedAnswer(status={self.status}, {sum(map(len, self._pieces))} bytes buffered)"

    async def wait_for_head(self) -> None:
        """Until status and headers are there; raises what came instead."""
        while not self.status:
            await self._more()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._over and self._error is None:
                raise StopAsyncIteration
            await self._more()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._untold_bytes += len(data)
        if self._untold_bytes >= WINDOW_BYTES // 4:
            self._link.tell_taken(self._number, self._untold_bytes)
            self._untold_bytes = 0
        return data

    def _more(self) -> asyncio.Future[None]:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    # -- told by the link

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Its head is there."""
        self.status, self.headers = status, headers
        self._wake()

    def add(self, piece: bytes) -> None:
        """A piece of its body is there."""
        self._pieces.append(piece)
        self._wake()

    def end(self, error: RequestError | UsageError | None = None) -> None:
        """Nothing more comes, and whether that is a failure."""
        self._over, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Link(asyncio.Protocol):
    """The parent's end. `under_way` and `sent` count calls; `ended` is called once, when the other side is gone."""

    def __init__(self, settings: Settings, ended: Callable[[Link], None]) -> None:
        self.under_way = self.sent = 0
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._create_future: Callable[[], asyncio.Future[HttpAnswer]] = loop.create_future
        self._settings, self._ended = settings, ended
        self._reader = FrameReader()
        self._writer: FrameWriter
        self._transport: asyncio.Transport
        self._whole: dict[int, asyncio.Future[HttpAnswer]] = {}
        self._streams: dict[int, StreamedAnswer] = {}
        self._manners: dict[tuple[str, tuple[tuple[str, str], ...], str, Timeouts], int] = {}
        self._last = _NO_MANNER
        """Nearly every call is like the one before it, and says so by the same objects: no hash need be taken."""

    def __repr__(self) -> str:
        return f"Link({self.under_way} under way, {self.sent} sent)"

    # -- asking

    def send(self, call: HttpCall, timeouts: Timeouts) -> tuple[int, asyncio.Future[HttpAnswer]]:
        """Ask for a whole answer; returns the call's number and what its answer becomes."""
        last, last_timeouts, manner = self._last
        if (
            call.headers is not last.headers
            or call.url is not last.url
            or call.method is not last.method
            or timeouts is not last_timeouts
        ):
            manner = self._manner(call, timeouts)
        self.sent = number = self.sent + 1
        self.under_way += 1
        answer = self._create_future()
        self._whole[number] = answer
        self._writer.put(WHOLE, manner, number, call.body)
        return number, answer

    def stream(self, call: HttpCall, timeouts: Timeouts) -> tuple[int, StreamedAnswer]:
        """Ask for an answer as it comes; returns the call's number and its answer."""
        manner = self._manner(call, timeouts)
        self.sent = number = self.sent + 1
        self.under_way += 1
        answer = self._streams[number] = StreamedAnswer(self, number)
        self._writer.put(STREAM, manner, number, call.body)
        return number, answer

    def cancel(self, number: int) -> None:
        """Nobody waits for this call any more; where it is not over, its connection is closed."""
        if self._whole.pop(number, None) or self._streams.pop(number, None):
            self.under_way -= 1
            self._writer.put(CANCEL, 0, number)

    def tell_taken(self, number: int, taken_bytes: int) -> None:
        """So much more of a stream was read."""
        if number in self._streams:
            self._writer.put(TAKEN, taken_bytes, number)

    def _manner(self, call: HttpCall, timeouts: Timeouts) -> int:
        """The number by which the sender knows how to send it; told first where it does not."""
        manners, key = self._manners, (call.url, call.headers, call.method, timeouts)
        if (number := manners.get(key)) is None:
            # The number of the one that was told first is given again; the sender forgets by the same frame.
            number = manners.pop(next(iter(manners))) if len(manners) >= KEPT_MANNERS else len(manners)
            manners[key] = number
            bodiless = HttpCall(call.url, call.headers, b"", call.method)
            self._writer.put(MANNER, number, 0, encode((bodiless, timeouts)))
        self._last = call, timeouts, number
        return number

    # -- told by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because the transports of uvloop are none by inheritance.
        self._transport = cast("asyncio.Transport", transport)
        self._writer = FrameWriter(self._transport)
        self._writer.put(SETTINGS, 0, 0, encode(self._settings))

    def data_received(self, data: bytes) -> None:
        for kind, argument, number, payload in self._reader.feed(data):
            if kind == ANSWER:
                if (answer := self._whole.pop(number, None)) is not None:
                    self.under_way -= 1
                    if not answer.done():
                        answer.set_result(read_answer(payload))
            elif (stream := self._streams.get(number)) is not None:
                self._tell(stream, kind, argument, number, payload)
            elif kind == FAILED:
                if (answer := self._whole.pop(number, None)) is not None:
                    self.under_way -= 1
                    if not answer.done():
                        answer.set_exception(read_failure(payload).error())
            elif kind == READY and not self.ready.done():
                self.ready.set_result(None)

    def _tell(self, stream: StreamedAnswer, kind: int, argument: int, number: int, payload: bytes) -> None:
        if kind == PIECE:
            stream.add(payload)
        elif kind == HEAD:
            stream.begin(argument, read_headers(payload))
        else:
            del self._streams[number]
            self.under_way -= 1
            stream.end(None if kind == END else read_failure(payload).error())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  how the process ended says more
        self._ended(self)
        self.closed.set_result(None)

    # -- the end

    def fail_all(self, reason: str) -> None:
        """Whoever waits is told that no answer comes; what was asked may have been sent."""
        whole, streams = self._whole, self._streams
        self._whole, self._streams, self.under_way = {}, {}, 0
        for answer in whole.values():
            if not answer.done():
                answer.set_exception(NoAnswer("disconnected", reason, maybe_billed=True))
        for stream in streams.values():
            stream.end(NoAnswer("disconnected", reason, maybe_billed=True))

    def close(self) -> None:
        """Close the socket, on which the other side ends and all its connections with it."""
        self._transport.abort()
