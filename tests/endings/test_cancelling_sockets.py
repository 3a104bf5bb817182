"""The same over real sockets, threads and disk: the client, its transport, and the client without an event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from penstock.blocking import Client as BlockingClient
from penstock.client import Client
from penstock.edges.http import HttpTransport
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall
from penstock.simulator.behaviour import Settings, expected_text
from penstock.simulator.server import Server, serve
from penstock.testing import ScriptedTransport, completion
from tests.kit.command import PATIENCE_SECONDS
from tests.kit.endings import SocketTurnLoop, cancelled_after, open_files, run_in_turns, turns_until_whole
from tests.kit.hostile import Peer, answer, hostile
from tests.kit.http_probe import PATIENT, descriptors, nothing_leaks, post, until
from tests.kit.journey import SEED, note
from tests.kit.rows import FreeOfCharge, collect, prompts

WORLD = Settings()
ROWS = 3


def client_of(server: Server) -> Client:
    return Client("vllm/m", base_url=server.base_url, max_concurrency=2, prices=FreeOfCharge())


async def use(client: Client, ledger: Path | None) -> None:
    async with client:
        await client.gather(prompts(ROWS), ledger=ledger)


@pytest.mark.parametrize("with_ledger", [False, True], ids=["bare", "ledger"])
def test_a_client_over_sockets_cancelled_at_any_turn_leaves_nothing(tmp_path: Path, with_ledger: bool) -> None:
    """No descriptor, task, slot or lock is left; the provider sees its connections end; another client goes on at once."""

    async def cancelled(turns: int) -> bool:
        path = tmp_path / f"{turns}.ledger" if with_ledger else None
        async with nothing_leaks(), serve(WORLD) as server:
            in_time = await cancelled_after(turns, use(client_of(server), path))
            await until(lambda: not server.connections and server.simulator.stats(0).in_flight == 0)
            await until(lambda: open_files(tmp_path) == [])
            async with client_of(server) as again:
                results = await collect(again, prompts(ROWS), ledger=path)
            assert {result.text for result in results} == {expected_text(prompt) for prompt in prompts(ROWS)}
            await until(lambda: not server.connections)
        return in_time

    assert turns_until_whole(cancelled, SocketTurnLoop) > 10


async def send(client: HttpTransport, url: str) -> None:
    assert (await client.send(post(url), PATIENT)).body == b"{}"


async def stream(client: HttpTransport, url: str) -> None:
    async with client.stream(post(url), PATIENT) as answered:
        assert b"".join([chunk async for chunk in answered]) == b"{}"


async def close_with_one_under_way(client: HttpTransport, url: str) -> None:
    await send(client, url)
    waiting = asyncio.ensure_future(client.send(post(f"{url}/held"), PATIENT))
    await until(lambda: client.statistics().busy == 1)
    await client.aclose()
    with pytest.raises(Exception, match="closed meanwhile"):
        await waiting


async def answers(peer: Peer) -> None:
    while b"/held" not in await peer.request():
        await peer.send(*(bytes((byte,)) for byte in answer()))
    await peer.gone()


@pytest.mark.parametrize("request_once", [send, stream, close_with_one_under_way])
def test_the_transport_cancelled_at_any_turn_leaves_nothing(
    request_once: Callable[[HttpTransport, str], Awaitable[None]],
) -> None:
    """Sending, streaming and closing: no connection and no place in the pool is left, and a new one works."""

    async def cancelled(turns: int) -> bool:
        async with nothing_leaks(), hostile(answers) as server:
            client = HttpTransport(environ={}, max_connections=1)
            in_time = await cancelled_after(turns, request_once(client, server.url()))
            if request_once is not close_with_one_under_way:
                await send(client, server.url())
            await client.aclose()
            await until(lambda: client.statistics().open == 0)
            now = client.statistics()
            assert (now.open, now.connecting, now.waiting) == (0, 0, 0)
        return in_time

    assert turns_until_whole(cancelled, SocketTurnLoop) > 3


class Slow(ScriptedTransport):
    """Answers a few at once and holds the rest; tells of what is held and of what is given up."""

    def __init__(self, answered: int) -> None:
        super().__init__(lambda _: completion("fine"))
        self._answered = answered
        self.held = threading.Semaphore(0)
        self.under_way = 0

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        answer = await super().send(call, timeouts)
        if len(self.calls) > self._answered:
            self.under_way += 1
            self.held.release()
            try:
                await asyncio.Event().wait()
            finally:
                self.under_way -= 1
        return answer


def interrupt_when_held(transport: Slow) -> threading.Thread:
    """Ctrl-C for the main thread, once two requests are under way."""

    def strike() -> None:
        for _ in range(2):
            transport.held.acquire(timeout=PATIENCE_SECONDS)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


@pytest.fixture
def _default_interrupt() -> Iterator[None]:
    """Python's own handler of SIGINT: uvloop leaves its own behind when a loop that listened for signals is closed."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_default_interrupt")
