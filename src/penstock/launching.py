"""What starts requests and runs: it puts together, from a client's parts, who carries them and by which rules. It decides nothing.

For the rooms above the client (files of prompts, the server, the command line); users ask `Client` itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.access import Access
from penstock.edges.functions import Function, identity_of, trace_of
from penstock.edges.prices import GenaiPrices
from penstock.engine.call import Caller
from penstock.engine.gate import Scope
from penstock.errors import UsageError
from penstock.options import BATCH, INTERACTIVE, Lane, Patience, Retry, positive
from penstock.ports import Ledger, Observer, Prices
from penstock.providers.openai import ChatCompletions
from penstock.records import RawRow, Request, Response, Row, Usage
from penstock.rules.asking import Asking, Prompt
from penstock.rules.hedge import Hedging
from penstock.rules.retry import Policy
from penstock.rules.spending import Spending
from penstock.rules.tally import Uncounted
from penstock.rules.template import WORKFLOW_KEYS, Template

if TYPE_CHECKING:
    from penstock.engine.run import Run, Work
    from penstock.engine.workflow import Workflow
    from penstock.planning import Conditions
    from penstock.rules.schema import Form


async def send(caller: Caller, request: Request) -> Response:
    """The answer to one request; raises its error."""
    account = caller.account
    outcome = await caller.call(request, account.provider.encode(request, request.model or account.model))
    if outcome.error is not None:
        raise outcome.error
    assert outcome.response is not None
    return outcome.response


class Launcher:
    """The part of a `Client` that those use who start requests and runs on a user's behalf."""

    def __init__(self, access: Access, retry: Retry, hedging: Hedging | None, prices: Prices) -> None:
        self._access, self._retry, self._hedging, self._prices = access, retry, hedging, prices
        self.model, self._service = access.model, access.service

    async def caller(
        self, lane: Lane | None = None, *, observer: Observer | None = None, patience: Patience | None = None
    ) -> Caller:
        """Who carries requests that belong to no run; each fails alone. `patience` bounds how long one waits for its turn."""
        return Caller(
            account=await self._access.open(),
            policy=Policy(max_retries=self._retry.max_retries, patient=False),
            scope=Scope(lane or INTERACTIVE),
            observer=observer or Uncounted(),
            deadline=self._retry.deadline,
            hedging=self._hedging,
            patience=patience,
        )

    def _request(self, prompt: Prompt, system: str | None, model: str | None, params: dict[str, Any]) -> Request:
        if isinstance(prompt, Request):
            return prompt
        values = {"prompt": prompt} if isinstance(prompt, str) else {"messages": [dict(m) for m in prompt]}
        return self._access.own(Template(system=system, params=params).row(RawRow(0, "prompt", values)), model).request

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
        work: Callable[[Caller, Callable[[RawRow], Row], Prices], Work] | None = None,
        **choices: Any,
    ) -> Run:
        """A run over rows that are read already, in a `scope` of `scope()`; `choices` are fields of `engine.run.Plan`.

        `work` is what is done for each row: one request unless said otherwise.
        """
        from penstock.engine.run import Plan, Run
        from penstock.engine.single import SingleRequests

        policy = Policy(max_retries=self._retry.max_retries)
        single = await self.caller(observer=observer)
        caller = msgspec.structs.replace(single, policy=policy, scope=scope or Scope(), marks=ledger)
        await self.load_prices()
        plan = Plan(
            caller=caller,
            work=(work or SingleRequests)(caller, self.render(asking), self._prices),
            workers=self._access.workers,
            ledger=ledger,
            **choices,
        )
        run = Run(plan, rows)
        self._access.watch(run)
        return run

    def scope(self, lane: Lane | None, max_cost: float | None, ledger: Ledger | None) -> Scope:
        """What a run may spend in US dollars, less what the ledger says was spent, and the lane of its rows."""
        from penstock.recording import spent

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

    async def load_prices(self) -> None:
        """They take about a second to load: before the run and in a thread, not in the middle of it."""
        if isinstance(self._prices, GenaiPrices):
            await asyncio.get_running_loop().run_in_executor(None, self._prices.cost, self.model, Usage())

    def render(self, asking: Asking) -> Callable[[RawRow], Row]:
        """The rule that turns a raw row into one that is ready to be sent; it raises `InputError`."""
        template, own = asking.template(), self._access.own

        def ready(raw: RawRow) -> Row:
            row = template.row(raw)
            return row if row.request.model is None else own(row, None, raw.where)

        return ready

    def workflow(self, function: Function, asking: Asking, **choices: Any) -> Callable[..., Workflow]:
        """The `work` of `start` that runs a function over each row; `choices` are fields of `engine.workflow.Flow`.

        `asking` has the system message and the parameters of requests that name none of their own.
        """
        from penstock.engine.workflow import Flow, Workflow
        from penstock.engine.workflow import identity_of as digest_of_flow

        template = asking.template(WORKFLOW_KEYS)

        def request_of(prompt: Prompt, system: str | None, model: str | None, params: dict[str, Any]) -> Request:
            return self._request(prompt, asking.system if system is None else system, model, asking.params | params)

        flow = Flow(
            function=function,
            identity=digest_of_flow(self.options(asking, function)),
            row_of=template.given,
            request_of=request_of,
            trace=trace_of,
            prices=self._prices,
            native=self._service.native,
            **choices,
        )
        return lambda caller, *_: Workflow(flow, caller)

    def structured(self, asking: Asking, form: Form, repairs: int, **choices: Any) -> Callable[..., Workflow]:
        """The `work` of `start` that asks for an answer of this form for each row; `choices` are as with `workflow`.

        Raises `UsageError` for a number of repairs that is none, and where `asking` has a form of its own.
        """
        from penstock.engine.structured import require_whole
        from penstock.engine.structured_rows import StructuredRows, accepted_answer, identity_of
        from penstock.engine.workflow import Flow
        from penstock.rules.schema import require_no_other_form

        require_whole(repairs)
        require_no_other_form(asking.params)
        flow = Flow(
            function=accepted_answer(form, repairs),
            identity=identity_of(form),
            row_of=self.render(asking),
            request_of=lambda request, *_: request,
            trace=trace_of,
            prices=self._prices,
            native=self._service.native,
            **choices,
        )
        return lambda caller, *_: StructuredRows(flow, caller)

    def options(self, asking: Asking, function: Function | None = None, form: Form | None = None) -> dict[str, Any]:
        """What shapes the requests of a run, by name: part of its identity."""
        asked = {"provider": self._service.name, "model": self.model} | msgspec.structs.asdict(asking)
        of_function = identity_of(function) if function is not None else {}
        return asked | of_function | ({"response_model": form.schema} if form is not None else {})

    @property
    def prices(self) -> Prices:
        """What answers cost."""
        return self._prices

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
