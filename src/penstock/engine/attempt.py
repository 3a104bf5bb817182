"""One try: send the bytes, hear what the headers tell of the limits, read the answer. Nothing is tried twice here."""

from __future__ import annotations

import msgspec

from penstock.engine.gate import Gate, Queue
from penstock.options import Timeouts
from penstock.ports import Clock, Provider, Transport
from penstock.records import HttpCall, Response

TOO_MANY = 429


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that all requests of one client share. `model` is the client's own."""

    clock: Clock
    transport: Transport
    provider: Provider
    gate: Gate
    timeouts: Timeouts
    model: str


async def attempt(account: Account, queue: Queue, call: HttpCall) -> Response:
    """The response to one send. Raises a typed `RequestError`; cancelling closes the connection."""
    clock, provider, governor = account.clock, account.provider, queue.governor
    sent_at = clock.now()
    answer = await account.transport.send(call, account.timeouts)
    now = clock.now()
    if answer.status == TOO_MANY or governor.listens(now):
        governor.hear(now, sent_at, provider.limits(answer, clock.wall()))
    return provider.decode(answer, clock.wall())
