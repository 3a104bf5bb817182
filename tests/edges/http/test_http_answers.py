"""What a good answer is, what becomes of its connection, and what exactly goes out."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from penstock.edges.http import HttpTransport, connection, pool, transport
from penstock.errors import NoAnswer, NotSent, UsageError
from penstock.records import HttpCall
from tests.kit.hostile import Peer, Script, answer, hostile
from tests.kit.http_probe import PATIENT, nothing_leaks, post, until

OK = b"HTTP/1.1 200 OK\r\n"


def serves(*answers: bytes, close: bool = False) -> Script:
    """One answer for each request on a connection, each in one piece."""

    async def script(peer: Peer) -> None:
        for piece in answers:
            await peer.request()
            await peer.send(piece)
        if not close:
            await peer.gone()

    return script


GOOD = {
    "length": (answer(b"abc"), 200, b"abc", True),
    "no body": (answer(b""), 200, b"", True),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n", 200, b"abc", True),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", 200, b"abc", True),
    "until the end": (OK + b"\r\nabc", 200, b"abc", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nabc", 200, b"abc", False),
    "HTTP/1.0 kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na", 200, b"a", True),
    "close": (answer(b"abc", headers=("Connection: close",)), 200, b"abc", False),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
    "interim first": (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + answer(b"abc"), 200, b"abc", True),
    "eight interim": (b"HTTP/1.1 100 Continue\r\n\r\n" * 8 + answer(b"abc"), 200, b"abc", True),
    "named identity": (answer(b"abc", headers=("Content-Encoding: identity",)), 200, b"abc", True),
    "an error status": (answer(b"no", status="500 Oops"), 500, b"no", True),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    "bytes after the end": (answer(b"abc") + b"X", 200, b"abc", False),
    "a second answer": (answer(b"abc") + answer(b"def"), 200, b"abc", False),
    "the start of a second answer": (answer(b"abc") + b"H", 200, b"abc", False),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_answer_is_whole_and_its_connection_is_kept_only_where_it_may_be(name: str) -> None:
    """Status and body are as sent; a connection that ended or holds stray bytes is not used again."""
    raw, status, body, kept = GOOD[name]
    until_close = b"abc" in raw and b"ength" not in raw and b"chunked" not in raw
    script = serves(raw, close=True) if until_close else serves(raw, raw)
    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        for _ in range(1 if until_close else 2):
            got = await client.send(post(server.url()), PATIENT)
            assert (got.status, got.body) == (status, body)
            assert client.statistics().idle == client.statistics().open == int(kept)
        assert client.statistics().reused == int(kept)
        await client.aclose()


async def test_headers_keep_order_case_and_repeats_and_have_no_trailers() -> None:
    """The answer's headers are as the server wrote them."""
    raw = OK + b"Set-Cookie: a\r\nX-A:1 \r\nset-cookie: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Late: 1\r\n\r\n"
    async with hostile(serves(raw)) as server, HttpTransport(environ={}) as client:
        got = await client.send(post(server.url()), PATIENT)
    assert [name for name, _ in got.headers] == [b"Set-Cookie", b"X-A", b"set-cookie", b"Transfer-Encoding"]
    assert got.header(b"x-a") == "1"


async def test_an_early_answer_to_a_long_body_is_good() -> None:
    """A 413 that comes before the body was read is the answer, and the connection is not used again."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer(b"too long", status="413 Content Too Large", headers=("Connection: close",)))
        peer.end()
        await peer.gone()

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={})
        got = await client.send(post(server.url(), b"x" * 20_000_000), PATIENT)
        assert (got.status, got.body) == (413, b"too long")
        assert client.statistics().open == 0
        await client.aclose()


async def test_an_answer_before_the_request_was_read_ends_the_connection() -> None:
    """Even a server that means to keep the connection cannot: the rest of the request would be in the way."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer())
        await asyncio.Event().wait()

    async with hostile(script) as server, HttpTransport(environ={}) as client:
        await client.send(post(server.url(), b"x" * 50_000_000), PATIENT)
        assert client.statistics().open == 0


async def test_a_connection_closed_while_idle_is_replaced_without_a_word() -> None:
    """The end of an idle connection is seen before anything is written to it."""
    async with hostile(serves(answer(), close=True)) as server, HttpTransport(environ={}) as client:
        for count in (1, 2, 3):
            await client.send(post(server.url()), PATIENT)
            await until(lambda: client.statistics().open == 0)
            assert client.statistics().opened == count


