"""One request, from its turn to its end: gate, attempt, settle, and again until the policy says that it is over.

It owns every retry and every hedge. It raises nothing for the row: what became of the request is an `Outcome`. Only what ends
a whole run (`RunStopped`) and cancellation pass through.
"""

from __future__ import annotations

import asyncio

import msgspec

from penstock.engine.attempt import Account, attempt
from penstock.engine.gate import FOR_EVER, Ask, Queue, Scope, Ticket
from penstock.errors import RequestError, RunStopped, request_error
from penstock.options import Patience
from penstock.ports import Marks, Observer
from penstock.records import HttpCall, Request, Response
from penstock.rules.charges import NOTHING, Charge
from penstock.rules.estimate import script_of
from penstock.rules.hedge import Hedging
from penstock.rules.journey import FIRST, State, follow
from penstock.rules.retry import TREATMENT, Policy, Tries, Verdict, stopped

FIRST_TRY = Verdict("again")
DONE = Verdict("done")
GIVEN_UP = request_error("deadline", "given up before its answer came", maybe_billed=True)
LONGEST_ADVICE = 120.0
"""Clients do not obey a wait above two minutes (the OpenAI SDK gives up then)."""
OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens")


class Outcome(msgspec.Struct):
    """What became of one request: a response or an error, and what it took (see `records.Result`).

    `throttled` counts the sends that the provider put off, which are no attempts. `first_token_s` is the time from the send
    to the first piece of the answer, known of streams only. `queued_s` is the time until the send that was not put off.
    """

    response: Response | None = None
    error: RequestError | None = None
    attempts: int = 0
    throttled: int = 0
    ambiguous: int = 0
    latency_s: float = 0.0
    first_token_s: float | None = None
    queued_s: float = 0.0
    headers: list[tuple[bytes, bytes]] = []
    """Of the last answer, as received."""

    @property
    def sends(self) -> int:
        """How often the provider was asked, throttles included."""
        return self.attempts + self.throttled


