"""One request, from its turn to its end: gate, attempt, settle, and again until the policy says that it is over.

It owns every retry and every hedge. It raises nothing for the row: what became of the request is an `Outcome`. Only what ends
a whole run (`RunStopped`) and cancellation pass through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from penstock.engine.attempt import Account, read_answer
from penstock.engine.gate import FOR_EVER, Ask, Queue, Scope, Ticket
from penstock.errors import RequestError, RunStopped, request_error
from penstock.options import Patience
from penstock.ports import Marks, Observer
from penstock.records import HttpCall, Request, Response
from penstock.rules.charges import NOTHING
from penstock.rules.estimate import script_of
from penstock.rules.hedge import Hedging
from penstock.rules.journey import FIRST, State, follow
from penstock.rules.retry import TREATMENT, Policy, Tries, Verdict, stopped

FIRST_TRY = Verdict("again")
DONE = Verdict("done")
GIVEN_UP = request_error("deadline", "given up before its answer came", maybe_billed=True)
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

    def call(
        self, request: Request, body: bytes, index: int = 0, outcome: Outcome | None = None
    ) -> Coroutine[Any, Any, Outcome]:
        """The end of one request, once it is awaited. `body` is `request` encoded; `index` names the row in the marks.

        `outcome` is filled in as it goes, for who must know it even if the call is cancelled. Raises `RunStopped` where the run
        ends before this request does.
        """
        passage = self.passage(request, body, index)
        if outcome is not None:
            passage.outcome = outcome
        return self._to_the_end(passage) if self.deadline is None else self._within(passage, self.deadline)

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

    async def _within(self, passage: Passage, deadline: float) -> Outcome:
        try:
            async with asyncio.timeout(deadline):
                return await self._to_the_end(passage)
        except TimeoutError as timeout:
            passage.state = follow(passage.state, "deadline")
            last = f"; the last attempt: {passage.last_error.message}" if passage.last_error else ""
            error = request_error("deadline", f"no answer within the row's deadline of {deadline:g} s{last}")
            error.__cause__ = timeout
            passage.outcome.error = error
            passage.outcome.latency_s = deadline
            return passage.outcome

    async def _to_the_end(self, passage: Passage) -> Outcome:
        """One try after the other. All of it stands here, and a send in `_send`: each coroutine more cost 0.5 us a call."""
        outcome, queue, gate = passage.outcome, passage.queue, self.account.gate
        verdict = FIRST_TRY
        try:
            while verdict.action == "again":
                if (too_large := queue.too_large(passage.ask)) is not None:
                    outcome.error, passage.state = too_large, follow(passage.state, "never fits")
                    break
                ticket = self.enter_nowait(passage, verdict) or await self.enter(passage, verdict)
                if ticket is None:
                    break
                try:
                    if self.hedging is None:
                        outcome.response = await self._send(passage, ticket)
                    else:
                        outcome.response = await self._hedged(passage, ticket, self.hedging)
                except RequestError as error:
                    verdict = self.failed(passage, error)
                else:
                    outcome.latency_s = self.account.clock.now() - passage.began
                    passage.state, verdict = follow(passage.state, "answer"), DONE
                finally:
                    # The slot is free again only once everybody knows what came.
                    gate.leave(queue, self.scope)
        except RunStopped:
            passage.state = follow(passage.state, "run stopped")
            raise
        return outcome

    def enter_nowait(self, passage: Passage, verdict: Verdict) -> Ticket | None:
        """A slot, where one may be had at once; a request that has been out before is never in such luck."""
        if self.scope.stopped is not None:
            raise self.scope.stopped
        if verdict is not FIRST_TRY:
            return None
        ticket = self.account.gate.enter_nowait(passage.queue, passage.ask, self.scope)
        if ticket is not None:
            passage.state = follow(passage.state, "admitted")
        return ticket

    async def enter(self, passage: Passage, verdict: Verdict) -> Ticket | None:
        """Hold a slot on return. A request that has been out before goes to the head of its line.

        None, with the passage's error, where its turn does not come within the patience.
        """
        again = verdict is not FIRST_TRY
        try:
            if self.patience is not None:
                ticket = await self._wait_within(self.patience, passage, verdict, again=again)
            else:
                gate = self.account.gate
                ticket = await gate.wait(passage.queue, passage.ask, self.scope, at=verdict.at, first=again)
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
            raise queue.no_turn(now, f"{len(queue.ready):,} requests stand in line")
        if queue.binding and left < queue.until - now < FOR_EVER:
            # Whoever is first in line waits longer already; nobody need wait to be told so.
            raise queue.no_turn(now, f"no turn within {patience.longest_wait:g} s")
        try:
            async with asyncio.timeout(left):
                return await gate.wait(queue, passage.ask, self.scope, at=verdict.at, first=again)
        except TimeoutError as timeout:
            late = queue.no_turn(self.account.clock.now(), f"no turn within {patience.longest_wait:g} s")
            if again and last is not None and last.kind == "rate_limited":
                last.retry_after = last.retry_after or late.retry_after  # the provider's own words say more than ours
                raise last from timeout
            raise late from timeout
        finally:
            passage.waited += self.account.clock.now() - now

    # -- one send

    async def _send(self, passage: Passage, ticket: Ticket) -> Response:
        """One send, of which budgets, breaker, marks, money and the observer know when it is over."""
        self.set_out(passage, ticket)
        account = self.account
        try:
            answer = await account.transport.send(passage.call, account.timeouts)
            passage.outcome.headers = answer.headers
            response = read_answer(account, passage.queue, answer, ticket.at)
        except RequestError as error:
            self.tell_of_failure(passage, ticket, error)
            raise
        except asyncio.CancelledError:
            self.tell_of_giving_up(passage, ticket)
            raise
        self.tell_of_answer(passage, ticket, response)
        return response

    def set_out(self, passage: Passage, ticket: Ticket) -> None:
        """A send begins."""
        outcome = passage.outcome
        if outcome.attempts == 0:
            # Waiting in line is none of the provider's latency, nor is a send that it would not take.
            outcome.queued_s += ticket.at - passage.began
            passage.began = ticket.at
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