async def test_bytes_on_an_idle_connection_end_it() -> None:
    """An answer that nobody asked for is never taken for the next one's."""
    stray = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"first"))
        await stray.wait()
        await peer.send(answer(b"stray"))
        await peer.gone()

    async with hostile(script) as server, HttpTransport(environ={}) as client:
        await client.send(post(server.url()), PATIENT)
        stray.set()
        await until(lambda: client.statistics().open == 0)


class FakeTime:
    """A clock to move by hand, in place of `monotonic` in the modules under test."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        for module in (connection, pool, transport):
            patch.setattr(module, "monotonic", self)

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("headers", "idle", "fresh"),
    [
        ((), 3.9, True),
        ((), 4.1, False),
        (("Keep-Alive: timeout=60",), 4.1, False),
        (("Keep-Alive: timeout=2, max=100",), 1.5, True),
        (("Keep-Alive: timeout=2, max=100",), 1.7, False),
        (("Keep-Alive: timeout=0",), 0.1, False),
        (("Keep-Alive: max=5",), 3.9, True),
    ],
)
async def test_connections_idle_for_too_long_are_replaced(
    headers: tuple[str, ...], idle: float, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four seconds at most, or four fifths of what the server grants."""
    time = FakeTime(monkeypatch)
    raw = answer(headers=headers)
    async with hostile(serves(raw, raw)) as server, HttpTransport(environ={}) as client:
        await client.send(post(server.url()), PATIENT)
        time.seconds += idle
        await client.send(post(server.url()), PATIENT)
        assert client.statistics().opened == (1 if fresh else 2)