class Passage(msgspec.Struct):
    """One request on its way: what is sent, what its cost is estimated from, what it has been through."""

    call: HttpCall
    ask: Ask
    index: int
    own_model: bool
    queue: Queue
    outcome: Outcome
    began: float
    tries: Tries
    waited: float = 0.0
    state: State = FIRST
    last_error: RequestError | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Carries the requests of one scope (a run, or a single call) through an account."""

    account: Account
    policy: Policy
    scope: Scope
    observer: Observer
    deadline: float | None = None
    marks: Marks | None = None
    hedging: Hedging | None = None
    patience: Patience | None = None

    async def call(self, request: Request, body: bytes, index: int = 0, outcome: Outcome | None = None) -> Outcome:
        """The end of one request. `body` is `request` encoded; `index` names the row in the marks.

        `outcome` is filled in as it goes, for who must know it even if the call is cancelled. Raises `RunStopped` where the run
        ends before this request does.
        """
        passage = self.passage(request, body, index)
        if outcome is not None:
            passage.outcome = outcome
        try:
            if self.deadline is None:
                await self._to_the_end(passage)
            else:
                await self._to_the_end_within(passage, self.deadline)
        except RunStopped:
            passage.state = follow(passage.state, "run stopped")
            raise
        return passage.outcome

    def passage(self, request: Request, body: bytes, index: int) -> Passage:
        account = self.account
        model = request.model or account.model
        return Passage(
            call=account.provider.call(body, model),
            ask=_ask(request, body),
            index=index,
            own_model=model == account.model,
            queue=account.gate.queue(model),
            outcome=Outcome(),
            began=account.clock.now(),
            tries=Tries(),
        )

    async def _to_the_end_within(self, passage: Passage, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline):
                await self._to_the_end(passage)
        except TimeoutError as timeout:
            passage.state = follow(passage.state, "deadline")
            last = f"; the last attempt: {passage.last_error.message}" if passage.last_error else ""
            error = request_error("deadline", f"no answer within the row's deadline of {deadline:g} s{last}")
            error.__cause__ = timeout
            passage.outcome.error = error
            passage.outcome.latency_s = deadline

    async def _to_the_end(self, passage: Passage) -> None:
        verdict = FIRST_TRY
        while verdict.action == "again":
            if (error := never_fits(passage)) is not None:
                passage.outcome.error = error
                passage.state = follow(passage.state, "never fits")
                return
            if (ticket := await self.enter(passage, verdict)) is None:
                return
            verdict = await self._try(passage, ticket)

    async def enter(self, passage: Passage, verdict: Verdict) -> Ticket | None:
        """Hold a slot on return. A request that has been out before goes to the head of its line.

        None, with the passage's error, where its turn does not come within the patience.
        """
        scope, gate = self.scope, self.account.gate
        if scope.stopped is not None:
            raise scope.stopped
        again = verdict is not FIRST_TRY
        ticket = None if again else gate.enter_nowait(passage.queue, passage.ask, scope)
        try:
            if ticket is None and self.patience is not None:
                ticket = await self._wait_within(self.patience, passage, verdict, again=again)
            elif ticket is None:
                ticket = await gate.wait(passage.queue, passage.ask, scope, at=verdict.at, first=again)
        except RequestError as error:
            passage.outcome.error, passage.state = error, follow(passage.state, "no turn")
            return None
        passage.state = follow(passage.state, "admitted")
        return ticket

    async def _wait_within(self, patience: Patience, passage: Passage, verdict: Verdict, *, again: bool) -> Ticket:
        """A turn; raises the throttle, or one of our own, where it is too far off."""
        gate, now, queue = self.account.gate, self.account.clock.now(), passage.queue
        left = patience.longest_wait - passage.waited
        last = passage.last_error
        if again and last is not None and last.kind == "rate_limited" and (last.retry_after or 0.0) > left:
            raise last
        if not again and len(queue.ready) >= patience.longest_line:
            raise no_turn(queue, now, f"{len(queue.ready):,} requests stand in line")
        if queue.binding and left < queue.until - now < FOR_EVER:
            # Whoever is first in line waits longer already; nobody need wait to be told so.
            raise no_turn(queue, now, f"no turn within {patience.longest_wait:g} s")
        try:
            async with asyncio.timeout(left):
                return await gate.wait(queue, passage.ask, self.scope, at=verdict.at, first=again)
        except TimeoutError as timeout:
            late = no_turn(queue, self.account.clock.now(), f"no turn within {patience.longest_wait:g} s")
            if again and last is not None and last.kind == "rate_limited":
                last.retry_after = last.retry_after or late.retry_after  # the provider's own words say more than ours
                raise last from timeout
            raise late from timeout
        finally:
            passage.waited += self.account.clock.now() - now

    async def _try(self, passage: Passage, ticket: Ticket) -> Verdict:
        """One try, and what follows from it. The slot is free again only once everybody knows what came."""
        try:
            if self.hedging is None:
                response = await self._send(passage, ticket)
            else:
                response = await self._hedged(passage, ticket, self.hedging)
        except RequestError as error:
            return self.failed(passage, error)
        finally:
            self.account.gate.leave(passage.queue, self.scope)
        passage.state = follow(passage.state, "answer")
        passage.outcome.response = response
        passage.outcome.latency_s = self.account.clock.now() - passage.began
        return DONE

    # -- one send

    async def _send(self, passage: Passage, ticket: Ticket) -> Response:
        """One send, of which budgets, breaker, marks, money and the observer know when it is over."""
        self.set_out(passage)
        try:
            response, passage.outcome.headers = await attempt(self.account, passage.queue, passage.call)
        except RequestError as error:
            self.tell_of_failure(passage, ticket, error)
            raise
        except asyncio.CancelledError:
            self.tell_of_giving_up(passage, ticket)
            raise
        self.tell_of_answer(passage, ticket, response)
        return response

    def set_out(self, passage: Passage) -> None:
        """A send begins."""
        outcome = passage.outcome
        if outcome.attempts == 0:
            # Waiting in line is none of the provider's latency, nor is a send that it would not take.
            now = self.account.clock.now()
            outcome.queued_s += now - passage.began
            passage.began = now
        outcome.attempts += 1
        if self.marks is not None:
            self.marks.sending(passage.index)

    def tell_of_giving_up(self, passage: Passage, ticket: Ticket) -> None:
        """A send was cancelled: nobody will know what it cost."""
        passage.outcome.ambiguous += 1
        self.account.gate.breaker.lost(self.account.clock.now())
        self._pay(ticket, None)
        self.observer.attempted(GIVEN_UP)

    def tell_of_answer(self, passage: Passage, ticket: Ticket, response: Response) -> None:
        """Let everybody who shares the account know of an answer."""
        now, queue = self.account.clock.now(), passage.queue
        governor, usage = queue.governor, response.usage
        self.account.gate.breaker.answer()
        governor.answered(now)
        if queue.concurrency is not None:
            tokens = usage.output_tokens if usage is not None else None
            queue.concurrency.answered(now, queue.in_flight, now - ticket.at, tokens, passage.outcome.first_token_s)
            queue.concurrency.over(now - ticket.at)
        if usage is not None and (governor.counts_tokens or self.scope.spending is not None):
            queue.estimator.learn(passage.ask.body_bytes, passage.ask.script, usage)
            governor.settle(now, ticket.at, ticket.charge, governor.rule.after(usage, passage.ask.most_output))
        if self.scope.spending is not None:
            price = self.scope.spending.price
            self._pay(ticket, price(queue.model, usage) if usage is not None else None)
        if self.hedging is not None:
            self.hedging.answered(now - ticket.at)
        self.observer.attempted(None)

    def tell_of_failure(self, passage: Passage, ticket: Ticket, error: RequestError) -> None:
        """Let everybody who shares the account know of a failure: budgets, breaker, marks, money, observer."""
        now, random = self.account.clock.now(), self.account.clock.random()
        breaker, queue = self.account.gate.breaker, passage.queue
        passage.last_error = error
        if queue.concurrency is not None:
            queue.concurrency.over(now - ticket.at)
        passage.outcome.ambiguous += error.maybe_billed
        match TREATMENT[error.kind]:
            case "throttle":
                queue.governor.throttle(now, error.retry_after)
                breaker.answer()
                passage.outcome.attempts -= 1
                passage.outcome.throttled += 1
            case "connect":
                queue.governor.settle(now, ticket.at, ticket.charge, NOTHING)
                breaker.failure(now, random, connected=False)
                passage.outcome.attempts -= 1
            case "outage":
                breaker.failure(now, random, connected=True)
                if queue.concurrency is not None and error.kind == "overloaded":
                    queue.concurrency.shed(now)
            case "retry" if error.kind == "disconnected":
                breaker.failure(now, random, connected=False)
            case "retry":
                breaker.lost(now)
            case _:
                breaker.answer()
        if self.marks is not None and not error.maybe_billed:
            self.marks.not_sent(passage.index)
        self._pay(ticket, None if error.maybe_billed else 0.0)
        self.observer.attempted(error)

    def _pay(self, ticket: Ticket, cost: float | None) -> None:
        """Settle the money; None: it may have cost all that was set aside."""
        if self.scope.spending is not None:
            self.scope.spending.settle(ticket.money, cost)

    def failed(self, passage: Passage, error: RequestError) -> Verdict:
        """What follows from a failed try."""
        account, outcome = self.account, passage.outcome
        now, random = account.clock.now(), account.clock.random()
        outcome.latency_s = now - passage.began
        breaker = account.gate.breaker
        verdict = self.policy.judge(error, passage.tries, breaker, now, random, own_model=passage.own_model)
        if verdict.action == "stop" and self.scope.stopped is None:
            account.gate.dismiss(self.scope, stopped(verdict.reason, error))
        if verdict.action == "fail":
            outcome.error = error
            passage.state = follow(passage.state, "given up")
        elif self.scope.stopped is not None:
            raise self.scope.stopped from error
        elif TREATMENT[error.kind] == "throttle":
            passage.state = follow(passage.state, "throttled")
        else:
            passage.state = follow(passage.state, "again")
            if TREATMENT[error.kind] != "connect":
                self.observer.trying_again()
        return verdict

    # -- hedging

    async def _hedged(self, passage: Passage, ticket: Ticket, hedging: Hedging) -> Response:
        """The first answer of one send, or of two where the first is slow; the other is closed at once."""
        if (after := hedging.after()) is None:
            return await self._send(passage, ticket)
        sends = {asyncio.create_task(self._send(passage, ticket))}
        try:
            done, _ = await asyncio.wait(sends, timeout=after)
            if not done and self.scope.stopped is None and hedging.spend():
                sends.add(asyncio.create_task(self._second_send(passage, hedging)))
            return await _first_answer(sends)
        finally:
            await _gone(sends)

    async def _second_send(self, passage: Passage, hedging: Hedging) -> Response:
        """The same request once more, at the head of its line: its row has waited longest."""
        gate, ticket = self.account.gate, None
        try:
            ticket = await gate.wait(passage.queue, passage.ask, self.scope, first=True)
            return await self._send(passage, ticket)
        finally:
            if ticket is None:
                hedging.give_back()
            else:
                gate.leave(passage.queue, self.scope)


async def _gone(sends: set[asyncio.Task[Response]]) -> None:
    """Cancel what is under way and wait until it is over."""
    for send in sends:
        send.cancel()
    await asyncio.wait(sends)
    for send in sends:
        if not send.cancelled():
            send.exception()  # known already: who lost has told everybody


async def _first_answer(sends: set[asyncio.Task[Response]]) -> Response:
    """The first answer of several sends; the last failure if none has one."""
    waiting = set(sends)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = [send for send in done if not send.cancelled() and send.exception() is None]
        if answered or not waiting:
            return (answered or list(done))[0].result()


def _ask(request: Request, body: bytes) -> Ask:
    params, most = request.params, None
    if params:
        most = next((params[name] for name in OUTPUT_LIMITS if name in params), None)
    return Ask(len(body), script_of(body), most if isinstance(most, int) else None)


def never_fits(passage: Passage) -> RequestError | None:
    """The error of a request that is larger than a whole limit: it would wait for ever."""
    queue, ask = passage.queue, passage.ask
    # No token has less than a byte; Bedrock's fivefold output is the dearest.
    if not queue.governor.counts_tokens or ask.body_bytes + 5 * (ask.most_output or 0) < queue.governor.smallest_limit:
        return None
    charge = queue.least_charge(ask)
    budget = queue.governor.never_fits(charge)
    return _too_large_for(budget, charge) if budget is not None else None


def no_turn(queue: Queue, now: float, reason: str) -> RequestError:
    """The error of a request that was not sent because its turn is too far off; its wait is that of the head of the line."""
    words = queue.binding.replace("_per_", " a ").replace("_", " ") or "a free slot"
    wait = queue.until - now if queue.binding else 0.0
    return request_error(
        "rate_limited",
        f"{reason}, waiting for {words}: ask again later",
        retry_after=max(1.0, min(wait, LONGEST_ADVICE)),
    )


def _too_large_for(budget: str, charge: Charge) -> RequestError:
    words = budget.replace("_", " ")
    return request_error(
        "never_fits",
        f"this one request needs about {charge.of(budget):,.0f} of the {words}, more than the whole limit: "
        "shorten it, lower max_tokens, or raise the limit",
    )
