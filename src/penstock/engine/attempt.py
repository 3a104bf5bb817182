"""One answer, whole or as it comes: what its headers tell of the limits is heard, and it is read. Nothing is tried twice here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from penstock.engine.gate import Gate, Queue
from penstock.errors import RequestError
from penstock.options import Timeouts, for_streams
from penstock.ports import AnswerStream, Clock, Decoder, Provider, Transport
from penstock.records import Chunk, HttpAnswer, HttpCall, Response

TOO_MANY = 429
LONGEST_DRAIN = 0.25


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that all requests of one client share. `model` is the client's own."""

    clock: Clock
    transport: Transport
    provider: Provider
    gate: Gate
    timeouts: Timeouts
    model: str


def read_answer(account: Account, queue: Queue, answer: HttpAnswer, sent_at: float) -> Response:
    """The response in an answer, once what it tells of limits is heard. Raises a typed `RequestError`."""
    _hear(account, queue, answer, sent_at)
    return account.provider.decode(answer, account.clock.wall())


def _hear(account: Account, queue: Queue, answer: HttpAnswer, sent_at: float) -> None:
    now = account.clock.now()
    if answer.status == TOO_MANY or queue.governor.listens(now):
        queue.governor.hear(now, sent_at, account.provider.limits(answer, account.clock.wall()))


class StreamedAttempt:
    """One send whose answer is read as it comes: `pieces()` once, then `response()`, which raises what went wrong."""

    def __init__(self, account: Account, queue: Queue, call: HttpCall, *, relay: bool = False) -> None:
        self._account, self._queue, self._call, self._relay = account, queue, call, relay
        self._decoder: Decoder | None = None
        self._broken: RequestError | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        """Of the answer, once its first piece is there."""

    async def pieces(self) -> AsyncGenerator[list[Chunk], None]:
        """The chunks of each network read, as they come. Raises what prevented a head of the answer; leaving early
        closes the connection."""
        account = self._account
        sent_at = account.clock.now()
        async with account.transport.stream(self._call, for_streams(account.timeouts)) as answer:
            _hear(account, self._queue, HttpAnswer(answer.status, answer.headers, b""), sent_at)
            decoder = self._decoder = self._new_decoder(answer)
            self.headers = answer.headers
            try:
                async for data in answer:
                    if chunks := decoder.feed(data):
                        yield chunks
                    if decoder.over:
                        break
                await _drain(answer)
            except RequestError as error:
                self._broken = error
            if self._broken is None and (chunks := decoder.flush()):
                yield chunks

    def _new_decoder(self, answer: AnswerStream) -> Decoder:
        wall = self._account.clock.wall()
        return self._account.provider.decoder(answer.status, answer.headers, wall, relay=self._relay)

    def response(self) -> Response:
        """The whole answer, once every chunk was taken. Raises a typed `RequestError`."""
        assert self._decoder is not None
        return self._decoder.end(self._broken)


async def _drain(answer: AnswerStream) -> None:
    """Read what follows the end, so that the connection can be kept; a server that sends no end of its body is not waited for."""
    try:
        async with asyncio.timeout(LONGEST_DRAIN):
            async for _ in answer:
                pass
    except (TimeoutError, RequestError):
        return  # the answer is whole already