async def test_an_idle_connection_whose_end_the_loop_did_not_see_yet_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a while the kernel is asked, because a busy loop may be behind."""
    time = FakeTime(monkeypatch)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with HttpTransport(environ={}) as client:
            call = post(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            for turn in (1, 2):
                sending = asyncio.create_task(client.send(call, PATIENT))
                if turn == 2:
                    await asyncio.sleep(0)
                    assert client.statistics().open == 0
                peer, _ = await loop.sock_accept(listener)
                await loop.sock_recv(peer, 65536)
                await loop.sock_sendall(peer, answer())
                await sending
                peer.close()
                time.seconds += 1


async def accept_and_answer(listener: socket.socket, body: bytes) -> socket.socket:
    """Accept a connection, answer its first request, hand it over."""
    loop = asyncio.get_running_loop()
    peer, _ = await loop.sock_accept(listener)
    await loop.sock_recv(peer, 65536)
    await loop.sock_sendall(peer, answer(body))
    return peer


async def test_a_request_that_met_a_reset_connection_goes_out_once_more() -> None:
    """A write that finds a kept connection reset took nothing, so nothing is sent twice."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with HttpTransport(environ={}) as client:
            call = post(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            accepting = asyncio.create_task(accept_and_answer(listener, b"first"))
            assert (await client.send(call, PATIENT)).body == b"first"
            first = await accepting
            accepting = asyncio.create_task(accept_and_answer(listener, b"again"))
            await asyncio.sleep(0)
            first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            first.close()
            # No turn of the loop lies between the reset and the write: it cannot have been seen before.
            assert (await client.send(call, PATIENT)).body == b"again"
            assert client.statistics().opened == 2
            (await accepting).close()


async def test_a_request_that_met_the_end_of_a_kept_connection_is_ambiguous() -> None:
    """Where only the server's side ended, the bytes went out, and nobody knows who read them: it is not sent again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with HttpTransport(environ={}) as client:
            call = post(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            peer = asyncio.create_task(accept_and_answer(listener, b"first"))
            await client.send(call, PATIENT)
            (await peer).close()
            with pytest.raises(NoAnswer, match="before any answer") as caught:
                await client.send(call, PATIENT)
            assert caught.value.maybe_billed
            assert client.statistics().opened == 1


async def test_the_request_goes_out_as_one_exact_text() -> None:
    """Nothing is added to a call but Host, the refusal of compression, and the length."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            seen.append(await peer.request())
            await peer.send(answer())

    async with hostile(script) as server, HttpTransport(environ={}) as client:
        await client.send(post(server.url("/v1/x?a=b#c"), b"{}", (("X-Utf", "é"),)), PATIENT)
        await client.send(HttpCall(server.url(""), (("Accept-Encoding", "identity"),), b"", "GET"), PATIENT)
    host = b"Host: 127.0.0.1:%d\r\nAccept-Encoding: identity\r\n" % server.port
    assert seen == [
        b"POST /v1/x?a=b HTTP/1.1\r\n" + host + b"Authorization: Bearer sk-canary\r\n"
        b"Content-Type: application/json\r\nX-Utf: \xe9\r\nContent-Length: 2\r\n\r\n{}",
        b"GET / HTTP/1.1\r\n" + host + b"\r\n",
    ]


BAD_CALLS = {
    "line feed in a value": HttpCall("http://h/", (("A", "sk-canary\nb"),), b""),
    "carriage return in a value": HttpCall("http://h/", (("A", "sk-canary\rb"),), b""),
    "NUL in a value": HttpCall("http://h/", (("A", "sk-canary\0b"),), b""),
    "beyond Latin-1": HttpCall("http://h/", (("A", "sk-canary\u20ac"),), b""),
    "space in a name": HttpCall("http://h/", (("A b", "sk-canary"),), b""),
    "empty name": HttpCall("http://h/", (("", "sk-canary"),), b""),
    "own Host": HttpCall("http://h/", (("Host", "sk-canary"),), b""),
    "own length": HttpCall("http://h/", (("content-length", "1"),), b""),
    "own framing": HttpCall("http://h/", (("Transfer-Encoding", "chunked"),), b""),
    "compression": HttpCall("http://h/", (("Accept-Encoding", "gzip"),), b""),
    "user name in the URL": HttpCall("http://user:sk-canary@h/", (), b""),
    "line break in the URL": HttpCall("http://h/sk-canary\r\nX: y", (), b""),
    "space in the URL": HttpCall("http://h/sk-canary b", (), b""),
    "letters beyond ASCII in the URL": HttpCall("http://h\u00fc/sk-canary", (), b""),
    "no scheme": HttpCall("h/sk-canary", (), b""),
    "another scheme": HttpCall("ftp://h/sk-canary", (), b""),
    "no host": HttpCall("http:///sk-canary", (), b""),
    "port out of range": HttpCall("http://h:70000/sk-canary", (), b""),
    "port that is none": HttpCall("http://h:x/sk-canary", (), b""),
    "broken IPv6": HttpCall("http://[::zz]/sk-canary", (), b""),
    "HEAD": HttpCall("http://h/", (), b"", "HEAD"),
    "line break in the method": HttpCall("http://h/", (), b"", "GET / HTTP/1.1\r\nX:"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_a_call_that_cannot_be_sent_as_it_stands_is_refused_before_anything_is_opened(name: str) -> None:
    """A UsageError that never shows the value, which may be a key."""
    async with HttpTransport(environ={}) as client:
        with pytest.raises(UsageError) as caught:
            await client.send(BAD_CALLS[name], PATIENT)
        assert "sk-canary" not in str(caught.value)
        assert client.statistics().opened == 0


async def test_nothing_that_prints_itself_shows_the_key() -> None:
    """Transport, connection and head name the origin and the counts only."""
    async with hostile(serves(answer())) as server, HttpTransport(environ={}) as client:
        assert repr(client) == "HttpTransport(0 busy, 0 idle, 0 waiting)"
        await client.send(post(server.url()), PATIENT)
        assert repr(client) == "HttpTransport(0 busy, 1 idle, 0 waiting)"
        head = client._heads.get(post(server.url()))
        kept = next(iter(client._pool._connections))
        assert repr(head) == f"RequestHead(127.0.0.1:{server.port})"
        assert repr(kept) == f"Connection(127.0.0.1:{server.port}, idle, served 1)"
    assert repr(client) == "HttpTransport(closed)"


async def test_closing_ends_connections_that_are_on_their_way() -> None:
    """A handshake that never ends does not outlive the transport."""
    async with nothing_leaks(), hostile(Peer.gone) as server:
        client = HttpTransport(environ={})
        sending = asyncio.create_task(client.send(post(f"https://127.0.0.1:{server.port}/"), PATIENT))
        await until(lambda: server.accepted == 1)
        await client.aclose()
        with pytest.raises(NotSent, match="closed meanwhile") as caught:
            await sending
        assert caught.value.code == "closed"
        assert client.statistics().connecting == 0


async def test_a_closed_transport_says_so() -> None:
    """What is under way fails as possibly billed, and nothing new is begun."""

    async def silent(peer: Peer) -> None:
        await peer.gone()

    async with nothing_leaks(), hostile(silent) as server:
        client = HttpTransport(environ={}, max_connections=1)
        first = asyncio.create_task(client.send(post(server.url()), PATIENT))
        second = asyncio.create_task(client.send(post(server.url()), PATIENT))
        await until(lambda: client.statistics().busy == 1 and client.statistics().waiting == 1)
        await client.aclose()
        with pytest.raises(NoAnswer, match="closed meanwhile"):
            await first
        with pytest.raises(NotSent, match="transport was closed"):
            await second
        with pytest.raises(UsageError, match="open a new one"):
            await client.send(post(server.url()), PATIENT)
        await client.aclose()
