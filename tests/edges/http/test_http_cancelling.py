"""Cancelling frees everything at once, wherever the request is; and the queue for connections stays fair and whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from penstock.edges.http import HttpTransport, resolver
from penstock.edges.http.connection import Connection
from penstock.errors import NotSent
from penstock.options import Timeouts
from tests.kit.hostile import HostileServer, Peer, answer, hostile
from tests.kit.http_probe import PATIENT, nothing_leaks, post, until
from tests.kit.http_proxy import ConnectProxy
from tests.kit.http_tls import serving, trusting


async def answers(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nConte", b"nt-Length: 4\r\n\r\nab", b"cd")


async def whole(client: HttpTransport, url: str) -> None:
    assert (await client.send(post(url), PATIENT)).body == b"abcd"


async def streamed(client: HttpTransport, url: str) -> None:
    async with client.stream(post(url), PATIENT) as stream:
        assert b"".join([chunk async for chunk in stream]) == b"abcd"


def turns() -> Iterator[int]:
    """After how many turns of the loop to cancel: each of the first, then ever fewer."""
    count = 0
    while True:
        yield count
        count += 1 + count // 40


async def cancel_everywhere(client: HttpTransport, request: Callable[[], Awaitable[None]]) -> int:
    """Run a request again and again, cancelled after ever more turns, until it completes; returns how often."""
    for times, count in enumerate(turns()):
        task = asyncio.ensure_future(request())
        for _ in range(count):
            await asyncio.sleep(0)
        if task.done():
            await task
            return times
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        now = client.statistics()
        assert (now.busy, now.connecting, now.waiting) == (0, 0, 0)
    raise AssertionError("the request never completed")


@pytest.mark.parametrize("how", [whole, streamed])
@pytest.mark.parametrize("way", ["plain", "tls", "tunnel", "name"])
async def test_a_request_cancelled_at_any_moment_leaves_nothing(
    way: str, how: Callable[[HttpTransport, str], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the look-up, the connect, the tunnel, the handshake, the head, the body: slot and socket are free."""

    async def lookup(host: str, port: int) -> list[resolver.AddressInfo]:
        for _ in range(3):
            await asyncio.sleep(0)
        return [(2, 1, 6, "", ("127.0.0.1", port))]  # type: ignore[list-item]

    monkeypatch.setattr(resolver, "_ask_system", lookup)
    monkeypatch.setattr(resolver, "_forbidden", 0)
    tls = None if way in ("plain", "name") else serving()
    async with nothing_leaks(), hostile(answers, tls=tls) as server, hostile(ConnectProxy()) as gate:
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{gate.port}"} if way == "tunnel" else {}
        client = HttpTransport(environ=environ, ssl_context=trusting(), max_connections=1)
        url = server.url() if way != "name" else f"http://name.test:{server.port}/"

        async def request() -> None:
            client._dialer._resolver._kept.clear()
            await how(client, url)

        assert await cancel_everywhere(client, request) > 5
        await how(client, url)
        await client.aclose()


