"""Client: the one place that puts the parts together. It holds them, starts them, and lets go of them; it decides nothing.

    async with Client("openai/gpt-5-mini") as client:
        response = await client.generate("Explain quantum computing in simple terms.")
        async for result in client.map(rows, prompt="Summarise: {text}", ledger="summaries.ledger"): ...

A Client belongs to one event loop. People share limits by sharing the Client.
"""

from __future__ import annotations

import asyncio
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
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import msgspec

from penstock.access import NOWHERE, Access
from penstock.edges.ledger import LedgerFile, has_ledger
from penstock.edges.prices import GenaiPrices
from penstock.engine.call import Caller
from penstock.engine.gate import Scope
from penstock.engine.run import Plan, Run
from penstock.engine.source import raw_rows
from penstock.engine.stream import OnBreak, Streaming
from penstock.errors import InputError, UsageError
from penstock.options import BATCH, INTERACTIVE, Lane, Limits, Retry, Timeouts, positive
from penstock.ports import Clock, Ledger, Observer, Prices, Transport
from penstock.providers.catalog import SERVICES, bare_model
from penstock.providers.openai import ChatCompletions, chat_completions
from penstock.recording import close_run, ledger_for, spent
from penstock.records import RawRow, Request, Response, Result, Row, Usage
from penstock.rules.hedge import Hedging
from penstock.rules.retry import Policy
from penstock.rules.spending import Spending
from penstock.rules.tally import Tally
from penstock.rules.template import Template
from penstock.streaming import Stream

