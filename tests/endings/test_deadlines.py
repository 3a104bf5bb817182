"""No request outlives its deadline, however the other side stalls; a time-out of the caller's own always fires."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import pytest

from penstock.client import Client
from penstock.edges.http import HttpTransport
from penstock.errors import DeadlineExceeded, RequestError
from penstock.options import Limits, Timeouts
from penstock.simulator.behaviour import Settings
from penstock.simulator.clock import run
from penstock.testing import MemoryLedger
from tests.kit.hostile import Peer, hostile
from tests.kit.http_probe import nothing_leaks, post
from tests.kit.rows import FreeOfCharge, VirtualClient, collect, prompts, tasks_left

DEADLINE = 0.3
SLACK = 1.0 + 4.0
"""A second is the promise; the rest is for a machine that is busy with other tests."""

LARGE_BODY = "x" * 8_000_000
"""More than the buffers of both kernels take."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def half_a_head(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD[:30])
    await peer.gone()


async def drip(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD + b"Content-Length: 100000000\r\n\r\n")
    await for_ever(peer, b" ")


async def dripping_head(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD)
    await for_ever(peer, b"X-A: b\r\n")


async def body_stops(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD + b"Content-Length: 100\r\n\r\n{")
    await peer.gone()


async def no_end(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD + b'\r\n{"choices": []}')
    await peer.gone()


async def chunk_stops(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\nhalf")
    await peer.gone()


async def empty_lines(peer: Peer) -> None:
    await peer.request()
    await for_ever(peer, b"\r\n")


async def interim_answers(peer: Peer) -> None:
    await peer.request()
    await for_ever(peer, b"HTTP/1.1 102 Processing\r\n\r\n")


async def comments(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await for_ever(peer, b"e\r\n: keep-alive\n\n\r\n")


async def nothing_read(peer: Peer) -> None:
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # the window closes when the buffers are full
    await asyncio.Event().wait()


async def one_way_closed(peer: Peer) -> None:
    await peer.request()
    await peer.send(HEAD + b"Content-Length: 100\r\n\r\n")
    peer.writer.transport.get_extra_info("socket").shutdown(socket.SHUT_RD)
    await asyncio.Event().wait()


async def for_ever(peer: Peer, piece: bytes) -> None:
    while True:
        await peer.send(piece)
        await asyncio.sleep(0)


SHAPES = [
    silent,
    half_a_head,
    drip,
    dripping_head,
    body_stops,
    no_end,
    chunk_stops,
    empty_lines,
    interim_answers,
    comments,
    nothing_read,
    one_way_closed,
]


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """An address whose kernel drops every further SYN."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        try:
            yield f"http://127.0.0.1:{address[1]}/v1"
        finally:
            for one in waiting:
                one.close()


async def ended_by_its_deadline(base_url: str, prompt: str = "hi") -> float:
    """Ask once with a deadline; how many seconds it took."""
    loop = asyncio.get_running_loop()
    async with Client("vllm/m", base_url=base_url, deadline=DEADLINE, prices=FreeOfCharge()) as client:
        began = loop.time()
        [result] = await collect(client, [prompt])
        seconds = loop.time() - began
        assert isinstance(result.error, DeadlineExceeded), result
        assert client.statistics()["in_flight"] == 0
    return seconds


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
async def test_a_row_ends_by_its_deadline_however_the_server_stalls(shape: Callable[[Peer], Awaitable[None]]) -> None:
    """The row's result is DeadlineExceeded, in time, and its connection, task and slot are gone."""
    async with nothing_leaks(), hostile(shape) as server:
        prompt = LARGE_BODY if shape is nothing_read else "hi"
        seconds = await ended_by_its_deadline(f"http://127.0.0.1:{server.port}/v1", prompt)
    assert DEADLINE <= seconds < DEADLINE + SLACK


async def test_a_row_ends_by_its_deadline_where_connecting_never_ends() -> None:
    """A SYN that is dropped, again and again: the connect time-out is longer than the deadline and does not matter."""
    async with full_backlog() as base_url, nothing_leaks():
        assert DEADLINE <= await ended_by_its_deadline(base_url) < DEADLINE + SLACK


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape is not nothing_read], ids=lambda shape: shape.__name__
)
async def test_a_call_ends_by_its_timeout_however_the_server_stalls(shape: Callable[[Peer], Awaitable[None]]) -> None:
    """One attempt, without a deadline: `timeout` alone bounds it, with a typed error."""
    loop = asyncio.get_running_loop()
    async with nothing_leaks(), hostile(shape) as server:
        client = HttpTransport(environ={})
        began = loop.time()
        with pytest.raises(RequestError) as told:
            await client.send(post(server.url()), Timeouts(total=DEADLINE))
        assert loop.time() - began < DEADLINE + SLACK
        assert told.value.kind in ("timeout", "malformed")
        await client.aclose()


STALLED = Settings(latency=1.0)
Wait = Callable[[VirtualClient], Awaitable[object]]
STALL = "[[simulate:stall]]"


async def wait_for_the_next(client: VirtualClient) -> None:
    results = client.map(["quick", STALL], ordered=True)
    await anext(results)
    try:
        await anext(results)
    finally:
        await results.aclose()


async def wait_for_a_budget(client: VirtualClient) -> None:
    await client.gather(prompts(100))


WAITS: dict[str, tuple[Wait, dict[str, object]]] = {
    "generate": (lambda client: client.generate(STALL), {}),
    "gather": (lambda client: client.gather([STALL, STALL]), {}),
    "gather with a ledger": (lambda client: client.gather([STALL, "quick"], ledger=MemoryLedger()), {}),
    "the second of equal rows": (lambda client: client.gather([STALL, STALL], dedupe=True), {}),
    "next": (wait_for_the_next, {}),
    "waiting for a slot": (lambda client: client.gather([STALL, STALL, STALL]), {"max_concurrency": 1}),
    "waiting for a budget": (wait_for_a_budget, {"limits": Limits(requests_per_minute=2)}),
    "inside a longer deadline": (lambda client: client.generate(STALL), {"deadline": 500.0}),
}


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0, 59.0])
@pytest.mark.parametrize("name", WAITS)
def test_a_time_out_around_any_wait_fires_at_its_time(name: str, seconds: float) -> None:
    """`asyncio.timeout` is never swallowed or late, and leaves no task, slot or request under way."""
    wait, options = WAITS[name]

    async def main() -> None:
        client = VirtualClient(STALLED, **options)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await wait(client)
        assert client.clock.now() == pytest.approx(seconds)
        assert not tasks_left()
        assert client.stats.in_flight == 0
        assert client.statistics().get("in_flight", 0) == 0

    run(main())


async def test_a_time_out_around_the_transport_fires() -> None:
    """Around sending, entering a stream and reading on: TimeoutError, and the connection is closed."""

    async def stream(client: HttpTransport, url: str) -> None:
        async with client.stream(post(url), Timeouts()) as answered:
            async for _ in answered:
                pass

    async with nothing_leaks(), hostile(silent) as mute, hostile(body_stops) as halting:
        client = HttpTransport(environ={})
        for waiting in (
            client.send(post(mute.url()), Timeouts()),
            stream(client, mute.url()),
            stream(client, halting.url()),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await waiting
            assert client.statistics().open == 0
        await client.aclose()
