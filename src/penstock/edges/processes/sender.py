"""A sending process: it puts calls on the wire as it is told, by a transport of its own, and tells what comes back.

It ends with its parent, at once and whatever is under way: its socket's end says so, or that it has become another's child.
Ctrl-C and SIGTERM are its parent's business; it was started with both blocked.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import traceback
from contextlib import suppress
from typing import cast

from penstock.edges._loop import loop_factory
from penstock.edges.http import forbid_network
from penstock.edges.http.connection import StaleConnection
from penstock.edges.processes.direct import DirectAnswer, DirectTransport
from penstock.edges.processes.frames import (
    ANSWER,
    CANCEL,
    END,
    FAILED,
    HEAD,
    MANNER,
    PIECE,
    READY,
    SETTINGS,
    STREAM,
    TAKEN,
    WHOLE,
    WINDOW_BYTES,
    Failure,
    FrameReader,
    FrameWriter,
    Manner,
    Settings,
    encode,
    read_manner,
    read_settings,
)
from penstock.errors import RequestError, UsageError
from penstock.options import Timeouts
from penstock.records import HttpAnswer, HttpCall

LOOK_FOR_PARENT_SECONDS = 1.0
"""A process that was forked off the parent may hold the socket open after the parent's end."""

FAILED_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""


class Credit:
    """How much of one stream is on its way and not known to be taken."""

    def __init__(self) -> None:
        self._untaken_bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    async def spend(self, sent_bytes: int) -> None:
        """So much was sent; return once more may be."""
        self._untaken_bytes += sent_bytes
        while self._untaken_bytes >= WINDOW_BYTES:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def give(self, taken_bytes: int) -> None:
        """So much was taken."""
        self._untaken_bytes -= taken_bytes
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Sender(asyncio.Protocol):
    """The child's end of the socket."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._writer: FrameWriter
        self._http: DirectTransport
        self._manners: dict[int, Manner] = {}
        self._direct: dict[int, DirectAnswer] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._credits: dict[int, Credit] = {}

    # -- told by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._writer = FrameWriter(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        for kind, argument, number, payload in self._reader.feed(data):
            if kind == WHOLE:
                like, timeouts = self._manners[argument]
                self._begin(number, HttpCall(like.url, like.headers, payload, like.method), timeouts)
            elif kind == STREAM:
                like, timeouts = self._manners[argument]
                call = HttpCall(like.url, like.headers, payload, like.method)
                self._tasks[number] = self._loop.create_task(self._stream(number, call, timeouts))
            elif kind == TAKEN:
                if (credit := self._credits.get(number)) is not None:
                    credit.give(argument)
            elif kind == CANCEL:
                self._cancel(number)
            elif kind == MANNER:
                self._manners[argument] = read_manner(payload)
            elif kind == SETTINGS:
                self._set_up(read_settings(payload))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  whatever the cause, nobody is left
        os._exit(0)

    def _set_up(self, settings: Settings) -> None:
        if settings.loopback_only:
            forbid_network()
        self._http = DirectTransport(environ=os.environ, max_connections=settings.max_connections)
        self._look_for(settings.parent)
        self._writer.put(READY, 0, 0)

    def _look_for(self, parent: int) -> None:
        if os.getppid() != parent:
            os._exit(0)
        self._loop.call_later(LOOK_FOR_PARENT_SECONDS, self._look_for, parent)

    # -- one call

    def _begin(self, number: int, call: HttpCall, timeouts: Timeouts) -> None:
        try:
            answer = self._http.begin(call, timeouts, number, self._told)
        except UsageError as error:
            self._writer.put(FAILED, 0, number, encode(Failure.of(error)))
            return
        if answer is None:
            self._wait(number, call, timeouts)
        elif not answer.over:
            self._direct[number] = answer

    def _wait(self, number: int, call: HttpCall, timeouts: Timeouts) -> None:
        """The way of a call that must wait for its connection."""
        self._tasks[number] = self._loop.create_task(self._send(number, call, timeouts))

    def _told(self, answer: DirectAnswer, outcome: HttpAnswer | RequestError) -> None:
        number = answer.number
        self._direct.pop(number, None)
        if isinstance(outcome, HttpAnswer):
            self._writer.put(ANSWER, 0, number, encode(outcome))
        elif isinstance(outcome, StaleConnection):
            self._wait(number, answer.call, answer.timeouts)
        else:
            self._writer.put(FAILED, 0, number, encode(Failure.of(outcome)))

    def _cancel(self, number: int) -> None:
        if (direct := self._direct.pop(number, None)) is not None:
            direct.cancel()
        # A task that has not begun yet never comes to its own end.
        elif (task := self._tasks.pop(number, None)) is not None:
            task.cancel()

    async def _send(self, number: int, call: HttpCall, timeouts: Timeouts) -> None:
        try:
            answer = await self._http.send(call, timeouts)
        except (RequestError, UsageError) as error:
            self._writer.put(FAILED, 0, number, encode(Failure.of(error)))
        except Exception:  # noqa: BLE001  told by the end of the process
            _give_up()
        else:
            self._writer.put(ANSWER, 0, number, encode(answer))
        finally:
            self._tasks.pop(number, None)

    async def _stream(self, number: int, call: HttpCall, timeouts: Timeouts) -> None:
        credit = self._credits[number] = Credit()
        try:
            async with self._http.stream(call, timeouts) as answer:
                self._writer.put(HEAD, answer.status, number, encode(answer.headers))
                async for piece in answer:
                    self._writer.put(PIECE, 0, number, piece)
                    await credit.spend(len(piece))
        except (RequestError, UsageError) as error:
            self._writer.put(FAILED, 0, number, encode(Failure.of(error)))
        except Exception:  # noqa: BLE001  told by the end of the process
            _give_up()
        else:
            self._writer.put(END, 0, number)
        finally:
            del self._credits[number]
            self._tasks.pop(number, None)


def _give_up() -> None:
    """What must not happen is a mistake of ours: it ends the process, and by that the run, with where it was on standard error."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(FAILED_STATUS)


async def _serve(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(Sender, sock=sock)
    await loop.create_future()  # the process ends from within


def main(descriptor: int) -> None:
    """Serve the parent at the other end of this descriptor; never returns."""
    _yield_to_others()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(socket.socket(fileno=descriptor)))


def _yield_to_others() -> None:
    """Do not interrupt who runs on this core for each call that comes: several at a time cost less.

    Where processes share cores this was measured at 10 to 17 us a call of 130; where a core is idle nothing changes.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