if TYPE_CHECKING:
    from penstock.planning import Conditions, Forecast

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]] | Request
"""A text, a list of chat messages, or a whole request."""


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
    Without `max_concurrency`, how many go at once follows the limits, or where there are none, what the server can use.
    `hedge` sends a request again that is slower than nearly all, at most two in a hundred; both may be billed.
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
        hedge: bool = False,
        transport: Transport | None = None,
        clock: Clock | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._access = Access(
            model,
            api_key=api_key,
            base_url=base_url,
            limits=limits or Limits(),
            max_concurrency=max_concurrency,
            timeouts=Timeouts(total=timeout),
            transport=transport,
            clock=clock,
        )
        self.model, self._service = self._access.model, self._access.service
        self._retry = Retry(max_retries=max_retries, deadline=deadline)
        self._hedging = Hedging() if hedge else None
        self._prices = prices or GenaiPrices(self._service.name)
        self._runs: dict[Run, LedgerFile | None] = {}

    def __repr__(self) -> str:
        account = self._access.account
        state = "new" if account is None else f"{account.gate.in_flight} in flight"
        return f"<Client {self._service.name}/{self.model}, {state}>"

    async def __aenter__(self) -> Self:
        await self._access.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End runs that are still open, then close every connection. Calling it twice does no harm."""
        while self._runs:
            await close_run(*self._runs.popitem())
        await self._access.aclose()

    async def generate(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        model: str | None = None,
        lane: Lane | None = None,
        **params: Any,
    ) -> Response:
        """One answer. `params` go into the body as they are (`temperature=0`, `max_tokens=200`, ...).

        Its `lane` is one of its own by default, so that it does not wait behind the rows of a run.

        Raises a `RequestError` (`Refused`, `NoAnswer`, `BadAnswer`, ...) when there is none after the retries.
        """
        request = self._request(prompt, system, model, params)
        caller = await self._single(lane)
        outcome = await caller.call(request, self.provider.encode(request, request.model or self.model))
        if outcome.error is not None:
            raise outcome.error
        assert outcome.response is not None
        return outcome.response

    def stream(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        model: str | None = None,
        lane: Lane | None = None,
        on_break: OnBreak = "error",
        **params: Any,
    ) -> Stream:
        """One answer as it comes: `async for chunk in client.stream(...)`; see `Stream`.

        Until the first chunk it is tried again as `generate` does. A break after it is raised, or, with `on_break="restart"`,
        a chunk says `restarted` and the answer begins anew.
        """
        request = self._request(prompt, system, model, params)

        async def begin() -> Streaming:
            caller = await self._single(lane)
            body = self.provider.encode(request, request.model or self.model)
            return Streaming(caller, request, body, on_break=on_break)

        return Stream(begin)

    async def _single(self, lane: Lane | None) -> Caller:
        """Who carries a request that belongs to no run."""
        return Caller(
            account=await self._access.open(),
            policy=Policy(max_retries=self._retry.max_retries, patient=False),
            scope=Scope(lane or INTERACTIVE),
            observer=Tally(),
            deadline=self._retry.deadline,
            hedging=self._hedging,
        )

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
        max_cost: float | None = None,
        lane: Lane | None = None,
    ) -> AsyncGenerator[Result, None]:
        """One `Result` for each row, as they complete, or in input order if `ordered`.

        A row is a text, a mapping (columns for `prompt`'s fields, or `messages`), or an OpenAI batch line; rows are drawn
        only as fast as they are used. With a `ledger` every answer is recorded durably before it is yielded, and a row
        whose answer is recorded is not sent again. `dedupe` sends equal rows once. Nothing raises for a row; what dooms
        all of them (a refused key, no credit) raises `RunStopped`, and the same call with the same ledger goes on later.
        `max_cost` is in US dollars: it is reserved before sending, and the run stops before it would be exceeded. Where several
        runs share the client, turns are shared by the weights of their lanes.
        """
        asking = Asking(prompt=prompt, system=system, params=dict(params or {}))
        asking.template()
        store = await ledger_for(ledger, self.options(asking))
        own = store if isinstance(store, LedgerFile) and store is not ledger else None
        try:
            choices = {"ordered": ordered, "dedupe": dedupe, "retry_failed": retry_failed}
            choices["look_up"] = store is not None and not (isinstance(store, LedgerFile) and store.is_new)
            if max_cost is not None:
                await self._load_prices()
            self.check_max_cost(max_cost)
            scope = self.scope(lane, max_cost, store)
            run = await self.start(raw_rows(rows), asking, Tally(), scope, ledger=store, **choices)
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
            await close_run(run, own)

    async def gather(self, prompts: Iterable[Any], **options: Any) -> list[Result]:
        """All results in input order; takes what `map` takes."""
        return [result async for result in self.map(prompts, ordered=True, **options)]

    async def plan(
        self,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        prompt: str | None = None,
        system: str | None = None,
        params: Mapping[str, Any] | None = None,
        ledger: str | Path | None = None,
    ) -> Forecast:
        """What `map` over these rows would take: requests, tokens, money, time, each with its range. Sends nothing.

        It simulates the run on virtual time. With the `ledger` of an interrupted run it learns from the answers in it and
        plans the rest. Raises `InputError` for rows of its sample that can never be sent.
        """
        from penstock import planning

        asking = Asking(prompt=prompt, system=system, params=dict(params or {}))
        recorded = ledger is not None and has_ledger(Path(ledger))
        past = await planning.past_in(Path(ledger)) if ledger is not None and recorded else planning.NO_PAST
        return await planning.plan(self.conditions(), self.render(asking), planning.given(rows), past=past)

    def conditions(self) -> Conditions:
        """Under what a run would go on, for a plan of it."""
        from penstock.planning import Conditions

        access = self._access
        return Conditions(
            provider=access.provider,
            model=access.model,
            prices=self._prices,
            rules=access.rules,
            retry=self._retry,
            timeouts=access.timeouts,
        )

    async def start(
        self,
        rows: Iterator[RawRow] | AsyncIterator[RawRow],
        asking: Asking,
        observer: Observer,
        scope: Scope | None = None,
        *,
        ledger: Ledger | None = None,
        **choices: Any,
    ) -> Run:
        """A run over rows that are read already, in a `scope` of `scope()`; `choices` are fields of `engine.run.Plan`."""
        account = await self._access.open()
        await self._load_prices()
        caller = Caller(
            account=account,
            policy=Policy(max_retries=self._retry.max_retries),
            scope=scope or Scope(),
            observer=observer,
            deadline=self._retry.deadline,
            marks=ledger,
            hedging=self._hedging,
        )
        plan = Plan(
            caller=caller,
            render=self.render(asking),
            workers=self._access.workers,
            prices=self._prices,
            ledger=ledger,
            **choices,
        )
        return Run(plan, rows)

    def scope(self, lane: Lane | None, max_cost: float | None, ledger: Ledger | None) -> Scope:
        """What a run may spend in US dollars, less what the ledger says was spent, and the lane of its rows."""
        usd, unknown_sends = spent(ledger)
        spending = None if max_cost is None else Spending(max_cost, self._prices.cost, usd, unknown_sends)
        return Scope(lane or BATCH, spending)

    def check_max_cost(self, max_cost: float | None) -> None:
        """Raises `UsageError` where a sum is no sum, or is set and the model's price is unknown. May load the prices."""
        positive(max_cost=max_cost)
        if max_cost is not None and self._prices.cost(self.model, Usage(input_tokens=1, output_tokens=1)) is None:
            raise UsageError(
                f"--max-cost (max_cost) cannot be kept: the price of {self.model!r} is not known; leave it out or choose "
                "a model with a known price"
            )

    async def _load_prices(self) -> None:
        """They take about a second to load: before the run and in a thread, not in the middle of it."""
        if isinstance(self._prices, GenaiPrices):
            await asyncio.get_running_loop().run_in_executor(None, self._prices.cost, self.model, Usage())

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
        return self._access.provider

    @property
    def note(self) -> str:
        """What was lowered to fit this machine, if anything was."""
        return self._access.note

    def statistics(self) -> dict[str, float]:
        """In flight, waiting, free slots; and of the client's model the limits in force, what is estimated and what was learned."""
        account = self._access.account
        if account is None:
            return {}
        hedging = self._hedging.statistics() if self._hedging is not None else {}
        return account.gate.statistics() | account.gate.statistics_of(self.model) | hedging

    def waiting_for(self) -> str:
        """What the next request waits for, in words; empty when none waits."""
        account = self._access.account
        return account.gate.waiting_for() if account is not None else ""

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
