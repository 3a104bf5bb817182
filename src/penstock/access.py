"""Access to one account: the key, the address, the limits, and the parts that all its requests share, open on one event loop.

It puts an `engine.attempt.Account` together at the first use and takes it apart at the end. It sends nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import msgspec

from penstock.edges.clock import SystemClock
from penstock.edges.environment import api_key as key_of
from penstock.edges.environment import connection_cap, raise_descriptor_limit
from penstock.edges.http import HttpTransport, network_is_forbidden
from penstock.engine.attempt import Account
from penstock.engine.gate import Gate, Rules
from penstock.errors import InputError, LoopMismatch, UsageError
from penstock.options import Limits, Timeouts
from penstock.ports import Clock, Transport
from penstock.providers.catalog import SERVICES, Service, bare_model, ending_streams_with, split_model
from penstock.providers.openai import chat_completions
from penstock.records import Response, Row

if TYPE_CHECKING:
    from penstock.edges.processes.transport import ProcessTransport
    from penstock.engine.run import Run
    from penstock.errors import RunStopped

MOST_CONCURRENCY = 1_000
"""In flight at most where the user sets nothing: limits, or what the engine behind can use, bind before it."""

NOWHERE = "http://127.0.0.1:9/v1"
"""Stands for an address that is not known yet, or not needed: a server of our own, or answers that are only read."""


class Access:
    """One account of one service. Raises `UsageError` for what cannot be right.

    `note` says what was lowered to fit this machine, if anything was. A figure for `max_concurrency` is kept to as it is;
    without one, how many go at once is found out wherever no limit says so.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None,
        base_url: str | None,
        limits: Limits,
        max_concurrency: int | None,
        timeouts: Timeouts,
        transport: Transport | None,
        clock: Clock | None,
        stream_end: str | None = None,
        processes: int = 1,
    ) -> None:
        self.service, self.model = split_model(model, base_url)
        if stream_end is not None:
            self.service = ending_streams_with(self.service, stream_end)
        self.limits, self.timeouts = limits, timeouts
        self.note = ""
        self._adaptive = max_concurrency is None
        self.max_concurrency = _whole_number(
            "max_concurrency", MOST_CONCURRENCY if max_concurrency is None else max_concurrency
        )
        self._processes = self._checked(processes, transport)
        self._runs: WeakSet[Run] = WeakSet()
        self._lost: RunStopped | None = None
        if transport is None:
            self._keep_within_descriptors()
        self._base_url = base_url
        key = api_key if api_key is not None else _key_from_environment(self.service, transport)
        self.provider = chat_completions(
            self.service,
            base_url=base_url or (NOWHERE if self.service.name == "builtin" else None),
            api_key=key or _unused(transport),
        )
        self._transport, self._clock = transport, clock or SystemClock()
        if transport is None:
            # What can never be sent is told here, not in the middle of a run.
            self._own_transport().check(self.provider.call(b"", self.model))
        self._stack = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self.account: Account | None = None

    async def open(self) -> Account:
        """The account, put together at the first use and on that loop only; raises `LoopMismatch` on another."""
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise LoopMismatch("this Client is open on another event loop: make one Client for each loop")
        async with self._opening:
            return self.account or await self._new_account(loop)

    async def aclose(self) -> None:
        """Close every connection. Calling it twice does no harm."""
        self.account = None
        await self._stack.aclose()

    @property
    def rules(self) -> Rules:
        """By which rules requests are let through."""
        return Rules(
            limits=self.limits,
            max_concurrency=self.max_concurrency,
            service=self.service.name,
            adaptive=self._adaptive,
        )

    @property
    def workers(self) -> int:
        """As many as may be in flight; a run has more only while rows wait to be tried again."""
        return self.max_concurrency

    def own(self, row: Row, model: str | None, where: str = "prompt") -> Row:
        """A row whose model is a bare name of this account's service."""
        named = model or row.request.model
        if named is None:
            return row
        try:
            bare = bare_model(self.service, named)
        except UsageError as error:
            raise InputError(where, str(error)) from error
        return msgspec.structs.replace(row, request=msgspec.structs.replace(row.request, model=bare))

    async def _new_account(self, loop: asyncio.AbstractEventLoop) -> Account:
        self._loop = loop
        if self.service.name == "builtin" and self._transport is None and self._base_url is None:
            await self._start_builtin()
        transport = self._transport
        if transport is None:
            transport = await self._stack.enter_async_context(_closing(await self._new_transport()))
        self.account = Account(
            clock=self._clock,
            transport=transport,
            provider=self.provider,
            gate=Gate(self._clock, self.rules),
            timeouts=self.timeouts,
            model=self.model,
        )
        return self.account

    async def _new_transport(self) -> HttpTransport | ProcessTransport:
        if self._processes == 1:
            return self._own_transport()
        from penstock.edges.processes.transport import ProcessTransport

        transport = ProcessTransport(
            self._processes,
            max_connections=self.max_concurrency,
            lost=self._stop,
            loopback_only=network_is_forbidden(),
        )
        await transport.open()
        return transport

    def _own_transport(self) -> HttpTransport:
        return HttpTransport(environ=os.environ, max_connections=self.max_concurrency)

    def watch(self, run: Run) -> None:
        """A run of this account: it ends early where a sending process is lost, with what came back recorded."""
        self._runs.add(run)
        if self._lost is not None:
            run.stop(self._lost)

    def _stop(self, reason: RunStopped) -> None:
        self._lost = self._lost or reason
        for run in tuple(self._runs):
            run.stop(reason)

    def _checked(self, asked: Any, transport: Transport | None) -> int:
        """How many processes send."""
        processes = _whole_number("processes", asked)
        if processes > 1 and transport is not None:
            raise UsageError("processes: a transport of your own sends from this process; leave one of the two out")
        if processes > self.max_concurrency:
            raise UsageError(
                f"processes: {processes:,} have no use for {self.max_concurrency:,} requests in flight; ask for fewer"
            )
        return processes

    async def _start_builtin(self) -> None:
        """The built-in model is served over loopback HTTP, so that it takes the path that a real provider takes."""
        from penstock.simulator.server import builtin_settings, serve

        server = await self._stack.enter_async_context(serve(builtin_settings()))
        self.provider = chat_completions(self.service, base_url=server.base_url)

    def _keep_within_descriptors(self) -> None:
        """As many as the limit of open files allows: a user's figure is refused above it, our own lowered, with a note."""
        cap, wanted = connection_cap(raise_descriptor_limit()) * self._processes, self.max_concurrency
        if wanted <= cap:
            return
        many = f"{wanted:,} requests in flight need more open files than the system allows"
        if not self._adaptive:
            raise UsageError(f"max_concurrency: {many}: at most {cap:,}, or raise the limit (ulimit -n)")
        self.max_concurrency = cap
        self.note = f"{many}: {cap:,} go at once (ulimit -n raises the limit)"


def reviver(service: str) -> Callable[[bytes], Response]:
    """How a service's recorded answers are read again; needs no key. Raises `UsageError` for an unknown service."""
    if service not in SERVICES:
        raise UsageError(f"this ledger was made with the provider {service!r}, which this version does not know")
    return chat_completions(SERVICES[service], base_url=NOWHERE, api_key="none").revive


def _key_from_environment(service: Service, transport: Transport | None) -> str | None:
    if transport is not None:
        return None
    return key_of(service.key_variables, os.environ)


def _unused(transport: Transport | None) -> str | None:
    """A transport of the caller's own reaches no provider, so it needs no key."""
    return "unused" if transport is not None else None


def _whole_number(name: str, asked: Any) -> int:
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise UsageError(f"{name} must be a positive whole number, not {asked!r}")
    return int(asked)


@asynccontextmanager
async def _closing(transport: HttpTransport | ProcessTransport) -> AsyncIterator[HttpTransport | ProcessTransport]:
    """A generator, so that a loop that ends closes what a client that was dropped has left open."""
    try:
        yield transport
    finally:
        await transport.aclose()