@pytest.mark.parametrize("answered", sorted({0, *Random(SEED).sample(range(1, 40), 3)}))
@pytest.mark.parametrize("how", ["map", "gather"])
def test_an_interrupt_of_the_blocking_client_ends_as_one_and_leaves_nothing(
    tmp_path: Path, how: str, answered: int
) -> None:
    """KeyboardInterrupt comes out, whatever was under way is gone by then, the same client goes on with the same ledger."""
    transport = Slow(answered)
    with BlockingClient("openai/m", transport=transport, max_concurrency=2, prices=FreeOfCharge()) as client:
        rows = [f"row {index}" for index in range(50)]
        striking = interrupt_when_held(transport)
        with pytest.raises(KeyboardInterrupt):
            list(getattr(client, how)(rows, ledger=tmp_path / "x.ledger"))
        striking.join()
        assert transport.under_way == 0
        assert open_files(tmp_path) == []
        transport._answered = 1_000
        results = client.gather(rows, ledger=tmp_path / "x.ledger")
        assert sum(result.reused for result in results) == answered
        assert all(result.ok for result in results)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
PLACES = {
    "before an answer": b"",
    "within its head": HEAD[:40],
    "after its head": HEAD,
    "within its body": HEAD + b'{"choices": [',
}
CANCELS_A_PLACE = 20
TURNS_UNTIL_READ = 20
"""The other end is on the same loop: what it wrote is read a few turns later."""


async def read_in_a_stream(client: HttpTransport, url: str) -> None:
    async with client.stream(post(url), PATIENT) as answered:
        async for _ in answered:
            pass


async def read_whole(client: HttpTransport, url: str) -> None:
    await client.send(post(url), PATIENT)


@pytest.mark.parametrize("reading", [read_whole, read_in_a_stream])
@pytest.mark.parametrize("place", PLACES)
def test_the_provider_sees_the_end_of_a_cancelled_request(
    place: str,
    reading: Callable[[HttpTransport, str], Awaitable[None]],
    record_property: Callable[[str, object], None],
) -> None:
    """A request that nobody waits for stops costing: its connection ends, wherever in its answer it is cut."""
    sent, gone = asyncio.Event(), asyncio.Event()

    async def begin(peer: Peer) -> None:
        await peer.request()
        await peer.send(*filter(None, [PLACES[place]]))
        sent.set()
        await peer.gone()
        gone.set()

    async def seconds_until_gone(client: HttpTransport, url: str) -> float:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(reading(client, url))
        await sent.wait()
        for _ in range(TURNS_UNTIL_READ):
            await asyncio.sleep(0)
        began = loop.time()
        task.cancel()
        async with asyncio.timeout(5):
            await gone.wait()
        sent.clear()
        gone.clear()
        return loop.time() - began

    async def main() -> list[float]:
        async with hostile(begin) as server:
            client = HttpTransport(environ={})
            seconds = [await seconds_until_gone(client, server.url()) for _ in range(CANCELS_A_PLACE)]
            assert client.statistics().open == 0
            await client.aclose()
        return seconds

    before = descriptors()
    seconds = run_in_turns(main(), SocketTurnLoop)
    note(record_property, slowest_end_seen_s=round(max(seconds), 4))
    assert descriptors() <= before
