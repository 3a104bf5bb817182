"""A provider that remembers everything and can end its client: by `kill -9`, in the moment in which it has sent the k-th answer.

It behaves as the simulator does and is served from a thread of the test; the client has no hand in its record.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from urllib.parse import urlsplit

from penstock.simulator.behaviour import Plan, Settings, Simulator
from penstock.simulator.server import Server, serve
from tests.kit.journey import PATIENCE_SECONDS, finish, under_way


class RecordingSimulator(Simulator):
    """Keeps the digest of every prompt that arrived, and of every prompt whose answer was sent, since `begin`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.arrived: list[int] = []
        self.answered: list[int] = []
        self._kill_after: int | None = None
        self._client: SimpleQueue[int] = SimpleQueue()

    def begin(self, kill_after: int | None = None) -> None:
        """Begin a new record. The client is killed once so many answers are sent; None spares it."""
        self.arrived, self.answered = [], []
        self._kill_after = kill_after

    def client_is(self, process: int) -> None:
        """Whom to kill. The provider waits to be told, so that no client is too quick for it."""
        self._client.put(process)

    def arrive(self, now: float, body: bytes, key: str | None = None) -> Plan:
        plan = super().arrive(now, body, key)
        self.arrived.append(plan.digest)
        return plan

    def leave(self, now: float, plan: Plan, whole: bool) -> None:
        super().leave(now, plan, whole)
        if whole and plan.outcome == "answered":
            self.answered.append(plan.digest)
            if len(self.answered) == self._kill_after:
                os.kill(self.victim(self._client.get(timeout=PATIENCE_SECONDS)), signal.SIGKILL)

    def victim(self, client: int) -> int:
        """Which process is killed: the client itself."""
        return client


class RecordingProvider:
    """A `RecordingSimulator` that is being served; for use from the thread of the test."""

    def __init__(self, simulator: RecordingSimulator, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.simulator = simulator
        self.base_url = server.base_url
        self._server = server
        self._loop = loop
        self._stop = asyncio.Event()

    def sitting(self, run: Sequence[object], kill_after: int | None = None) -> tuple[int, str]:
        """`penstock RUN`, to its end or to the kill after so many answers: its exit status, and what it told."""
        self.simulator.begin(kill_after)
        with under_way(*run) as process:
            if kill_after is not None:
                self.simulator.client_is(process.pid)
            ended = finish(process)
        self.settle()
        return ended

    def settle(self) -> None:
        """Return once everything that a dead client had sent is on record.

        Connections are accepted in order: when a new one is answered, none of the dead client's waits any more.
        """
        connection = http.client.HTTPConnection(urlsplit(self.base_url).netloc, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/stats")
            connection.getresponse().read()
        finally:
            connection.close()
        asyncio.run_coroutine_threadsafe(self._all_gone(), self._loop).result(PATIENCE_SECONDS)

    async def _all_gone(self) -> None:
        # A connection tells nobody that it is gone; the turns of the loop until then are few.
        while self._server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def stopped(self) -> None:
        await self._stop.wait()


@contextmanager
def recording(settings: Settings) -> Iterator[RecordingProvider]:
    """Serve until left, on asyncio's own loop: it hands each answer to the system at once, uvloop a little later."""
    ready: SimpleQueue[RecordingProvider] = SimpleQueue()

    async def provide() -> None:
        async with serve(settings) as server:
            simulator = RecordingSimulator(settings)
            server.simulator = simulator
            provider = RecordingProvider(simulator, server, asyncio.get_running_loop())
            ready.put(provider)
            await provider.stopped()

    thread = threading.Thread(target=asyncio.run, args=(provide(),), name="recording-provider")
    thread.start()
    provider = ready.get(timeout=PATIENCE_SECONDS)
    try:
        yield provider
    finally:
        provider.stop()
        thread.join(PATIENCE_SECONDS)
