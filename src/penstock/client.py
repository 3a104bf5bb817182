"""Client: the one place that puts the parts together. It holds them, starts them, and lets go of them; it decides nothing.

    async with Client("openai/gpt-5-mini") as client:
        response = await client.generate("Explain quantum computing in simple terms.")
        async for result in client.map(rows, prompt="Summarise: {text}", ledger="summaries.ledger"): ...

A Client belongs to one event loop. People share limits by sharing the Client.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec

from penstock.edges.clock import SystemClock
from penstock.edges.environment import api_key as key_of
from penstock.edges.environment import connection_cap, raise_descriptor_limit
from penstock.edges.http import HttpTransport
from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.edges.prices import GenaiPrices
from penstock.engine.call import Account, Caller
from penstock.engine.gate import Gate, Scope
from penstock.engine.run import Plan, Run, to_its_end
from penstock.engine.source import raw_rows
from penstock.errors import InputError, LoopMismatch, UsageError
from penstock.options import Limits, Retry, Timeouts
from penstock.ports import Clock, Ledger, Observer, Prices, Transport
from penstock.providers.catalog import SERVICES, Service, bare_model, split_model
from penstock.providers.openai import ChatCompletions, chat_completions
from penstock.records import RawRow, Request, Response, Result, Row, Usage
from penstock.rules.identity import options_digest
from penstock.rules.retry import Policy
from penstock.rules.tally import Tally
from penstock.rules.template import Template

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]] | Request
"""A text, a list of chat messages, or a whole request."""

CONCURRENCY_WITHOUT_LIMITS = 100
CONCURRENCY_WITH_LIMITS = 1_000
"""Where the account's limits are known, they bound the flow; the cap then only guards descriptors and memory."""


