"""One request to the server on its way through: who asks, what was read of it, what is sent back. It belongs to one handler.

It reads bodies within their limits and writes answers; what they say is the handler's matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.engine.call import Outcome
from penstock.server.exchange import CALLER_LEFT
from penstock.server.exchange import Send as Attempt
from penstock.server.protocol import WHOLE
from penstock.server.replies import Reply, Turned, closing, error_reply
from penstock.server.security import ANYBODY, Guest, too_large

if TYPE_CHECKING:
    from penstock.server.models import Model

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SLOWEST_BODY = 60.0
"""Seconds in which the body of a request must have come, whatever its size: uploads are bounded by their own."""

LEFT = error_reply(CALLER_LEFT, "the caller left before the request was whole", code="caller_left")
"""Nobody is there to read it; it is what the log says."""

TOO_SLOW = error_reply(408, "the body of the request did not come in time", code="request_timeout")


class Visit:
    """What a handler knows of its request, and how it answers.

    `status` is what was sent, 0 before; `ended` true once the answer is whole; `accounted` true once its exchange was told.
    For the account a handler notes the `route`, the `model`, the body that was `asked`, whether the answer is `streamed`, and
    what became of it (`outcome`); `first_byte_s` is when the answer began, in seconds from the request. `farewell` ends an
    answer that the server must break off.
    """

    __slots__ = (
        "accounted",
        "asked",
        "began",
        "began_at",
        "ended",
        "farewell",
        "first_byte_s",
        "guest",
        "model",
        "outcome",
        "receive",
        "request_id",
        "route",
        "scope",
        "send",
        "sends",
        "status",
        "streamed",
        "traceparent",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str, guest: Guest = ANYBODY) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.request_id, self.guest = request_id, guest
        self.began, self.began_at = monotonic(), time()
        self.status = 0
        self.ended = self.accounted = False
        self.asked = self.farewell = b""
        self.route = ""
        self.model: Model | None = None
        self.outcome, self.streamed = Outcome(), False
        self.first_byte_s = 0.0
        self.sends: Sequence[Attempt] = ()
        self.traceparent = ""

    @property
    def method(self) -> str:
        """The method, where it is one that there is; any other is a text of the caller's, which must not become a label."""
        method: str = self.scope["method"]
        return method if method in METHODS else "other"

    async def body(self, most_bytes: int) -> bytes:
        """The whole body. Raises `Turned` where it is too large or comes too slowly."""
        if WHOLE in self.scope:
            return await self._pieces(
                most_bytes
            )  # a time-out that cannot fire would be a tenth of a request's own cost
        try:
            async with asyncio.timeout(SLOWEST_BODY):
                return await self._pieces(most_bytes)
        except TimeoutError as timeout:
            raise Turned(closing(TOO_SLOW)) from timeout

    async def _pieces(self, most_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Turned(LEFT)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most_bytes:
                raise Turned(closing(too_large(most_bytes)))
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read_ahead(self, most_bytes: int) -> None:
        """Read the body now, within its bounds, for a reader that knows none: `receive` then gives it in one piece."""
        left, receive = [await self.body(most_bytes)], self.receive

        async def replayed() -> Message:
            return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

        self.receive = replayed

    async def answer(self, reply: Reply, further: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a whole answer."""
        length = (b"content-length", b"%d" % len(reply.body))
        await self.begin(reply.status, [*reply.headers, *further, length])
        await self.end(reply.body)

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head of an answer; the request's id goes with it."""
        self.status, self.first_byte_s = status, monotonic() - self.began
        named = [*headers, (b"x-request-id", self.request_id.encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": named})

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; waits where the client reads slowly."""
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self.ended = True
        await self.send({"type": "http.response.body", "body": data})
