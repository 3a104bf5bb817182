"""Whole answers without a task: who asks is called back from where the answer was read.

A sending process does nothing but this, so it is worth a path of its own: a task, a future and their turns of the loop cost
5 to 8 us a call, a tenth of what a call costs in all. Where no connection is idle, and where one turns out to be closed, the
usual way is taken (`HttpTransport.send`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic

from penstock.edges.http.connection import Connection
from penstock.edges.http.exchange import AnswerLimits, Exchange
from penstock.edges.http.transport import HttpTransport
from penstock.errors import RequestError
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall


class DirectAnswer(Exchange):
    """The answer to a call, by the number that its asker gave it; `tell` gets it when it is over."""

    number: int
    call: HttpCall
    tell: Callable[[DirectAnswer, HttpAnswer | RequestError], None]
    over = False

    def __init__(self, connection: Connection, limits: AnswerLimits, timeouts: Timeouts, deadline: float) -> None:
        super().__init__(connection, limits, timeouts, deadline)
        self.chunks: list[bytes] = []
        self._connection = connection

    def succeed(self) -> None:
        self.over = True
        chunks = self.chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.tell(self, HttpAnswer(self.status, self.headers, body))

    def fail(self, error: RequestError) -> None:
        self.over = True
        self.tell(self, error)

    def cancel(self) -> None:
        """Nobody waits for it any more: its connection is closed at once."""
        self._connection.abandon(self)


class DirectTransport(HttpTransport):
    """`HttpTransport` that can also be asked without waiting."""

    def begin(
        self,
        call: HttpCall,
        timeouts: Timeouts,
        number: int,
        tell: Callable[[DirectAnswer, HttpAnswer | RequestError], None],
    ) -> DirectAnswer | None:
        """Send a call on an idle connection; None where there is none. `tell` may be called before this returns.

        Raises `UsageError` where it could not be sent as it stands. What is told may be `StaleConnection`: to be sent again.
        """
        head = self._heads.get(call)
        now = monotonic()
        connection = self._pool.take(head.origin, now)
        if connection is None:
            return None
        deadline = math.inf if timeouts.total is None else now + timeouts.total
        answer = DirectAnswer(connection, self._limits, timeouts, deadline)
        answer.number, answer.call, answer.tell = number, call, tell
        connection.begin(answer, head.payload(call.body), now)
        if timeouts is not self._pool.noted:
            self._pool.watch(timeouts)
        return answer
