"""Whatever a server sends, in whatever pieces: an answer or a typed error, never a hang, and nothing is left."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.edges.http import HttpTransport
from penstock.errors import RequestError
from penstock.options import Timeouts
from penstock.records import HttpAnswer
from tests.fuzz.profile import fuzz
from tests.kit.hostile import Peer, hostile
from tests.kit.http_probe import descriptors, post, until
from tests.kit.rows import tasks_left

PATIENT = Timeouts(total=20.0)
FRAGMENTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0 500 \r\n",
    b"HTTP/2 200\r\n",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"Content-Length: 4\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Connection: keep-alive\r\nKeep-Alive: timeout=x\r\n",
    b"X: \x00\xff\r\n",
    b" folded\r\n",
    b"\r\n",
    b"\n",
    b"4\r\nabcd\r\n",
    b"0\r\n",
    b"ffffffffffffffff1\r\n",
    b"abcd",
    b"\x16\x03\x01\x02\x00",
    b"A" * 70_000,
]
PIECES = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=40)), max_size=12)
PLAUSIBLE = PIECES.map(lambda pieces: [b"HTTP/1.1 200 OK\r\n", *pieces])


async def answered_with(pieces: list[bytes], *, reset: bool, streamed: bool) -> HttpAnswer | RequestError:
    """What the client makes of these pieces, after which the server closes or resets."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)
        if reset:
            peer.reset()

    async with hostile(script) as server:
        client = HttpTransport(environ={})
        try:
            return await (_streamed if streamed else HttpTransport.send)(client, post(server.url()), PATIENT)
        except RequestError as error:
            return error
        finally:
            await client.aclose()
            now = client.statistics()
            assert (now.open, now.connecting, now.waiting) == (0, 0, 0)


async def _streamed(client: HttpTransport, call: object, timeouts: Timeouts) -> HttpAnswer:
    async with client.stream(call, timeouts) as stream:  # type: ignore[arg-type]
        return HttpAnswer(stream.status, stream.headers, b"".join([piece async for piece in stream]))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@fuzz
@given(pieces=st.one_of(PIECES, PLAUSIBLE), reset=st.booleans())
def test_any_bytes_are_an_answer_or_a_typed_error(streamed: bool, pieces: list[bytes], reset: bool) -> None:
    """Never an untyped error or a time-out, though the server ends each connection; no task, no descriptor is left."""

    async def main() -> None:
        came = await answered_with(pieces, reset=reset, streamed=streamed)
        if isinstance(came, HttpAnswer):
            assert 200 <= came.status <= 999
        else:
            assert came.kind in ("disconnected", "truncated", "malformed", "too_large"), came
            assert came.kind == "too_large" or came.maybe_billed
        await until(lambda: not tasks_left())

    before = descriptors()
    asyncio.run(main())
    assert descriptors() <= before
