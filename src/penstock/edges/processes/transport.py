"""The transport of many cores: each call goes to the sending process with the fewest under way. Retrying is the engine's.

Dying is as one: with the first process that is lost the runs of the client are ended, by `lost`, before any call of it fails,
so that nothing of it is sent again in this sitting.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from penstock.edges.processes.frames import Settings
from penstock.edges.processes.link import Link, StreamedAnswer
from penstock.edges.processes.starting import how_it_ended, see_off, start
from penstock.errors import NotSent, RunStopped, UsageError
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall

START_SECONDS = 30.0
LOST = "process"
"""Why a run is stopped (`RunStopped.reason`)."""


class ProcessTransport:
    """Implements `penstock.ports.Transport` by so many processes. For one event loop; `open` it first.

    `max_connections` is that of all together. `lost` is called with why no run can go on. `loopback_only` keeps the processes
    off the network.
    """

    def __init__(
        self, processes: int, *, max_connections: int, lost: Callable[[RunStopped], None], loopback_only: bool = False
    ) -> None:
        self._count = processes
        self._settings = Settings(os.getpid(), -(-max_connections // processes), loopback_only)
        self._lost = lost
        self._links: list[Link] = []
        self._processes: dict[Link, subprocess.Popen[bytes]] = {}
        self._open = self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else ", ".join(map(repr, self._links))
        return f"ProcessTransport({state})"

    def statistics(self) -> tuple[int, ...]:
        """How many calls each process was given so far."""
        return tuple(link.sent for link in self._processes)

    async def open(self) -> None:
        """Start the processes and wait until they may be asked. Raises `UsageError` where they cannot be had."""
        self._open = True
        try:
            async with asyncio.timeout(START_SECONDS):
                for _ in range(self._count):
                    await self._start()
                await asyncio.gather(*(link.ready for link in self._processes))
        except TimeoutError as error:
            await self.aclose()
            raise UsageError(
                f"processes: they were not ready within {START_SECONDS:g} s; is the machine that busy?"
            ) from error
        except BaseException:
            await self.aclose()
            raise

    async def _start(self) -> None:
        link = Link(self._settings, self._ended)
        process, sock = start()
        self._processes[link] = process
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._links.append(link)

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        """The whole answer, of any status. Raises `UsageError`, `NotSent`, `NoAnswer` or `BadAnswer`."""
        link = self._least_busy()
        number, answer = link.send(call, timeouts)
        try:
            return await answer
        except asyncio.CancelledError:
            link.cancel(number)
            raise

    @asynccontextmanager
    async def stream(self, call: HttpCall, timeouts: Timeouts) -> AsyncIterator[StreamedAnswer]:
        """The answer as it comes, of any status; entering waits for its head. Leaving early closes the connection.

        Raises what `send` raises, on entering or while iterating.
        """
        link = self._least_busy()
        number, answer = link.stream(call, timeouts)
        try:
            await answer.wait_for_head()
            yield answer
        finally:
            link.cancel(number)

    def _least_busy(self) -> Link:
        links = self._links
        if not links:
            if self._closed or not self._open:
                raise UsageError("the transport is closed; open a new one")
            raise NotSent("connect", "no sending process is left; make a new Client", code="closed")
        least = links[0]
        for link in links:
            if link.under_way < least.under_way or (link.under_way == least.under_way and link.sent < least.sent):
                least = link
        return least

    def _ended(self, link: Link) -> None:
        """A process is gone: expected while closing, else the end of every run."""
        if self._closed:
            link.fail_all("the transport was closed meanwhile")
            return
        how = f"sending process {self._processes[link].pid} {how_it_ended(self._processes[link])}"
        if link in self._links:
            self._links.remove(link)
        if not link.ready.done():
            link.ready.set_exception(UsageError(f"processes: {how} before it was ready"))
            return
        advice = (
            "What it had under way may be billed; all that came back is recorded. Run the same command again to go on."
        )
        self._lost(RunStopped(LOST, f"{how}. {advice}"))
        link.fail_all(f"{how}; it may be billed")

    async def aclose(self) -> None:
        """End the processes and wait until they are gone; what is under way fails. Closing twice is fine."""
        self._closed = True
        links, self._links = self._links, []
        for link in links:
            link.close()
        await see_off(list(self._processes.values()))
        for link in links:
            await link.closed
