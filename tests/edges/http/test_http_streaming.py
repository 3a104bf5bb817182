"""Answers read as they come: memory stays bounded, pieces are whole, leaving early closes."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from penstock.edges.http import AnswerStream, HttpTransport
from penstock.edges.http.exchange import AnswerLimits
from penstock.edges.http.streaming import HOLD_BYTES, StreamedAnswer
from penstock.errors import BadAnswer, NoAnswer
from penstock.options import Timeouts
from tests.kit.hostile import Peer, answer, hostile
from tests.kit.http_probe import PATIENT, nothing_leaks, post, until

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MEGABYTE = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"


async def test_pieces_come_as_they_are_sent_and_the_connection_is_kept() -> None:
    """Each piece is there before the next one is sent; after the last one the connection is free for the next request."""
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(CHUNKED)
            for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n"):
                await peer.send(piece)
                await seen.wait()
                seen.clear()
            await peer.send(b"0\r\n\r\n")
        await peer.gone()

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        for _ in range(2):
            pieces = []
            async with client.stream(post(server.url()), PATIENT) as stream:
                assert stream.status == 200
                assert (b"Content-Type", b"text/event-stream") in stream.headers
                async for piece in stream:
                    pieces.append(piece)
                    seen.set()
            assert pieces == [b"one", b"two"]
        assert client.statistics().reused == 1
        await client.aclose()


async def test_a_slow_reader_holds_the_server_back() -> None:
    """Of fifty megabytes sent, no more lies in memory than the mark and one read of the loop; all of it arrives."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(50):
            await peer.send(MEGABYTE)
            sent += 1
        await peer.send(b"0\r\n\r\n")
        await peer.request()
        await peer.send(answer(b"next"))

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        async with client.stream(post(server.url()), PATIENT) as stream:
            pieces = aiter(stream)
            total = len(await anext(pieces))
            before = -1
            while before != sent:  # until a thousand turns of the loop bring nothing new
                before = sent
                for _ in range(1000):
                    await asyncio.sleep(0)
            assert sent < 50
            exchange = stream._exchange
            most = exchange.buffered_bytes
            async for piece in pieces:
                total += len(piece)
                most = max(most, exchange.buffered_bytes)
        assert total == 50 * 0x100000
        assert HOLD_BYTES < most < HOLD_BYTES + 600_000
        assert (await client.send(post(server.url()), PATIENT)).body == b"next"
        assert client.statistics().opened == 1
        await client.aclose()


async def test_an_answer_that_ended_while_held_back_leaves_a_connection_that_reads() -> None:
    """A stream whose end arrived with the piece that was too much: its connection serves the next request."""

    async def script(peer: Peer) -> None:
        for body in (b"x" * (HOLD_BYTES + 40_000), b"next"):
            await peer.request()
            await peer.send(answer(body))
        await peer.gone()

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        async with client.stream(post(server.url()), PATIENT):
            await until(lambda: client.statistics().idle == 1)
        assert (await client.send(post(server.url()), PATIENT)).body == b"next"
        assert client.statistics().opened == 1
        await client.aclose()


async def test_the_readers_own_slowness_is_no_stall() -> None:
    """While the reader keeps the server waiting, the time between bytes does not run; the total does."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        while True:
            await peer.send(MEGABYTE)

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        timeouts = Timeouts(connect=5, first_byte=5, between_bytes=0.05, total=0.3)
        async with client.stream(post(server.url()), timeouts) as stream:
            await until(lambda: client.statistics().open == 0, turns=10**7)
            with pytest.raises(NoAnswer, match=r"no whole answer within 0\.3 s"):
                async for _ in stream:
                    pass
        await client.aclose()


@pytest.mark.parametrize("pieces", [0, 1])
async def test_leaving_early_closes_the_connection(pieces: int) -> None:
    """The server learns at once that nobody listens any more."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED, b"1\r\nx\r\n")
        await peer.gone()
        gone.set()

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        async with client.stream(post(server.url()), PATIENT) as stream:
            if pieces:
                async for _ in stream:
                    break
        assert client.statistics().open == 0
        await gone.wait()
        await client.aclose()


async def test_an_exception_in_the_block_closes_the_connection() -> None:
    """The reader's own failure leaves nothing open and comes through unchanged."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.gone()

    async def read_and_fail(client: HttpTransport, url: str) -> None:
        async with client.stream(post(url), PATIENT):
            raise KeyError("mine")

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        with pytest.raises(KeyError, match="mine"):
            await read_and_fail(client, server.url())
        assert client.statistics().open == 0
        await client.aclose()


async def test_what_came_before_a_cut_is_given_before_the_error() -> None:
    """No byte that arrived is lost, and the end is never taken for a good one."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED, b"3\r\none\r\n3\r\ntwo\r\n")
        peer.end()

    got: list[bytes] = []

    async def read(stream: AnswerStream) -> None:
        async for piece in stream:
            got.append(piece)  # noqa: PERF401 - a comprehension would lose the pieces before the error

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        async with client.stream(post(server.url()), PATIENT) as stream:
            await until(lambda: client.statistics().open == 0)
            with pytest.raises(BadAnswer) as caught:
                await read(stream)
        await client.aclose()
    assert b"".join(got) == b"onetwo"
    assert caught.value.kind == "truncated"
    assert repr(stream) == "AnswerStream(status=200, 0 bytes buffered)"


async def test_the_time_between_bytes_begins_anew_when_the_server_is_let_go_on() -> None:
    class Held:
        loop, where = asyncio.get_running_loop(), "here"

        def pause(self) -> None:
            """Nothing is read."""

        def resume(self) -> None:
            """Nor now."""

    long_ago = time.monotonic() - 1_000
    exchange = StreamedAnswer(Held(), AnswerLimits(), Timeouts(between_bytes=60), deadline=math.inf)
    exchange.feed(CHUNKED + MEGABYTE, long_ago)
    assert exchange.held()
    assert len(exchange.taken()) == 0x100000
    assert not exchange.held()
    assert exchange.overdue(time.monotonic()) is None
    assert exchange.overdue(time.monotonic() + 61) is not None
