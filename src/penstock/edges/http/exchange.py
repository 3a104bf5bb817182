"""One request's answer in the making: parses bytes, keeps the limits, tells what is overdue. It touches no socket and
no clock; times come in as arguments (monotonic seconds).

The parser is httptools (llhttp). What it leaves to its user is done here: interim (1xx) answers are skipped, trailers
are dropped, the head is counted before it is fed (one endless line would be copied again with every piece), a body that
ends with the connection is completed, and anything after the end of the answer poisons the connection.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

import httptools
import msgspec

from penstock.errors import BadAnswer, Kind, NoAnswer, RequestError, request_error
from penstock.options import Timeouts
from penstock.records import HttpAnswer


class AnswerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer may cost in memory. `max_head_bytes` bounds head, interim answers and any run of framing without
    body; eight interim answers is more than any API sends."""

    max_head_bytes: int = 64 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    max_interim: int = 8


class Carrier(Protocol):
    """The connection, as its exchange sees it."""

    loop: asyncio.AbstractEventLoop
    where: str

    def pause(self) -> None:
        """Stop reading from the server."""

    def resume(self) -> None:
        """Go on reading."""


class Exchange(ABC):
    """A request that was sent and its answer so far. Subclasses say where the body goes and who is told of the end."""

    begun = False
    complete = False
    keep_alive = False
    status = 0
    sent_at = 0.0
    last_byte_at = 0.0
    idle_limit: float | None = None
    headers: list[tuple[bytes, bytes]]
    chunks: list[bytes] | deque[bytes]
    _framing_bytes = 0
    _body_bytes = 0
    _interim = 0

    def __init__(self, carrier: Carrier, limits: AnswerLimits, timeouts: Timeouts, deadline: float) -> None:
        self.carrier = carrier
        self.timeouts = timeouts
        self.deadline = deadline
        self._limits = limits
        self._head: list[tuple[bytes, bytes]] = []
        self._parser = httptools.HttpResponseParser(self)

    # -- told by the connection

    def feed(self, data: bytes, now: float) -> None:
        """Take what the server sent; `BadAnswer` where it cannot be an answer."""
        self.last_byte_at = now
        framing, body_bytes = self._framing_bytes + len(data), self._body_bytes
        if framing > self._limits.max_head_bytes and not self.status:
            self._feed_long_head(data, now)
            return
        self._framing_bytes = framing
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken(error)
        if self._body_bytes != body_bytes:
            self._framing_bytes = 0
        elif framing > self._limits.max_head_bytes and not self.complete:
            raise self.bad("malformed", f"more than {self._limits.max_head_bytes} bytes of framing without any body")

    def _feed_long_head(self, data: bytes, now: float) -> None:
        """Feed what the head may still have; only where it ends in there, feed the rest."""
        room = self._limits.max_head_bytes - self._framing_bytes
        if room:
            self.feed(data[:room], now)
        if not self.status:
            raise self.bad("malformed", f"the head of the answer is longer than {self._limits.max_head_bytes} bytes")
        self._framing_bytes = 0
        self.feed(data[room:], now)

    def _broken(self, error: Exception) -> None:
        if self.complete:
            self.keep_alive = False  # the answer is whole; what follows it makes the connection unusable
        elif isinstance(error.__context__, BadAnswer):
            raise error.__context__ from None
        else:
            raise self.bad("malformed", f"what came is not HTTP ({error}); check the base URL") from error

    def end_of_file(self, cause: BaseException | None) -> RequestError | None:
        """The connection ended: completes a body that ends with it, else says what that means for the request."""
        if self.status and cause is None and self._lasts_until_close():
            self.complete = True
            self.keep_alive = False
            return None
        how = "reset" if cause is not None else "closed"
        if self.status:
            return self.bad("truncated", f"the connection was {how} inside the answer; it may be billed")
        where = "inside the head of the answer" if self.begun else "before any answer"
        return self._no_answer("disconnected", f"the connection was {how} {where}; it may be billed")

    def detach(self) -> None:
        """Nothing more will be fed. Parser and exchange know each other; parting them spares the garbage collector
        one cycle for each request, which was measured at a fifth of the request's whole cost."""
        del self._parser

    def overdue(self, now: float) -> RequestError | None:
        """What to fail with, once a time-out has passed; `now` is monotonic seconds."""
        timeouts = self.timeouts
        if now >= self.deadline:
            return self._no_answer("timeout", f"no whole answer within {timeouts.total:g} s (timeout)")
        if not self.begun:
            if now >= self.sent_at + timeouts.first_byte:
                return self._no_answer("timeout", f"no answer began within {timeouts.first_byte:g} s (first_byte)")
        elif not self.held() and now >= self.last_byte_at + timeouts.between_bytes:
            return self._no_answer("timeout", f"the answer stalled for {timeouts.between_bytes:g} s (between_bytes)")
        return None

    # -- told by the parser

    def on_message_begin(self) -> None:
        if self.complete:
            raise self.bad("malformed", "bytes after the end of the answer")
        self.begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.append((name, value))

    def on_headers_complete(self) -> None:
        # Trailers arrive through on_header too; they go into a list that nobody reads.
        head, self._head = self._head, []
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return
        if status < 200:
            raise self.bad("malformed", f"the answer has the status {status:03}, which was not asked for")
        self.headers = head
        for name, value in head:
            # Lengths first: three names matter, and lowering all twenty of a usual head costs more than the rest.
            if len(name) in _NOTED_LENGTHS:
                self._note(name.lower(), value)
        self.status = status

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"transfer-encoding" and value.strip().lower() not in (b"chunked", b"identity"):
            raise self.bad("malformed", "the answer has a transfer encoding that was not asked for")
        if name == b"content-encoding" and value.strip().lower() not in (b"identity", b""):
            raise self.bad("malformed", "the answer is compressed, which was not asked for; look at proxies on the way")
        if name == b"keep-alive":
            self.idle_limit = keep_alive_timeout(value)

    def _lasts_until_close(self) -> bool:
        """True where neither a length nor chunks say where the body ends."""
        fields = {(name.lower(), value.strip().lower()) for name, value in self.headers}
        chunked = (b"transfer-encoding", b"chunked") in fields
        return not chunked and all(name != b"content-length" for name, _ in fields)

    def on_body(self, chunk: bytes) -> None:
        self._body_bytes += len(chunk)
        if self._body_bytes > self._limits.max_body_bytes:
            raise self.bad("too_large", f"the body is longer than {self._limits.max_body_bytes} bytes")
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self.status:
            self.keep_alive = self._parser.should_keep_alive()
            self.complete = True
            return
        self.begun = False
        self._interim += 1
        if self._interim > self._limits.max_interim:
            raise self.bad("malformed", f"more than {self._limits.max_interim} interim (1xx) answers")

    # -- left to the subclasses

    def held(self) -> bool:
        """True while our own side keeps the server waiting, so that its silence is no stall."""
        return False

    @abstractmethod
    def succeed(self) -> None:
        """The answer is whole."""

    @abstractmethod
    def fail(self, error: RequestError) -> None:
        """There will be no whole answer."""

    # -- errors, all with the same plain fields

    def bad(self, kind: Kind, reason: str) -> RequestError:
        """A `BadAnswer`: the request was sent, so whatever came instead of an answer may be billed."""
        return request_error(kind, f"{self.carrier.where}: {reason}", status=self.status or None, maybe_billed=True)

    def _no_answer(self, kind: Kind, reason: str) -> RequestError:
        return NoAnswer(kind, f"{self.carrier.where}: {reason}", status=self.status or None, maybe_billed=True)


_NOTED_LENGTHS = frozenset(map(len, ("transfer-encoding", "content-encoding", "keep-alive")))


def keep_alive_timeout(value: bytes) -> float | None:
    """Seconds of `Keep-Alive: timeout=5, max=100`; None where it names none."""
    for parameter in value.split(b","):
        name, _, seconds = parameter.partition(b"=")
        if name.strip().lower() == b"timeout" and seconds.strip().isdigit():
            return float(seconds)
    return None


class WholeAnswer(Exchange):
    """An answer that is wanted whole: `outcome` becomes an `HttpAnswer`, or raises."""

    def __init__(self, carrier: Carrier, limits: AnswerLimits, timeouts: Timeouts, deadline: float) -> None:
        super().__init__(carrier, limits, timeouts, deadline)
        self.outcome: asyncio.Future[HttpAnswer] = carrier.loop.create_future()
        self.chunks: list[bytes] = []

    def succeed(self) -> None:
        if not self.outcome.done():
            self.outcome.set_result(HttpAnswer(self.status, self.headers, b"".join(self.chunks)))

    def fail(self, error: RequestError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
