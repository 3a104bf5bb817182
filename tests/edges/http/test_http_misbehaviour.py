"""Every way a server was seen or feared to misbehave ends in a typed error, in bounded time, with nothing left open."""

from __future__ import annotations

import asyncio
import gzip

import msgspec
import pytest

from penstock.edges.http import HttpTransport
from penstock.errors import BadAnswer, NoAnswer, RequestError
from penstock.options import Timeouts
from tests.kit.hostile import Peer, Script, answer, hostile
from tests.kit.http_probe import PATIENT, SHORT, nothing_leaks, post

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
TOTAL = Timeouts(connect=5, first_byte=5, between_bytes=5, total=0.2)


def says(*pieces: bytes, then: str = "hold") -> Script:
    """Read the request, answer with these pieces, then `close`, `reset`, or `hold` the connection open."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)
        if then == "close":
            peer.end()
        elif then == "reset":
            peer.reset()
        await peer.gone()

    return script


def repeats(start: bytes, piece: bytes) -> Script:
    """Read the request, answer with a start and then the same piece for ever."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(start)
        while True:
            await peer.send(piece)

    return script


async def resets_unread(peer: Peer) -> None:
    await peer.head()
    peer.reset()


class Case(msgspec.Struct):
    script: Script
    error: type[RequestError]
    kind: str
    timeouts: Timeouts = PATIENT
    status: int | None = None
    max_body_bytes: int = 10_000