async def hold(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def busy(client: HttpTransport, server: HostileServer, count: int) -> list[asyncio.Task[object]]:
    """Requests that hold this many connections."""
    tasks = [asyncio.ensure_future(client.send(post(server.url()), PATIENT)) for _ in range(count)]
    await until(lambda: client.statistics().busy == count)
    return tasks  # type: ignore[return-value]


async def drop(tasks: list[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_request_cancelled_while_it_waits_for_a_connection_leaves_the_queue_whole() -> None:
    """Whether its turn had already come or not, the next one gets it."""
    async with nothing_leaks(), hostile(hold) as server:
        client = HttpTransport(environ={}, max_connections=1)
        holding = await busy(client, server, 1)
        waiting = [asyncio.create_task(client.send(post(server.url()), PATIENT)) for _ in range(3)]
        await until(lambda: client.statistics().waiting == 3)
        waiting[0].cancel()  # still waits
        await asyncio.sleep(0)
        await drop(holding)  # hands the room to the second, which is cancelled before it can use it
        waiting[1].cancel()
        await until(lambda: client.statistics().busy == 1)
        assert not waiting[2].done()
        await drop([*waiting])  # type: ignore[list-item]
        now = client.statistics()
        assert (now.open, now.connecting, now.waiting) == (0, 0, 0)
        await client.aclose()


async def test_a_connection_handed_to_a_cancelled_request_goes_to_the_next() -> None:
    """An idle connection is not lost when the request it was given to is cancelled in the same turn."""
    let_go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await let_go.wait()
        await peer.send(answer())
        await answers(peer)

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={}, max_connections=1)
        first = (await busy(client, server, 1))[0]
        second, third = (asyncio.create_task(client.send(post(server.url()), PATIENT)) for _ in range(2))
        await until(lambda: client.statistics().waiting == 2)
        release = client._pool.release

        def release_and_cancel(connection: Connection) -> None:
            client._pool.release = release  # type: ignore[method-assign]
            release(connection)
            second.cancel()

        client._pool.release = release_and_cancel  # type: ignore[method-assign]
        let_go.set()
        await first
        assert (await third).body == b"abcd"
        assert second.cancelled()
        assert client.statistics().opened == 1
        await client.aclose()


async def test_the_cap_holds_and_every_request_gets_its_turn() -> None:
    """A hundred requests over three connections: never more than three, all answered."""
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        while True:
            await peer.request()
            most = max(most, client.statistics().open + client.statistics().connecting)
            await peer.send(answer())

    async with nothing_leaks(), hostile(script) as server:
        client = HttpTransport(environ={}, max_connections=3)
        await asyncio.gather(*[client.send(post(server.url()), PATIENT) for _ in range(100)])
        now = client.statistics()
        assert (most, now.opened, now.reused, now.idle) == (3, 3, 97, 3)
        await client.aclose()


async def test_an_idle_connection_makes_room_for_another_origin() -> None:
    """At the cap, an idle connection elsewhere is closed, also where the request already waits."""
    async with nothing_leaks(), hostile(answers) as here, hostile(answers) as there:
        client = HttpTransport(environ={}, max_connections=1)
        for server in (here, there, here):
            await whole(client, server.url())
        await asyncio.gather(whole(client, there.url()), whole(client, here.url()), whole(client, there.url()))
        assert client.statistics().open == 1
        await client.aclose()


async def test_a_failure_to_connect_lets_the_next_one_try() -> None:
    """Waiting requests do not hang on a place whose connection never came about."""
    async with nothing_leaks(), hostile(answers) as server:
        client = HttpTransport(environ={}, max_connections=1)
        refused = [asyncio.create_task(client.send(post("http://127.0.0.1:1/"), PATIENT)) for _ in range(3)]
        good = asyncio.create_task(whole(client, server.url()))
        results = await asyncio.gather(*refused, return_exceptions=True)
        assert all(isinstance(result, NotSent) for result in results)
        await good
        await client.aclose()


async def test_waiting_for_a_connection_ends_with_the_total_time() -> None:
    """Nothing was sent, so it is NotSent with code "timeout"."""
    async with nothing_leaks(), hostile(hold) as server:
        client = HttpTransport(environ={}, max_connections=1)
        holding = await busy(client, server, 1)
        with pytest.raises(NotSent, match=r"no connection within 0\.05 s") as caught:
            await client.send(post(server.url()), Timeouts(total=0.05))
        assert caught.value.code == "timeout"
        assert client.statistics().waiting == 0
        await drop(holding)
        await client.aclose()


async def test_one_timer_enforces_long_and_short_time_outs_together() -> None:
    """A short time-out is kept beside long ones, again and again, and no timer is left when nothing is open."""
    async with nothing_leaks(), hostile(hold) as server:
        client = HttpTransport(environ={})
        holding = await busy(client, server, 2)
        for first_byte in (0.05, 0.02, 0.05):
            with pytest.raises(Exception, match="no answer began"):
                await client.send(post(server.url()), Timeouts(first_byte=first_byte))
        assert client.statistics().busy == 2
        await drop(holding)
        assert client.statistics().open == 0
        await client.aclose()
        assert client._pool._sweeper is None
