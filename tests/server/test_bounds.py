"""S6: whatever is sent, however large, deep, slow or endless, it is refused early and costs little memory."""

from __future__ import annotations

import asyncio
import resource
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from penstock.server import protocol, visit
from tests.kit.serving import CHAT, HI, Wire, echoes, gateway, raw_piece, wire

MIB = 1024 * 1024
MOST_GROWTH = 64 * MIB
POSTS = [CHAT, "/generate", "/generate/stream", "/generate/batch"]
CHUNKED = {"transfer-encoding": "chunked"}


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def head(target: str, **headers: str) -> bytes:
    given = {"host": "localhost", "content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return "\r\n".join([f"POST {target} HTTP/1.1", *(f"{n}: {v}" for n, v in given.items()), "", ""]).encode()


async def pour(line: Wire, pieces: Iterator[bytes]) -> int:
    """Send until the server has had enough; how many bytes it let us send."""
    sent = 0
    try:
        for piece in pieces:
            await line.send(piece)
            sent += len(piece)
            if line.reader.at_eof():
                break
    except ConnectionError:
        pass
    return sent


def a_gigabyte(piece: bytes) -> Iterator[bytes]:
    for _ in range(1024 * MIB // len(piece)):
        yield piece


@pytest.mark.parametrize("target", POSTS)
async def test_a_body_that_says_it_is_too_large_is_refused_unread(tmp_path: Path, target: str) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream), wire(server.port) as line:
        await line.send(head(target, content_length=str(1024 * MIB)))
        told = await line.answer()
        assert (told.status, told.error["code"], told.header("connection")) == (413, "body_too_large", "close")
        assert await line.ended() == b""
    assert upstream.asked.all == []


@pytest.mark.parametrize("target", POSTS)
async def test_a_body_without_a_length_is_refused_once_it_is_too_large(tmp_path: Path, target: str) -> None:
    """A gigabyte in chunks: a small part of it is read, the answer is there, and the connection is closed."""
    async with gateway(echoes, tmp_path, max_body_mib=2.0) as (server, upstream):
        before = peak_bytes()
        async with wire(server.port) as line:
            await line.send(head(target, transfer_encoding="chunked"))
            pouring = asyncio.create_task(pour(line, a_gigabyte(raw_piece(b'{"a":"' + b"x" * MIB))))
            told = await line.answer()
            assert (told.status, told.error["code"], told.header("connection")) == (413, "body_too_large", "close")
            async with asyncio.timeout(30):
                assert await pouring < 64 * MIB
        assert peak_bytes() - before < MOST_GROWTH
        assert (await server.over.at_least(1))[0].status == 413
        assert (await server.ask(body=HI)).status == 200
    assert len(upstream.asked.all) == 1


async def test_a_body_just_within_the_bound_is_taken(tmp_path: Path) -> None:
    """Or the bound would be another one than is said; with a length and in chunks."""
    async with gateway(echoes, tmp_path, max_body_mib=1.0) as (server, upstream):
        empty = len(server.request("POST", CHAT, {**HI, "x": ""}).partition(b"\r\n\r\n")[2])
        body = server.request("POST", CHAT, {**HI, "x": "y" * (MIB - empty)}).partition(b"\r\n\r\n")[2]
        assert len(body) == MIB
        assert (await server.ask(body=body)).status == 200
        assert (await server.ask(body=body + b" ")).status == 413
        async with wire(server.port) as line:
            await line.send(head(CHAT, transfer_encoding="chunked"), raw_piece(body[:7]), raw_piece(body[7:]))
            await line.send(b"0\r\n\r\n")
            assert (await line.answer()).status == 200
    assert len(upstream.asked.all) == 2


async def test_a_length_that_lies_gets_nobody_anywhere(tmp_path: Path) -> None:
    """What is more than it says is another request; what is less is waited for, and given up with its sender."""
    async with gateway(echoes, tmp_path) as (server, upstream):
        async with wire(server.port) as line:
            await line.send(head(CHAT, content_length="2"), b'{}{"model":"gpt-5-mini"}')
            told = await line.ended()
            assert told.startswith(b"HTTP/1.1 400 ")
            assert told.count(b"HTTP/1.1 ") <= 2  # the rest is no HTTP
        async with wire(server.port) as line:
            await line.send(head(CHAT, content_length="500"), b"{}")
            line.writer.write_eof()
            assert await line.ended() == b""
    assert upstream.asked.all == []


@pytest.mark.parametrize("pause", ["nothing", "a drip"])
@pytest.mark.parametrize("target", POSTS)
async def test_a_body_that_does_not_end_is_given_up(
    tmp_path: Path, target: str, pause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a byte comes now and then."""
    monkeypatch.setattr(visit, "SLOWEST_BODY", 0.1)
    async with gateway(echoes, tmp_path) as (server, upstream), wire(server.port) as line:
        await line.send(head(target, transfer_encoding="chunked"), raw_piece(b"{"))
        answer = asyncio.create_task(line.answer())
        while pause == "a drip" and not answer.done():
            await line.send(raw_piece(b" "))
            await asyncio.sleep(0)
        told = await answer
        assert (told.status, told.error["code"], told.header("connection")) == (408, "request_timeout", "close")
        await line.ended()
    assert upstream.asked.all == []


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HT", b"POST /generate HTTP/1.1\r\nhost: localhost\r\n", b"GET / HTTP/1.1\r\nx: "]
)
async def test_a_head_that_does_not_end_is_given_up(
    tmp_path: Path, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "SLOWEST_HEAD", 0.1)
    async with gateway(echoes, tmp_path) as (server, _):
        async with wire(server.port) as line:
            await line.send(begun)
            assert await line.ended() == b""
        async with wire(server.port) as line:  # the second on a connection, too
            await line.send(server.request("GET", "/v1/models"))
            assert (await line.answer()).status == 200
            await line.send(begun or b"G")
            assert await line.ended() == b""


HEADS: dict[str, list[bytes]] = {
    "one line": [b"x: " + b"a" * 70_000],
    "one line of many megabytes": [b"x: "] + [b"a" * MIB] * 40,
    "many headers": [b"x: a\r\n" * 20_000],
    "a million headers": [b"x: a\r\n" * 100_000] * 10,
    "empty headers": [b"x:\r\n" * 100_000],
    "a name": [b"x" * 70_000 + b": a"],
    "cookies": [b"cookie: " + b"c" * 60_000 + b"\r\n"] * 3,
}


@pytest.mark.parametrize("kind", HEADS)
async def test_a_head_that_is_too_large_is_refused(tmp_path: Path, kind: str) -> None:
    """431, the connection closed, little of it read, and nothing logged as a defect."""
    async with gateway(echoes, tmp_path) as (server, upstream):
        before = peak_bytes()
        async with wire(server.port) as line:
            await line.send(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n")
            pieces = [*HEADS[kind], b"\r\n\r\n"]
            pouring = asyncio.create_task(pour(line, iter(pieces)))
            told = await line.ended()
            async with asyncio.timeout(30):
                await pouring
        assert told.startswith(b"HTTP/1.1 431 ") or told == b"", told[:200]
        assert b"HTTP/1.1" not in told[10:], told
        assert peak_bytes() - before < MOST_GROWTH
        assert (await server.ask("/v1/models")).status == 200
    assert upstream.asked.all == []


async def test_a_long_target_is_refused_or_not_there(tmp_path: Path) -> None:
    async with gateway(echoes, tmp_path) as (server, _), wire(server.port) as line:
        pouring = asyncio.create_task(pour(line, iter([b"GET /", *[b"a" * MIB] * 40, b" HTTP/1.1\r\n\r\n"])))
        told = await line.ended()
        await pouring
        assert told.startswith(b"HTTP/1.1 4") or told == b""


def nested(depth: int, kind: bytes) -> bytes:
    opening, closing = {b"[": (b"[", b"]"), b"{": (b'{"a":', b"}")}[kind]
    return opening * depth + b"1" + closing * depth


@pytest.mark.parametrize("kind", [b"[", b"{"])
@pytest.mark.parametrize("depth", [100, 900, 2_000, 100_000])
async def test_json_that_is_nested_deep_is_no_defect(tmp_path: Path, depth: int, kind: bytes) -> None:
    """A few levels pass on, 100,000 are a 400, and nothing between is a 5xx."""
    deep = nested(depth, kind)
    bodies = {
        CHAT: b'{"model":"gpt-5-mini","messages":[{"role":"user","content":"hi"}],"x":%b}' % deep,
        "/generate": b'{"prompt":"hi","x":%b}' % deep,
        "/generate/stream": b'{"prompt":"hi","x":%b}' % deep,
        "/generate/batch": b'{"prompts":["hi"],"x":%b}' % deep,
    }
    async with gateway(echoes, tmp_path) as (server, _):
        for target, body in bodies.items():
            told = await server.ask(target, body)
            assert told.status in ((200,) if depth <= 100 else (400,) if depth >= 100_000 else (200, 400)), target
        assert (await server.ask(body=deep)).status == 400
        assert (await server.ask(body=HI)).status == 200


@cache
def a_bomb() -> bytes:
    """A hundred megabytes of text, a thousand times smaller."""
    packing = zlib.compressobj(9, wbits=31)
    return (
        packing.compress(b'{"prompt":"') + b"".join(packing.compress(b"a" * MIB) for _ in range(100)) + packing.flush()
    )


@pytest.mark.parametrize("target", POSTS)
async def test_a_compressed_body_is_not_unpacked(tmp_path: Path, target: str) -> None:
    """A bomb is a body like any other, and no JSON."""
    bomb = a_bomb()
    async with gateway(echoes, tmp_path) as (server, upstream):
        before = peak_bytes()
        for encoding in ("gzip", "br", "gzip, gzip"):
            told = await server.ask(target, bomb, headers={"content-encoding": encoding})
            assert told.status == 400
        assert peak_bytes() - before < MOST_GROWTH
    assert upstream.asked.all == []


NUMBERS: list[Any] = [
    b"1" * 5_000,
    b"-" + b"9" * 400,
    b"1e999",
    b"1E-999",
    b"0." + b"1" * 5_000,
    b"123456789012345678901",
]


@pytest.mark.parametrize("target", [CHAT, "/generate", "/generate/batch"])
async def test_numbers_and_texts_at_the_edge_are_no_defect(tmp_path: Path, target: str) -> None:
    """Huge and tiny numbers, lone surrogates, NUL, every odd character: an answer or a 400."""
    texts = [b'"\\ud800"', b'"\\u0000"', b'"\\u2028\\uffff"', '"\U0010ffff"'.encode(), b'"\\udfff\\ud800"']
    async with gateway(echoes, tmp_path) as (server, _):
        for value in NUMBERS + texts:
            text = value if value.startswith(b'"') else b'"hi"'
            told = await server.ask(
                target,
                b'{"model":"gpt-5-mini","messages":[{"role":"user","content":%b}],"prompt":%b,"prompts":[%b],"x":%b}'
                % (text, text, text, value),
            )
            assert told.status in (200, 400), (value[:40], told)


async def test_many_slow_connections_hold_nobody_up(tmp_path: Path) -> None:
    """Two hundred half-sent requests, and one that is whole."""
    async with gateway(echoes, tmp_path) as (server, _):
        lines = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
        for _, writer in lines:
            writer.write(head(CHAT, content_length="100"))
        assert (await server.ask(body=HI)).status == 200
        for _, writer in lines:
            writer.transport.abort()