CASES = {
    "no answer": Case(says(), NoAnswer, "timeout", SHORT),
    "half a status line": Case(says(b"HTTP/1."), NoAnswer, "timeout", SHORT),
    "half headers": Case(says(HEAD + b"Content-Ty"), NoAnswer, "timeout", SHORT),
    "only interim answers, then silence": Case(says(b"HTTP/1.1 102 Processing\r\n\r\n"), NoAnswer, "timeout", SHORT),
    "stall in the body": Case(says(HEAD + b"Content-Length: 9\r\n\r\nabc"), NoAnswer, "timeout", SHORT, 200),
    "stall in a chunk": Case(says(CHUNKED, b"5\r\nab"), NoAnswer, "timeout", SHORT, 200),
    "slow drip": Case(repeats(CHUNKED, b"1\r\nx\r\n"), NoAnswer, "timeout", TOTAL, 200, 10**9),
    "slow drip of a head": Case(says(b"HTTP/1.1 200 OK\r\nX: y"), NoAnswer, "timeout", TOTAL),
    "closed before any answer": Case(says(then="close"), NoAnswer, "disconnected"),
    "reset before any answer": Case(says(then="reset"), NoAnswer, "disconnected"),
    "reset before the body was read": Case(resets_unread, NoAnswer, "disconnected"),
    "closed inside the head": Case(says(HEAD, then="close"), NoAnswer, "disconnected"),
    "reset inside the head": Case(says(HEAD, then="reset"), NoAnswer, "disconnected"),
    "closed after an interim answer": Case(says(b"HTTP/1.1 100 Go\r\n\r\n", then="close"), NoAnswer, "disconnected"),
    "cut body": Case(says(HEAD + b"Content-Length: 9\r\n\r\nabc", then="close"), BadAnswer, "truncated", status=200),
    "reset body": Case(says(HEAD + b"Content-Length: 9\r\n\r\nabc", then="reset"), BadAnswer, "truncated", status=200),
    "cut chunk": Case(says(CHUNKED + b"5\r\nab", then="close"), BadAnswer, "truncated", status=200),
    "cut between chunks": Case(says(CHUNKED + b"2\r\nab\r\n", then="close"), BadAnswer, "truncated", status=200),
    "cut before the last line": Case(says(CHUNKED + b"0\r\n", then="close"), BadAnswer, "truncated", status=200),
    "reset of a body without length": Case(says(HEAD + b"\r\nabc", then="reset"), BadAnswer, "truncated", status=200),
    "garbage": Case(says(b"\x15\x03\x01\x00\x02\x02\x46"), BadAnswer, "malformed"),
    "another protocol": Case(says(b"SSH-2.0-OpenSSH_9.2\r\n"), BadAnswer, "malformed"),
    "endless empty lines": Case(repeats(b"", b"\r\n" * 4096), BadAnswer, "malformed"),
    "status 000": Case(says(b"HTTP/1.1 000 No\r\n\r\n"), BadAnswer, "malformed"),
    "a NUL in a header": Case(says(HEAD + b"X: a\0b\r\n\r\n"), BadAnswer, "malformed"),
    "two lengths": Case(says(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), BadAnswer, "malformed"),
    "length and chunks": Case(says(HEAD + b"Content-Length: 1\r\n" + CHUNKED[17:]), BadAnswer, "malformed"),
    "a negative length": Case(says(HEAD + b"Content-Length: -1\r\n\r\n"), BadAnswer, "malformed"),
    "a chunk size that is none": Case(says(CHUNKED + b"zz\r\n"), BadAnswer, "malformed", status=200),
    "many headers": Case(repeats(HEAD, b"X-Header: abcdefghijklmnopqrst\r\n" * 64), BadAnswer, "malformed"),
    "one endless header": Case(repeats(HEAD + b"X: ", b"a" * 4096), BadAnswer, "malformed"),
    "one packet of headers": Case(says(HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n"), BadAnswer, "malformed"),
    "endless trailers": Case(repeats(CHUNKED + b"0\r\n", b"X: y\r\n" * 512), BadAnswer, "malformed", status=200),
    "an endless trailer": Case(repeats(CHUNKED + b"0\r\nX: ", b"a" * 4096), BadAnswer, "malformed", status=200),
    "an endless chunk extension": Case(repeats(CHUNKED + b"1;", b"a" * 4096), BadAnswer, "malformed", status=200),
    "endless interim answers": Case(repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), BadAnswer, "malformed"),
    "switched protocols": Case(says(b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n"), BadAnswer, "malformed"),
    "compressed": Case(says(answer(gzip.compress(b"{}"), headers=("Content-Encoding: gzip",))), BadAnswer, "malformed"),
    "compressed on the way": Case(says(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n"), BadAnswer, "malformed"),
    "too long a body": Case(says(answer(b"x" * 10_001)), BadAnswer, "too_large", status=200),
    "an endless body": Case(repeats(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"), BadAnswer, "too_large", status=200),
    "an endless body without length": Case(repeats(HEAD + b"\r\n", b"x" * 1024), BadAnswer, "too_large", status=200),
}  # fmt: skip


async def ask(transport: HttpTransport, url: str, timeouts: Timeouts, how: str) -> None:
    """Send a request and read its answer, one way or the other."""
    async with asyncio.timeout(5):
        if how == "whole":
            await transport.send(post(url), timeouts)
            return
        async with transport.stream(post(url), timeouts) as stream:
            async for _ in stream:
                pass


@pytest.mark.parametrize("how", ["whole", "streamed"])
@pytest.mark.parametrize("name", CASES)
async def test_misbehaviour_ends_in_a_typed_error_and_leaves_nothing_open(name: str, how: str) -> None:
    """The kind says what happened, all of it may be billed, and connection, descriptors and tasks are gone."""
    case = CASES[name]
    async with nothing_leaks(), hostile(case.script) as server:
        transport = HttpTransport(environ={}, max_body_bytes=case.max_body_bytes)
        with pytest.raises(case.error) as caught:
            await ask(transport, server.url(), case.timeouts, how)
        assert (caught.value.kind, caught.value.maybe_billed) == (case.kind, True)
        assert caught.value.status == case.status
        assert f"127.0.0.1:{server.port}" in str(caught.value)
        assert "sk-canary" not in repr(caught.value)
        assert transport.statistics().open == 0
        assert server.accepted == 1, "nothing that may be billed is sent twice"
        await transport.aclose()


@pytest.mark.parametrize("cut", [0, 1, 500, 999, 1000, 1001])
@pytest.mark.parametrize("extra", [0, 1])
async def test_the_limit_counts_the_head_alone(cut: int, extra: int) -> None:
    """A head of just the limit's length is good wherever packets cut it; one byte more never is."""
    start, end = b"HTTP/1.1 200 OK\r\nX: ", b"\r\nContent-Length: 3\r\n\r\n"
    whole = start + b"a" * (1000 - len(start) - len(end) + extra) + end + b"abc"
    async with hostile(says(whole[:cut], whole[cut:])) as server:
        transport = HttpTransport(environ={}, max_head_bytes=1000)
        if extra:
            with pytest.raises(BadAnswer, match="longer than 1000 bytes"):
                await transport.send(post(server.url()), PATIENT)
        else:
            assert (await transport.send(post(server.url()), PATIENT)).body == b"abc"
        await transport.aclose()
