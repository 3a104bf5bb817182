"""One request whose answer is read as it comes: the same gate, retries and account as a whole answer has.

A stream that breaks before its first token is tried again like any other send. After that the caller has seen some of it: the
break is told, or the answer begins anew where that was asked for. Nothing runs ahead of the reader: who takes no chunk holds
back the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Literal, TypeAlias

import msgspec

from penstock.engine.attempt import StreamedAttempt
from penstock.engine.call import DONE, FIRST_TRY, Caller, Outcome
from penstock.engine.gate import Ticket
from penstock.errors import RequestError, RunStopped, request_error
from penstock.records import Chunk, Request
from penstock.rules.journey import follow
from penstock.rules.retry import Verdict

OnBreak: TypeAlias = Literal["error", "restart"]
AGAIN = Chunk(restarted=True)


class Pace(msgspec.Struct):
    """How the chunks of one answer came after the first network read: running numbers, in seconds.

    What counts is the time that was waited for them; the time that the reader takes for himself is none of the provider's.
    """

    chunks: int = 0
    waited: float = 0.0
    longest_gap: float = 0.0

    def came(self, waited: float, chunks: int) -> None:
        """So many chunks came, after so long a wait."""
        self.chunks += chunks
        self.waited += waited
        if waited > self.longest_gap:
            self.longest_gap = waited


class Streaming:
    """One streamed request. Iterate `pieces()` once; `outcome` is whole when that has ended. Nothing raises for the row.

    `relay` is for who passes the stream on: every event becomes a chunk, with its data in `Chunk.raw`. `outcome` is filled
    in as it goes, for who must know it even if the stream is left.
    """

    def __init__(
        self,
        caller: Caller,
        request: Request,
        body: bytes,
        index: int = 0,
        on_break: OnBreak = "error",
        relay: bool = False,
        outcome: Outcome | None = None,
    ) -> None:
        self._caller = caller
        self._passage = caller.passage(request, body, index)
        if outcome is not None:
            self._passage.outcome = outcome
        account = caller.account
        self._passage.call = account.provider.stream_call(body, request.model or account.model)
        self._restarts = on_break == "restart"
        self._relay = relay
        self._verdict = FIRST_TRY
        self._told = False
        """True once the reader has seen some of an answer."""
        self.pace = Pace()

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        return self._passage.outcome

    def pieces(self) -> AsyncGenerator[list[Chunk], None]:
        """The chunks of each network read together, never an empty list. Chunks that add nothing wait for one that does.

        Leaving early closes the connection; raises `RunStopped` where the scope has ended.
        """
        deadline = self._caller.deadline
        return self._tries() if deadline is None else self._within(deadline)

    async def _within(self, deadline: float) -> AsyncGenerator[list[Chunk], None]:
        until = asyncio.get_running_loop().time() + deadline
        passage = self._passage
        try:
            async with aclosing(self._tries()) as pieces:
                while True:
                    # The time-out must not span a yield: what the reader does meanwhile is his own affair.
                    async with asyncio.timeout_at(until):
                        chunks = await anext(pieces, None)
                    if chunks is None:
                        return
                    yield chunks
        except TimeoutError as timeout:
            error = request_error("deadline", f"no whole answer within the row's deadline of {deadline:g} s")
            error.__cause__ = timeout
            passage.outcome.error, passage.state = error, follow(passage.state, "deadline")

    async def _tries(self) -> AsyncGenerator[list[Chunk], None]:
        passage, caller = self._passage, self._caller
        try:
            while self._verdict.action == "again":
                if (too_large := passage.queue.too_large(passage.ask)) is not None:
                    passage.outcome.error, passage.state = too_large, follow(passage.state, "never fits")
                    return
                verdict = self._verdict
                ticket = caller.enter_nowait(passage, verdict) or await caller.enter(passage, verdict)
                if ticket is None:
                    return
                with self._sending(ticket) as reading:
                    async with aclosing(reading.pieces()) as pieces:
                        if begun := await self._begun(reading, pieces, ticket):
                            yield begun
                        asked = caller.account.clock.now()
                        async for chunks in pieces:
                            self.pace.came(caller.account.clock.now() - asked, len(chunks))
                            yield chunks
                            asked = caller.account.clock.now()
        except RunStopped:
            passage.state = follow(passage.state, "run stopped")
            raise

    async def _begun(self, reading: StreamedAttempt, pieces: AsyncIterator[list[Chunk]], ticket: Ticket) -> list[Chunk]:
        """All that comes until an answer begins; until then nothing is told, so that the request may be tried again."""
        outcome, came = self.outcome, list[Chunk]()
        async for chunks in pieces:
            came += chunks
            if any(map(_adds, chunks)):
                told, self._told = self._told, True
                outcome.headers, outcome.first_token_s = reading.headers, self._caller.account.clock.now() - ticket.at
                self.pace = Pace()
                return [AGAIN, *came] if told else came
        return []

    @contextmanager
    def _sending(self, ticket: Ticket) -> Iterator[StreamedAttempt]:
        """One send, accounted for as `Caller` accounts for a whole answer; its slot is free again at the end."""
        passage, caller = self._passage, self._caller
        account, outcome = caller.account, passage.outcome
        caller.set_out(passage, ticket)
        try:
            reading = StreamedAttempt(account, passage.queue, passage.call, relay=self._relay)
            yield reading
            response = reading.response()
        except RequestError as error:
            caller.tell_of_failure(passage, ticket, error)
            self._verdict = self._failed(error)
        except (asyncio.CancelledError, GeneratorExit):
            caller.tell_of_giving_up(passage, ticket)
            raise
        else:
            caller.tell_of_answer(passage, ticket, response)
            outcome.response, passage.state, self._verdict = response, follow(passage.state, "answer"), DONE
            outcome.latency_s = account.clock.now() - passage.began
        finally:
            account.gate.leave(passage.queue, caller.scope)

    def _failed(self, error: RequestError) -> Verdict:
        """What follows from a break: whoever has been told some of the answer is told of it, unless it may begin anew."""
        passage = self._passage
        if not self._told or self._restarts:
            return self._caller.failed(passage, error)
        passage.outcome.latency_s = self._caller.account.clock.now() - passage.began
        passage.outcome.error, passage.state = error, follow(passage.state, "given up")
        return Verdict("fail")


def _adds(chunk: Chunk) -> bool:
    """True for a part of the answer itself: a role alone, or a count of tokens, is none."""
    return bool(chunk.text or chunk.reasoning or chunk.tool_calls or chunk.finish_reason)
