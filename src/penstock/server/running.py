"""Runs a server under uvicorn until it is told to stop: it drains, then cancels, then exits, within its grace.

First SIGINT or SIGTERM: nothing new is taken, what is under way may finish. Second: what is under way is cancelled. Third: out.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from penstock.edges.environment import runner as loop_runner
from penstock.errors import UsageError
from penstock.server.app import Server
from penstock.server.logs import Redaction, log_config
from penstock.server.protocol import CappedProtocol

BACKLOG = 2048
LAST_WORDS = 1.0
"""Seconds for requests that were cancelled to tell their clients so."""

KEEP_ALIVE = 75
"""Seconds: longer than load balancers keep a connection (60), so that it is not they who find it closed."""

_log = logging.getLogger("penstock.server")


class Runner(uvicorn.Server):
    """uvicorn's server, with our signals and a word to the application before it drains."""

    def __init__(self, server: Server, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._server, self._listening = server, listening
        self.signals: list[int] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell that requests are taken, once they are."""
        await super().startup(sockets)
        # What was imported and built stays: the collector need not look through it again and again (5 % of a busy server).
        gc.collect()
        gc.freeze()
        if self.started:
            self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait, after the grace, until what was cancelled has told what became of it."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None of uvicorn's: it would raise them again at the end, and its second one does not cancel."""
        yield

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Ours, until the last line of the log is written."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's form
        self.signals.append(sig)
        match len(self.signals):
            case 1:
                self._server.serving.drain()
                self.should_exit = True
                _log.info("stopping: what is under way may finish within %g s; again to cancel it", self._grace)
            case 2:
                _log.info("cancelling what is under way; again to leave at once")
                for task in list(self.server_state.tasks):
                    task.cancel()
                self._server.serving.cancel()
            case _:
                os._exit(128 + sig)

    @property
    def _grace(self) -> float:
        return self._server.serving.settings.server.grace


def run(server: Server, tell: Callable[[str], None]) -> int:
    """Serve until a signal ends it; returns the exit status. `tell` gets a line for the user once requests are taken.

    Raises `UsageError` where the address cannot be had.
    """
    listening = server.serving.settings.server
    bound = _bound(listening.host, listening.port)
    config = config_of(server, log_config(Redaction(server.secrets)))
    name = f"[{listening.host}]" if ":" in listening.host else listening.host
    runner = Runner(server, config, lambda: tell(f"listening on http://{name}:{bound.getsockname()[1]}"))
    with loop_runner() as loop:
        loop.run(_serve(server, runner, bound))
    return 128 + runner.signals[0] if runner.signals else 0


def config_of(server: Server, logs: dict[str, Any] | None = None) -> uvicorn.Config:
    """How uvicorn is to serve it; `logs` is a configuration of `logging`, None leaves that as it is."""
    return uvicorn.Config(
        server.door,
        http=CappedProtocol,
        ws="none",
        lifespan="off",  # `_serve` opens and closes the server, and is told what went wrong
        access_log=False,
        log_config=logs,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(server.serving.settings.server.grace)),
        backlog=BACKLOG,
    )


async def _serve(server: Server, runner: Runner, bound: socket.socket) -> None:
    with bound, runner.heeding_signals():
        async with server.open():
            await runner.serve(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    """The listening socket, so that a taken port is told before anything else happens."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from error
    return bound
