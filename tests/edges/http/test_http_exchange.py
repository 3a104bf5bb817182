"""What an exchange decides about time, without any socket or clock."""

from __future__ import annotations

import asyncio

import pytest

from penstock.edges.http.exchange import AnswerLimits, WholeAnswer, keep_alive_timeout
from penstock.options import Timeouts

TIMEOUTS = Timeouts(first_byte=100, between_bytes=10, total=1000)


class Carrier:
    """A connection that is never asked for anything."""

    where = "api.test:443"

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def pause(self) -> None:
        raise AssertionError("whole answers never pause")

    resume = pause


@pytest.mark.parametrize(
    ("received", "overdue_at", "reason"),
    [
        ((), 100, "no answer began within 100 s"),
        ((b"\r\n",), 100, "no answer began within 100 s"),
        ((b"HTTP/1.1 102 Processing\r\n\r\n",), 100, "no answer began within 100 s"),
        ((b"HTTP/1.1 102 Processing\r\n\r\nHTTP",), 15, "stalled for 10 s"),
        ((b"HTTP/1.1 200 OK\r\n",), 15, "stalled for 10 s"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na",), 15, "stalled for 10 s"),
    ],
)
async def test_each_phase_has_its_own_time_out(received: tuple[bytes, ...], overdue_at: float, reason: str) -> None:
    """Until the answer itself begins it is `first_byte`, interim answers or not; after that `between_bytes`."""
    exchange = WholeAnswer(Carrier(), AnswerLimits(), TIMEOUTS, deadline=1000)
    exchange.sent_at = 0
    for data in received:
        exchange.feed(data, now=5)
    assert exchange.overdue(overdue_at - 0.01) is None
    error = exchange.overdue(overdue_at)
    assert error is not None
    assert reason in error.message
    late = exchange.overdue(1000)
    assert late is not None
    assert "no whole answer within 1000 s" in late.message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"timeout=5", 5), (b"max=100, Timeout = 7", 7), (b"timeout=x", None), (b"timeout=-1", None), (b"", None)],
)
def test_the_keep_alive_header_is_read_as_it_is_meant(value: bytes, seconds: float | None) -> None:
    """Seconds where it names a whole number of them."""
    assert keep_alive_timeout(value) == seconds
