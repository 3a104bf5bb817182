"""What one request to the server came to: a value, made once at its end, which metrics, request log and traces are made of.

It holds no key and, unless content is asked for, no word of a prompt or an answer. It decides nothing.
"""

from __future__ import annotations

import msgspec

from penstock.errors import RequestError
from penstock.ports import Clock, Observer
from penstock.records import Result, Usage

CALLER_LEFT = 499
"""The status of a request whose caller was gone before its answer was whole, as nginx has it."""


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at the provider: `began_s` counts from the beginning of the exchange; `error_kind` is "" for an answer."""

    began_s: float
    duration_s: float
    error_kind: str = ""
    status: int | None = None


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request that the server has dealt with.

    `route` is the template of the route and `model` a name as configured, or "": never a text of the caller's, since both
    become labels. `began_at` is Unix seconds; every other time is in seconds, `queue_s` what was spent waiting for a
    turn, `first_token_s` from the beginning to the first piece of the answer, known of streams only. `status` is the one
    of the HTTP answer, `error_kind` one of `errors.Kind` or "". `usage` and `cost` (US dollars) are None where unknown,
    never 0. `attempts` counts as `records.Result` does; `sends`, where a `Trail` noted them, has throttled ones too.
    `prompt` and `answer` are filled only where content is logged. `traceparent` is the caller's header as it came.
    """

    request_id: str
    route: str
    status: int
    began_at: float
    duration_s: float
    method: str = "POST"
    model: str = ""
    provider: str = ""
    key_name: str = ""
    error_kind: str = ""
    streamed: bool = False
    queue_s: float | None = None
    first_token_s: float | None = None
    usage: Usage | None = None
    cost: float | None = None
    attempts: int = 0
    sends: tuple[Send, ...] = ()
    finish_reason: str = ""
    upstream_request_id: str = ""
    traceparent: str = ""
    prompt: bytes = b""
    answer: bytes = b""

    def known_sends(self) -> tuple[Send, ...]:
        """The sends; where they were not noted one by one, a single one from the request's turn to its end."""
        if self.sends or not self.attempts:
            return self.sends
        waited = self.queue_s or 0.0
        return (Send(began_s=waited, duration_s=self.duration_s - waited, error_kind=self.error_kind),)

    def __repr__(self) -> str:
        # A repr shows up in logs and tracebacks, so it names no content.
        return f"Exchange({self.request_id!r}, {self.route!r}, {self.model!r}, {self.status})"


class Trail:
    """Notes the sends of one request: both `ports.Marks` (a send begins) and `ports.Observer` (it is over) of its `Caller`.

    Make it when the request begins; what it is told as an observer it passes on. Where two sends are under way at once
    (hedging), the first that ends is taken for the first that began.
    """

    __slots__ = ("_clock", "_observer", "_origin", "_under_way", "sends")

    def __init__(self, clock: Clock, observer: Observer) -> None:
        self._clock, self._origin, self._observer = clock, clock.now(), observer
        self._under_way: list[float] = []
        self.sends: list[Send] = []

    def sending(self, index: int) -> None:  # noqa: ARG002  (Marks: a single request is row 0)
        self._under_way.append(self._clock.now())

    def not_sent(self, index: int) -> None:
        """What the send cost is no concern of its times."""

    def attempted(self, error: RequestError | None) -> None:
        began = self._under_way.pop(0)
        told = (error.kind, error.status) if error is not None else ("", None)
        times = {"began_s": began - self._origin, "duration_s": self._clock.now() - began}
        self.sends.append(Send(**times, error_kind=told[0], status=told[1]))
        self._observer.attempted(error)

    def trying_again(self) -> None:
        self._observer.trying_again()

    def finished(self, result: Result) -> None:
        self._observer.finished(result)