NOWHERE = "http://127.0.0.1:9/v1"
"""Stands for an address that is not known yet, or not needed: a server of our own, or answers that are only read."""


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of every row; the fields are those of `rules.template.Template`."""

    prompt: str | None = None
    system: str | None = None
    params: dict[str, Any] = {}
    id_column: str | None = None
    keep: tuple[str, ...] = ()

    def template(self) -> Template:
        """The rule that turns rows into requests; raises `UsageError` where it can be right for no row."""
        return Template(**{name: getattr(self, name) for name in self.__struct_fields__})


class Client:
    """Sends requests to one model of one provider, within the account's limits.

    `model` is `provider/model` (a bare name is OpenAI's); `api_key` defaults to the provider's usual variable; `base_url`
    includes `/v1`. `timeout` bounds one attempt, `deadline` one row with all its attempts, both in seconds.
    `note` says what was lowered to fit this machine, if anything was.
    `transport`, `clock` and `prices` replace the world, for tests. Raises `UsageError` for what cannot be right.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        limits: Limits | None = None,
        max_concurrency: int | None = None,
        max_retries: int = 5,
        timeout: float | None = None,
        deadline: float | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._service, self.model = split_model(model, base_url)
        self._limits = limits or Limits()
        self._retry = Retry(max_retries=max_retries, deadline=deadline)
        self._timeouts = Timeouts(total=timeout)
        self._max_concurrency = _concurrency(max_concurrency, self._limits)
        self.note = ""
        if transport is None:
            self._keep_within_descriptors(asked=max_concurrency is not None)
        key = api_key if api_key is not None else _key_from_environment(self._service, transport)
        self._base_url = base_url
        self._provider = chat_completions(
            self._service,
            base_url=base_url or (NOWHERE if self._service.name == "builtin" else None),
            api_key=key or _unused(transport),
        )
        self._transport, self._clock = transport, clock or SystemClock()
        if transport is None:
            # What can never be sent is told here, not in the middle of a run.
            self._new_transport().check(self._provider.call(b"", self.model))
        self._prices = prices or GenaiPrices(self._service.name)
        self._stack = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._account: Account | None = None
        self._opening = asyncio.Lock()
        self._runs: dict[Run, LedgerFile | None] = {}

    def __repr__(self) -> str:
        state = "new" if self._account is None else f"{self._account.gate.in_flight} in flight"
        return f"<Client {self._service.name}/{self.model}, {state}>"

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End runs that are still open, then close every connection. Calling it twice does no harm."""
        while self._runs:
            await _close_run(*self._runs.popitem())
        self._account = None
        await self._stack.aclose()

    async def generate(
        self, prompt: Prompt, *, system: str | None = None, model: str | None = None, **params: Any
    ) -> Response:
        """One answer. `params` go into the body as they are (`temperature=0`, `max_tokens=200`, ...).

        Raises a `RequestError` (`Refused`, `NoAnswer`, `BadAnswer`, ...) when there is none after the retries.
        """
        request = self._request(prompt, system, model, params)
        account = await self._open()
        body = self._provider.encode(request, request.model or self.model)
        policy = Policy(max_retries=self._retry.max_retries, patient=False)
        caller = Caller(account=account, policy=policy, scope=Scope(), observer=Tally(), deadline=self._retry.deadline)
        outcome = await caller.call(request, body)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.response is not None
        return outcome.response

    def _request(self, prompt: Prompt, system: str | None, model: str | None, params: dict[str, Any]) -> Request:
        if isinstance(prompt, Request):
            return prompt
        values = {"prompt": prompt} if isinstance(prompt, str) else {"messages": [dict(m) for m in prompt]}
        return self._own(Template(system=system, params=params).row(RawRow(0, "prompt", values)), model).request

    # -- many requests

    async def map(
        self,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        prompt: str | None = None,
        system: str | None = None,
        params: Mapping[str, Any] | None = None,
        ledger: str | Path | Ledger | None = None,
        ordered: bool = False,
        dedupe: bool = False,
        retry_failed: bool = False,
    ) -> AsyncGenerator[Result, None]:
        """One `Result` for each row, as they complete, or in input order if `ordered`.

        A row is a text, a mapping (columns for `prompt`'s fields, or `messages`), or an OpenAI batch line; rows are drawn
        only as fast as they are used. With a `ledger` every answer is recorded durably before it is yielded, and a row
        whose answer is recorded is not sent again. `dedupe` sends equal rows once. Nothing raises for a row; what dooms
        all of them (a refused key, no credit) raises `RunStopped`, and the same call with the same ledger goes on later.
        """
        asking = Asking(prompt=prompt, system=system, params=dict(params or {}))
        asking.template()
        store = await self._ledger_for(ledger, asking)
        own = store if isinstance(store, LedgerFile) and store is not ledger else None
        try:
            choices = {"ordered": ordered, "dedupe": dedupe, "retry_failed": retry_failed}
            choices["look_up"] = store is not None and not (isinstance(store, LedgerFile) and store.is_new)
            run = await self.start(raw_rows(rows), asking, Tally(), ledger=store, **choices)
        except BaseException:
            if own is not None:
                await own.aclose()
            raise
        # An iterator that is abandoned is closed whenever the loop gets to it; closing the client must not wait for that.
        self._runs[run] = own
        try:
            async with aclosing(run.results()) as results:
                async for result in results:
                    yield result
        finally:
            self._runs.pop(run, None)
            await _close_run(run, own)

    async def gather(self, prompts: Iterable[Any], **options: Any) -> list[Result]:
        """All results in input order; takes what `map` takes."""
        return [result async for result in self.map(prompts, ordered=True, **options)]

    async def start(
        self,
        rows: Iterator[RawRow] | AsyncIterator[RawRow],
        asking: Asking,
        observer: Observer,
        *,
        ledger: Ledger | None = None,
        **choices: Any,
    ) -> Run:
        """A run over rows that are read already; `choices` are fields of `engine.run.Plan`."""
        account = await self._open()
        if isinstance(self._prices, GenaiPrices):
            # They take about a second to load: now and in a thread, not in the middle of the run.
            await asyncio.get_running_loop().run_in_executor(None, self._prices.cost, self.model, Usage())
        caller = Caller(
            account=account,
            policy=Policy(max_retries=self._retry.max_retries),
            scope=Scope(),
            observer=observer,
            deadline=self._retry.deadline,
            marks=ledger,
        )
        plan = Plan(
            caller=caller,
            render=self.render(asking),
            workers=_workers(self._max_concurrency),
            prices=self._prices,
            ledger=ledger,
            **choices,
        )
        return Run(plan, rows)

    def render(self, asking: Asking) -> Callable[[RawRow], Row]:
        """The rule that turns a raw row into one that is ready to be sent; it raises `InputError`."""
        template = asking.template()
        return lambda raw: self._own(template.row(raw), None, raw.where)

    def options(self, asking: Asking) -> dict[str, Any]:
        """What shapes the requests of a run, by name: part of its identity."""
        return {"provider": self._service.name, "model": self.model} | msgspec.structs.asdict(asking)

    @property
    def provider(self) -> ChatCompletions:
        """The translation between requests and this provider's wire."""
        return self._provider

    def statistics(self) -> dict[str, float]:
        """In flight, waiting, free slots."""
        return self._account.gate.statistics() if self._account is not None else {}

    def waiting_for(self) -> str:
        """What the next request waits for, in words; empty when none waits."""
        return self._account.gate.waiting_for() if self._account is not None else ""

    # -- parts

    def _keep_within_descriptors(self, *, asked: bool) -> None:
        """As many as the limit of open files allows: a user's figure is refused above it, our own lowered, with a note."""
        cap, wanted = connection_cap(raise_descriptor_limit()), self._max_concurrency
        if wanted <= cap:
            return
        many = f"{wanted:,} requests in flight need more open files than the system allows"
        if asked:
            raise UsageError(f"max_concurrency: {many}: at most {cap:,}, or raise the limit (ulimit -n)")
        self._max_concurrency = cap
        self.note = f"{many}: {cap:,} go at once (ulimit -n raises the limit)"

    async def _open(self) -> Account:
        """The account, put together at the first use and on that loop only."""
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise LoopMismatch("this Client is open on another event loop: make one Client for each loop")
        async with self._opening:
            return self._account or await self._new_account(loop)

    async def _new_account(self, loop: asyncio.AbstractEventLoop) -> Account:
        self._loop = loop
        if self._service.name == "builtin" and self._transport is None and self._base_url is None:
            await self._start_builtin()
        transport = self._transport
        if transport is None:
            transport = await self._stack.enter_async_context(_closing(self._new_transport()))
        self._account = Account(
            clock=self._clock,
            transport=transport,
            provider=self._provider,
            gate=Gate(self._clock, self._limits, self._max_concurrency),
            timeouts=self._timeouts,
            model=self.model,
        )
        return self._account

    def _new_transport(self) -> HttpTransport:
        return HttpTransport(environ=os.environ, max_connections=self._max_concurrency)

    async def _start_builtin(self) -> None:
        """The built-in model is served over loopback HTTP, so that it takes the path that a real provider takes."""
        from penstock.simulator.server import builtin_settings, serve

        server = await self._stack.enter_async_context(serve(builtin_settings()))
        self._provider = chat_completions(self._service, base_url=server.base_url)

    async def _ledger_for(self, ledger: str | Path | Ledger | None, asking: Asking) -> Ledger | None:
        """A ledger that stands at this run: the last one where the options are its own, else a new one in the same file."""
        if not isinstance(ledger, str | Path):
            return ledger
        opening = asyncio.get_running_loop().run_in_executor(None, self._open_ledger, Path(ledger), asking)
        return await to_its_end(opening, undo=LedgerFile.close)

    def _open_ledger(self, path: Path, asking: Asking) -> LedgerFile:
        store = LedgerFile(path)
        try:
            record = RunRecord(input_digest=None, options=self.options(asking))
            latest = store.latest()
            same = latest is not None and options_digest(latest.options) == options_digest(record.options)
            if same:
                store.resume(record)
            else:
                store.begin(record)
        except BaseException:
            store.close()
            raise
        return store

    def _own(self, row: Row, model: str | None, where: str = "prompt") -> Row:
        """A row whose model is a bare name of this client's provider."""
        named = model or row.request.model
        if named is None:
            return row
        try:
            bare = bare_model(self._service, named)
        except UsageError as error:
            raise InputError(where, str(error)) from error
        return msgspec.structs.replace(row, request=msgspec.structs.replace(row.request, model=bare))


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


def _concurrency(asked: Any, limits: Limits) -> int:
    if asked is None:
        return CONCURRENCY_WITHOUT_LIMITS if limits == Limits() else CONCURRENCY_WITH_LIMITS
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise UsageError(f"max_concurrency must be a positive whole number, not {asked!r}")
    return int(asked)


def _workers(max_concurrency: int) -> int:
    """A few more than may be in flight: rows that wait for a retry hold a worker and must not hold back the others."""
    return max_concurrency + max_concurrency // 4 + 1


async def _close_run(run: Run, own_ledger: LedgerFile | None) -> None:
    try:
        await run.aclose()
    finally:
        if own_ledger is not None:
            await own_ledger.aclose()


@asynccontextmanager
async def _closing(transport: HttpTransport) -> AsyncIterator[HttpTransport]:
    try:
        yield transport
    finally:
        await transport.aclose()
