"""The sockets in the wall: what the engine asks of the world. Protocols only; no behaviour, no imports of the world.

Each has one real form in `edges` or `providers` and one for tests in `penstock.testing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from penstock.errors import RequestError
from penstock.options import Timeouts
from penstock.records import Call, Chunk, Entry, HttpAnswer, HttpCall, RawRow, Request, Response, Result, Told, Usage


class Timer(Protocol):
    """What `Clock.call_at` gives back."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time and chance. `now` is monotonic seconds, `wall` is Unix seconds (for dates in headers), `random` is in [0, 1)."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    def random(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Timer: ...
    async def sleep(self, seconds: float) -> None: ...


class AnswerStream(Protocol):
    """An answer under way: its head, and its body by `async for`. Whoever does not take a piece holds the server back."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Decoder(Protocol):
    """Reads one streamed answer: `feed` each piece of the body, `flush` where it ended by itself, then `end`."""

    @property
    def over(self) -> bool: ...
    def feed(self, data: bytes) -> list[Chunk]: ...
    def flush(self) -> list[Chunk]: ...
    def end(self, broken: RequestError | None = None) -> Response:
        """The whole answer; raises a typed `RequestError`. `broken` is how the transport ended the body."""
        ...


class Transport(Protocol):
    """Sends one HTTP call and brings the whole answer, of any status.

    Raises `NotSent` where no byte left, `NoAnswer` where one may have, `BadAnswer` where the answer is not HTTP or cut
    off. Cancelling closes the connection at once.
    """

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer: ...
    def stream(self, call: HttpCall, timeouts: Timeouts) -> AbstractAsyncContextManager[AnswerStream]:
        """The answer as it comes; entering waits for its head, leaving early closes the connection."""
        ...

    async def aclose(self) -> None: ...


class Marks(Protocol):
    """Where it is noted that a row is being sent, so that a crash leaves its name and how many sends may be billed."""

    def sending(self, index: int) -> None:
        """The row is about to be sent, once or once more."""
        ...

    def not_sent(self, index: int) -> None:
        """The row's last send is known to cost nothing."""
        ...


class Provider(Protocol):
    """Translation for one provider: pure, total, and the only place that knows its wire format."""

    @property
    def name(self) -> str: ...
    def encode(self, request: Request, model: str) -> bytes:
        """The body as it goes out: what the provider is asked, and what identity is taken of."""
        ...

    def call(self, body: bytes, model: str) -> HttpCall:
        """The HTTP call that carries a body."""
        ...

    def stream_call(self, body: bytes, model: str) -> HttpCall:
        """The HTTP call that asks for the answer to a body as a stream."""
        ...

    def decoder(self, status: int, headers: list[tuple[bytes, bytes]], wall: float, *, relay: bool = False) -> Decoder:
        """What reads the answer to a `stream_call`, made once its head is there; to `relay` keeps each event's data too."""
        ...

    def limits(self, answer: HttpAnswer, wall: float) -> Mapping[str, Told]:
        """What an answer of any status tells of the account's limits, by the budget's name (the fields of `Limits`)."""
        ...

    def request_id(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """The provider's own id of a request, by the headers of its answer."""
        ...

    def passed_on(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers of an answer that are meant for whoever asks through us, names in lower case."""
        ...

    def decode(self, answer: HttpAnswer, wall: float) -> Response:
        """The response of an answer; raises a typed `RequestError`. `wall` is Unix seconds, for dates in headers."""
        ...

    def revive(self, body: bytes) -> Response:
        """The response of a body that `decode` once accepted, out of a ledger."""
        ...


class Ledger(Marks, Protocol):
    """What was asked and what came back. `state` and the marks are immediate; `commit` returns once it is durable."""

    def state(self, index: int) -> int: ...
    async def commit(self, entries: Sequence[Entry], calls: Sequence[Call] = ()) -> None: ...
    async def find(self, index: int, request: bytes) -> Entry | None:
        """The recorded answer of this request, at this place or unclaimed elsewhere; it then stands at this place."""
        ...

    async def read(self, index: int) -> Entry | None: ...
    async def calls(self, index: int) -> Sequence[Call]:
        """The recorded calls of a row that has no value yet."""
        ...

    async def claim(self, index: int, request: bytes, occurrence: int) -> Call | None:
        """An answer to this request that an earlier run was given; it then stands at this place."""
        ...


class Source(Protocol):
    """Rows in, lazily, in order. `skip(index)` is true for a row that need not even be parsed."""

    def rows(self, skip: Callable[[int], bool]) -> Iterator[RawRow] | AsyncIterator[RawRow]: ...


class Sink(Protocol):
    """Lines out, in input order; nobody sees them before `finish`."""

    def write(self, line: bytes) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...


class Observer(Protocol):
    """Who wants to know. Called on the event loop, so it must be quick and must not raise."""

    def attempted(self, error: RequestError | None) -> None:
        """One send is over; `error` is what came of it, None an answer."""
        ...

    def trying_again(self) -> None:
        """A row is sent again, at its own cost (throttles and refused connections do not count)."""
        ...

    def finished(self, result: Result) -> None:
        """A row is over, and recorded where there is a ledger."""
        ...


class Prices(Protocol):
    """What an answer cost, in US dollars; None where the price is not known (never 0)."""

    def cost(self, model: str, usage: Usage | None) -> float | None: ...
