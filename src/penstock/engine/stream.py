"""One request whose answer is read as it comes: the same gate, retries and account as a whole answer has.

A stream that breaks before its first piece is tried again like any other send. After that the caller has seen some of it: the
break is told, or the answer begins anew where that was asked for. Nothing runs ahead of the reader: who takes no chunk holds
back the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, TypeAlias

from penstock.engine.attempt import attempt_streamed
from penstock.engine.call import FIRST_TRY, Caller, Outcome, never_fits
from penstock.engine.gate import Ticket
from penstock.errors import RequestError, RunStopped, request_error
from penstock.records import Chunk, Request
from penstock.rules.journey import follow
from penstock.rules.retry import Verdict

OnBreak: TypeAlias = Literal["error", "restart"]
AGAIN = Chunk(restarted=True)


class Streaming:
    """One streamed request. Iterate `chunks()` once; `outcome` is whole when that has ended. Nothing raises for the row."""

    def __init__(
        self, caller: Caller, request: Request, body: bytes, index: int = 0, on_break: OnBreak = "error"
    ) -> None:
        self._caller = caller
        self._passage = caller.passage(request, body, index)
        account = caller.account
        self._passage.call = account.provider.stream_call(body, request.model or account.model)
        self._restarts = on_break == "restart"
        self._told = False

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        return self._passage.outcome

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The pieces of the answer. Leaving early closes the connection; raises `RunStopped` where the scope has ended."""
        passage, deadline = self._passage, self._caller.deadline
        until = None if deadline is None else asyncio.get_running_loop().time() + deadline
        try:
            async with aclosing(self._tries()) as pieces:
                while True:
                    # The time-out must not span a yield: what the reader does meanwhile is his own affair.
                    async with asyncio.timeout_at(until):
                        chunk = await anext(pieces, None)
                    if chunk is None:
                        return
                    yield chunk
        except TimeoutError as timeout:
            error = request_error("deadline", f"no whole answer within the row's deadline of {deadline:g} s")
            error.__cause__ = timeout
            passage.outcome.error, passage.state = error, follow(passage.state, "deadline")
        except RunStopped:
            passage.state = follow(passage.state, "run stopped")
            raise

    async def _tries(self) -> AsyncGenerator[Chunk, None]:
        passage, caller = self._passage, self._caller
        verdict = FIRST_TRY
        while verdict.action == "again":
            if (too_large := never_fits(passage)) is not None:
                passage.outcome.error, passage.state = too_large, follow(passage.state, "never fits")
                return
            ticket = await caller.enter(passage, verdict)
            passage.state = follow(passage.state, "admitted")
            try:
                if self._told:
                    self._told = False
                    yield AGAIN
                async with aclosing(self._send(ticket)) as pieces:
                    async for chunk in pieces:
                        yield chunk
            except RequestError as error:
                verdict = self._failed(error)
            else:
                return
            finally:
                caller.account.gate.leave(passage.queue, caller.scope)

    def _failed(self, error: RequestError) -> Verdict:
        """What follows from a break: whoever has been told some of the answer is told of it, unless it may begin anew."""
        passage = self._passage
        if not self._told or self._restarts:
            return self._caller.failed(passage, error)
        passage.outcome.latency_s = self._caller.account.clock.now() - passage.began
        passage.outcome.error, passage.state = error, follow(passage.state, "given up")
        return Verdict("fail")

    async def _send(self, ticket: Ticket) -> AsyncGenerator[Chunk, None]:
        """One send, accounted for as `Caller` accounts for a whole answer."""
        passage, caller = self._passage, self._caller
        clock, outcome = caller.account.clock, passage.outcome
        caller.set_out(passage)
        try:
            reading = attempt_streamed(caller.account, passage.queue, passage.call)
            async with aclosing(reading.chunks()) as pieces:
                async for chunk in pieces:
                    if not self._told:
                        self._told, outcome.first_token_s = True, clock.now() - ticket.at
                    yield chunk
            response = reading.response()
        except RequestError as error:
            caller.tell_of_failure(passage, ticket, error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            caller.tell_of_giving_up(passage, ticket)
            raise
        caller.tell_of_answer(passage, ticket, response)
        outcome.response, passage.state = response, follow(passage.state, "answer")
        outcome.latency_s = clock.now() - passage.began
