"""Which connection carries a request: kept ones by origin, new ones up to a cap, a queue when the cap is reached. And
the one timer that enforces the time-outs of all. It decides; dialling is passed in.

The invariant that makes it fair: while anyone waits, no connection is idle and no room for a new one is left. What
becomes free is handed to the first waiter before it is anyone else's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeAlias

import msgspec

from penstock.edges.http.connection import FRESH_SECONDS, Connection
from penstock.edges.http.wire import Origin
from penstock.errors import NoAnswer, NotSent
from penstock.options import Timeouts

# Time-outs are late by at most this much, or by a quarter of the shortest one where that is less.
SWEEP_SECONDS = 0.25
_FINEST_SWEEP_SECONDS = 0.01
# An aborted socket is given back within one or two turns of the loop; more means that the loop is stuck.
_CLOSE_SECONDS = 5.0

Dial: TypeAlias = Callable[[Connection], Awaitable[None]]


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Connections now: `open` = `idle` + `busy`; `connecting` are on their way, `waiting` requests have none. And since
    the start: `opened`, and `reused` for requests that went out on a kept one."""

    open: int
    idle: int
    busy: int
    connecting: int
    waiting: int
    opened: int
    reused: int


class Pool:
    """The connections of one transport. Everything but `acquire` and `aclose` is synchronous."""

    def __init__(self, max_connections: int) -> None:
        self._max = max_connections
        self._closed = False
        self._idle: dict[Origin, list[Connection]] = {}
        self._connections: set[Connection] = set()
        self._unclosed: set[Connection] = set()
        self._connecting = 0
        self._dialling: set[asyncio.Timeout] = set()
        self._waiters: deque[tuple[Origin, asyncio.Future[Connection | None]]] = deque()
        self._opened = 0
        self._reused = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_seconds = SWEEP_SECONDS
        self.noted: Timeouts | None = None
        self._all_closed: asyncio.Event | None = None

    def statistics(self) -> Statistics:
        """What there is and what was done so far."""
        idle = sum(map(len, self._idle.values()))
        return Statistics(
            open=len(self._connections),
            idle=idle,
            busy=len(self._connections) - idle,
            connecting=self._connecting,
            waiting=sum(not future.done() for _, future in self._waiters),
            opened=self._opened,
            reused=self._reused,
        )

    # -- getting a connection

    def take(self, origin: Origin, now: float) -> Connection | None:
        """An idle connection that is fit for use, the one used last first, or None."""
        shelf = self._idle.get(origin)
        while shelf:
            connection = shelf.pop()
            if now - connection.idle_since <= FRESH_SECONDS or connection.is_fresh(now):
                self._reused += 1
                return connection
            connection.close()
        return None

    async def acquire(self, origin: Origin, dial: Dial) -> Connection:
        """A connection for this origin, waiting for room where the cap is reached; `NotSent` where dialling fails."""
        while True:
            connection = self.take(origin, monotonic())
            if connection is None and not self._make_room():
                connection = await self._wait(origin)
            if connection is None:
                return await self._open(Connection(origin, self, self._idle.setdefault(origin, [])), dial)
            if connection.is_open:
                return connection

    def _make_room(self) -> bool:
        """Reserve room for one more connection, at the cost of an idle one to another origin; False at the cap."""
        if len(self._connections) + self._connecting >= self._max:
            victim = next((shelf[0] for shelf in self._idle.values() if shelf), None)
            if victim is None:
                return False
            victim.close()
        self._connecting += 1
        return True

    async def _wait(self, origin: Origin) -> Connection | None:
        """Wait for a turn: a connection that became idle, or None, which is leave to open one."""
        future: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append((origin, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
            raise

    def _give_back(self, granted: Connection | None) -> None:
        """What was handed to a waiter that is no longer there goes to the next one."""
        if granted is None:
            self._connecting -= 1
            self._hand_out_room()
        elif granted.is_open:
            self.release(granted)

    async def _open(self, connection: Connection, dial: Dial) -> Connection:
        try:
            await self._dial_unless_closed(connection, dial)
        except BaseException:
            connection.close()
            self._connecting -= 1
            self._hand_out_room()
            raise
        self._connecting -= 1
        if self._closed or not connection.is_open:
            connection.close()
            self._hand_out_room()
            raise NotSent("connect", f"{connection.where}: closed as soon as it was opened", code="reset")
        self._connections.add(connection)
        self._opened += 1
        return connection

    async def _dial_unless_closed(self, connection: Connection, dial: Dial) -> None:
        ended_by_closing = asyncio.timeout(None)
        self._dialling.add(ended_by_closing)
        try:
            async with ended_by_closing:
                await dial(connection)
        except TimeoutError as error:
            raise NotSent(
                "connect", f"{connection.where}: the transport was closed meanwhile", code="closed"
            ) from error
        finally:
            self._dialling.discard(ended_by_closing)

    # -- told by connections

    def release(self, connection: Connection) -> None:
        """A connection may carry its next request: the first waiter's, or whoever comes."""
        waiter = self._next_waiter() if self._waiters else None
        if waiter is None:
            connection.shelf.append(connection)
            return
        origin, future = waiter
        if origin == connection.origin:
            self._reused += 1
            future.set_result(connection)
        else:
            self._connecting += 1
            future.set_result(None)
            connection.close()

    def forget(self, connection: Connection) -> None:
        """A connection is being closed; its room goes to the first waiter."""
        if connection not in self._connections:
            return  # it never came about, so whoever dialled closes it; uvloop does not tell such a one of its end
        self._connections.discard(connection)
        self._unclosed.add(connection)
        if connection in connection.shelf:
            connection.shelf.remove(connection)
        self._hand_out_room()

    def closed(self, connection: Connection) -> None:
        """A connection's socket is given back."""
        self._unclosed.discard(connection)
        if self._all_closed is not None and not self._unclosed:
            self._all_closed.set()

    def _next_waiter(self) -> tuple[Origin, asyncio.Future[Connection | None]] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter[1].done():
                return waiter
        return None

    def _hand_out_room(self) -> None:
        if len(self._connections) + self._connecting < self._max and (waiter := self._next_waiter()):
            self._connecting += 1
            waiter[1].set_result(None)

    # -- time-outs

    def watch(self, timeouts: Timeouts) -> None:
        """See to it that these time-outs are enforced. Needed with each request whose time-outs are not `noted`."""
        self.noted = timeouts
        seconds = _sweep_seconds(timeouts)
        if self._sweeper is None or seconds < self._sweep_seconds:
            self._arm(min(seconds, self._sweep_seconds))

    def _arm(self, seconds: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_seconds = seconds
        self._sweeper = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """Fail what is overdue, close what was idle for too long; stop once no connection is left."""
        now, seconds, seen = monotonic(), SWEEP_SECONDS, None
        self._sweeper = self.noted = None
        for connection in tuple(self._connections):
            exchange = connection.exchange
            if exchange is None:
                if now - connection.idle_since > connection.idle_limit:
                    connection.close()
                continue
            error = exchange.overdue(now)
            if error is not None:
                connection.fail(error)
            elif exchange.timeouts is not seen:
                seen = exchange.timeouts
                seconds = min(seconds, _sweep_seconds(seen))
        self._sweep_seconds = seconds
        if self._connections:
            self._arm(seconds)

    # -- the end

    async def aclose(self) -> None:
        """Close every connection and wait until the sockets are given back; what is under way fails."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper = self.noted = None
        self._closed = True
        while (waiter := self._next_waiter()) is not None:
            waiter[1].set_exception(NotSent("connect", "the transport was closed", code="closed"))
        for dialling in self._dialling:
            dialling.reschedule(asyncio.get_running_loop().time())
        for connection in tuple(self._connections):
            where = connection.where
            connection.fail(NoAnswer("disconnected", f"{where}: the transport was closed meanwhile", maybe_billed=True))
        if self._unclosed:
            self._all_closed = asyncio.Event()
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._all_closed.wait()


def _sweep_seconds(timeouts: Timeouts) -> float:
    """How often to look, for these time-outs."""
    shortest = min(timeouts.first_byte, timeouts.between_bytes, timeouts.total or timeouts.first_byte)
    return max(_FINEST_SWEEP_SECONDS, min(SWEEP_SECONDS, shortest / 4))
