"""One request, from its turn to its end: gate, attempt, settle, and again until the policy says that it is over.

It owns every retry. It raises nothing for the row: what became of the request is an `Outcome`. Only what ends a whole run
(`RunStopped`) and cancellation pass through.
"""

from __future__ import annotations

import asyncio

import msgspec

from penstock.engine.attempt import attempt
from penstock.engine.gate import Gate, Lane, Scope
from penstock.errors import RequestError, request_error
from penstock.options import Timeouts
from penstock.ports import Clock, Marks, Observer, Provider, Transport
from penstock.records import HttpCall, Request, Response
from penstock.rules.governor import NOTHING, Charge
from penstock.rules.retry import TREATMENT, Policy, Tries, Verdict, stopped

REQUEST_ONLY = Charge()
FIRST_TRY = Verdict("again")
DONE = Verdict("done")
GIVEN_UP = request_error("deadline", "given up before its answer came", maybe_billed=True)
OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that all requests of one client share. `model` is the client's own."""

    clock: Clock
    transport: Transport
    provider: Provider
    gate: Gate
    timeouts: Timeouts
    model: str


class Outcome(msgspec.Struct):
    """What became of one request: a response or an error, and what it took (see `records.Result`)."""

    response: Response | None = None
    error: RequestError | None = None
    attempts: int = 0
    ambiguous: int = 0
    latency_s: float = 0.0


class Passage(msgspec.Struct):
    """One request on its way: what is sent, what it costs, what it has been through."""

    call: HttpCall
    body_bytes: int
    index: int
    own_model: bool
    lane: Lane
    charge: Charge
    outcome: Outcome
    began: float
    tries: Tries
    last_error: RequestError | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Carries the requests of one scope (a run, or a single call) through an account."""

    account: Account
    policy: Policy
    scope: Scope
    observer: Observer
    deadline: float | None = None
    marks: Marks | None = None

    async def call(self, request: Request, body: bytes, index: int = 0) -> Outcome:
        """The end of one request. `body` is `request` encoded; `index` names the row in the marks.

        Raises `RunStopped` where the run ends before this request does.
        """
        passage = self._passage(request, body, index)
        if (budget := passage.lane.governor.never_fits(passage.charge)) is not None:
            passage.outcome.error = _too_large_for(budget, passage.charge)
        elif self.deadline is None:
            await self._travel(passage)
        else:
            await self._travel_within(passage, self.deadline)
        return passage.outcome

    def _passage(self, request: Request, body: bytes, index: int) -> Passage:
        account = self.account
        model = request.model or account.model
        lane = account.gate.lane(model)
        return Passage(
            call=account.provider.call(body, model),
            body_bytes=len(body),
            index=index,
            own_model=model == account.model,
            lane=lane,
            charge=_charge(lane, request, len(body)) if lane.governor.counts_tokens else REQUEST_ONLY,
            outcome=Outcome(),
            began=account.clock.now(),
            tries=Tries(),
        )

    async def _travel_within(self, passage: Passage, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline):
                await self._travel(passage)
        except TimeoutError as timeout:
            last = f"; the last attempt: {passage.last_error.message}" if passage.last_error else ""
            error = request_error("deadline", f"no answer within the row's deadline of {deadline:g} s{last}")
            error.__cause__ = timeout
            passage.outcome.error = error
            passage.outcome.latency_s = deadline

    async def _travel(self, passage: Passage) -> None:
        verdict = FIRST_TRY
        while verdict.action == "again":
            await self._enter(passage, verdict)
            verdict = await self._try(passage)

    async def _enter(self, passage: Passage, verdict: Verdict) -> None:
        """Hold a slot on return. A request that has been out before goes to the head of its line."""
        if self.scope.stopped is not None:
            raise self.scope.stopped
        gate, lane, charge = self.account.gate, passage.lane, passage.charge
        if verdict is not FIRST_TRY:
            await gate.wait(lane, charge, self.scope, at=verdict.at, first=True)
        elif not gate.enter_nowait(lane, charge):
            await gate.wait(lane, charge, self.scope)

    async def _try(self, passage: Passage) -> Verdict:
        """One send, and what follows from it. The slot is free again only once the budgets know what came."""
        account = self.account
        passage.outcome.attempts += 1
        if self.marks is not None:
            self.marks.sending(passage.index)
        try:
            response = await attempt(account.transport, account.provider, account.clock, passage.call, account.timeouts)
        except RequestError as error:
            return self._failed(passage, error)
        except asyncio.CancelledError:
            passage.outcome.ambiguous += 1
            account.gate.breaker.lost(account.clock.now())
            self.observer.attempted(GIVEN_UP)
            raise
        else:
            return self._answered(passage, response)
        finally:
            account.gate.leave()

    def _answered(self, passage: Passage, response: Response) -> Verdict:
        now = self.account.clock.now()
        lane, outcome = passage.lane, passage.outcome
        self.account.gate.breaker.answer()
        lane.governor.answered(now)
        if response.usage is not None and lane.governor.counts_tokens:
            usage = response.usage
            lane.estimator.learn(passage.body_bytes, usage)
            spent = Charge(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
            lane.governor.settle(passage.charge, spent)
        outcome.response, outcome.latency_s = response, now - passage.began
        self.observer.attempted(None)
        return DONE

    def _failed(self, passage: Passage, error: RequestError) -> Verdict:
        account, outcome = self.account, passage.outcome
        now, random = account.clock.now(), account.clock.random()
        outcome.latency_s = now - passage.began
        outcome.ambiguous += error.maybe_billed
        passage.last_error = error
        self._tell(passage, error, now, random)
        breaker = account.gate.breaker
        verdict = self.policy.judge(error, passage.tries, breaker, now, random, own_model=passage.own_model)
        if verdict.action == "stop" and self.scope.stopped is None:
            account.gate.dismiss(self.scope, stopped(verdict.reason, error))
        if verdict.action == "fail":
            outcome.error = error
        elif self.scope.stopped is not None:
            raise self.scope.stopped from error
        elif TREATMENT[error.kind] in ("retry", "outage"):
            self.observer.trying_again()
        return verdict

    def _tell(self, passage: Passage, error: RequestError, now: float, random: float) -> None:
        """Let everybody who shares the account know of a failure: budgets, breaker, marks, observer."""
        breaker, governor = self.account.gate.breaker, passage.lane.governor
        match TREATMENT[error.kind]:
            case "throttle":
                governor.throttle(now, error.retry_after)
                breaker.answer()
                passage.outcome.attempts -= 1
            case "connect":
                governor.settle(passage.charge, NOTHING)
                breaker.failure(now, random, connected=False)
                passage.outcome.attempts -= 1
            case "outage":
                breaker.failure(now, random, connected=True)
            case "retry":
                breaker.lost(now)
            case _:
                breaker.answer()
        if self.marks is not None and not error.maybe_billed:
            self.marks.not_sent(passage.index)
        self.observer.attempted(error)


def _charge(lane: Lane, request: Request, body_bytes: int) -> Charge:
    most = next((request.params[name] for name in OUTPUT_LIMITS if name in request.params), None)
    return lane.estimator.charge(body_bytes, most if isinstance(most, int) else None)


def _too_large_for(budget: str, charge: Charge) -> RequestError:
    words = budget.replace("_", " ")
    return request_error(
        "never_fits",
        f"this one request needs about {charge.of(budget):,.0f} of the {words}, more than the whole limit: "
        "shorten it, lower max_tokens, or raise the limit",
    )
