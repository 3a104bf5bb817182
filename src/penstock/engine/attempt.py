"""One try: send the bytes, read the answer. Nothing is tried twice here, and nothing is waited for but the answer."""

from __future__ import annotations

from penstock.options import Timeouts
from penstock.ports import Clock, Provider, Transport
from penstock.records import HttpCall, Response


async def attempt(
    transport: Transport, provider: Provider, clock: Clock, call: HttpCall, timeouts: Timeouts
) -> Response:
    """The response to one send. Raises a typed `RequestError`; cancelling closes the connection."""
    answer = await transport.send(call, timeouts)
    return provider.decode(answer, clock.wall())
