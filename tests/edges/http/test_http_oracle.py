"""Answer by answer, Penstock's client and aiohttp agree, however a valid answer is framed and cut into packets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeAlias

import aiohttp
import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.edges.http import HttpTransport
from tests.kit.hostile import Peer, hostile
from tests.kit.http_probe import PATIENT, post

NAMES = st.sampled_from(["X-A", "x-a", "X-Request-Id", "Set-Cookie", "Retry-After", "Keep-Alive", "Connection-X"])
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
BODY = st.binary(max_size=200)


class Framed(msgspec.Struct):
    """An answer as bytes, how to cut it, and whether it lasts until the connection ends."""

    raw: bytes
    cuts: list[int]
    until_close: bool


def chunked(body: bytes, sizes: list[int], extension: str, trailers: list[tuple[str, str]]) -> bytes:
    """A body in chunks of these sizes (the last takes what is left)."""
    parts, rest = [], body
    for size in [*sizes, len(body)]:
        piece, rest = rest[:size], rest[size:]
        if piece:
            parts.append(b"%x%s\r\n%s\r\n" % (len(piece), extension.encode(), piece))
    tail = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return b"".join(parts) + b"0\r\n" + tail.encode() + b"\r\n"


@st.composite
def framed(draw: st.DrawFn) -> Framed:
    """A valid answer: any status with a body, any headers, any framing, perhaps after interim answers."""
    status = draw(st.sampled_from([200, 201, 302, 400, 401, 404, 413, 429, 500, 503, 529]))
    headers = draw(st.lists(st.tuples(NAMES, VALUES), max_size=6))
    framing = draw(st.sampled_from(["length", "chunked", "close", "old", "empty"]))
    body = b"" if framing == "empty" else draw(BODY)
    version = "HTTP/1.0" if framing == "old" else "HTTP/1.1"
    if framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
        extension = draw(st.sampled_from(["", ";a", ";a=b", ';a="b c"']))
        trailers = draw(st.lists(st.tuples(st.just("X-Trailer"), VALUES), max_size=2))
        body = chunked(body, draw(st.lists(st.integers(1, 50), max_size=5)), extension, trailers)
    elif framing in ("length", "empty"):
        headers.append(("Content-Length", str(len(body))))
    status = 204 if framing == "empty" and draw(st.booleans()) else status
    if status == 204:
        headers.pop()
    interim = b"".join(draw(st.lists(st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", HINTS]), max_size=3)))
    head = f"{version} {status} Reason\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    raw = interim + head.encode() + b"\r\n" + body
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    return Framed(raw, cuts, framing in ("close", "old"))


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]
Seen: TypeAlias = tuple[int, bytes, Counter[tuple[bytes, bytes]]]


def seen(status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Seen:
    """An answer in the form to compare: names in lower case, in any order."""
    return status, body, Counter((name.lower(), value.strip()) for name, value in headers)


async def ask_both(cases: list[Framed]) -> tuple[list[Seen], list[Seen]]:
    """Let both clients ask for every answer, on kept connections where they are kept."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            case = cases[int(request.split()[1].removeprefix(b"/"))]
            for start, end in zip([0, *case.cuts], [*case.cuts, len(case.raw)], strict=True):
                await peer.send(case.raw[start:end])
            if case.until_close:
                peer.end()
                return

    ours: list[Seen] = []
    theirs: list[Seen] = []
    async with hostile(script) as server, HttpTransport(environ={}) as client, aiohttp.ClientSession() as oracle:
        for number in range(len(cases)):
            url = server.url(f"/{number}")
            answer = await client.send(post(url), PATIENT)
            ours.append(seen(answer.status, answer.body, answer.headers))
            async with oracle.post(url, data=b"{}", allow_redirects=False) as response:
                theirs.append(seen(response.status, await response.read(), response.raw_headers))
    return ours, theirs


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@settings(max_examples=40, deadline=None)
@given(cases=st.lists(framed(), min_size=1, max_size=6))
def test_any_valid_answer_reads_the_same_as_with_aiohttp(run: Run, cases: list[Framed]) -> None:
    """Status, headers as a multiset, and body."""
    ours, theirs = run(ask_both(cases))
    assert ours == theirs
