"""What a simulated provider does with a request: admit, refuse, queue, fail or answer, and when.

Pure: time is an argument, and chance is drawn from (seed, prompt, how often that prompt was admitted), so that a run
replays whatever the order in which requests arrive. It never sends, waits or reads a clock; how an outcome becomes bytes
is in `plans` and `answers`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from penstock.errors import RequestError
from penstock.simulator import answers
from penstock.simulator.account import Account, Stats
from penstock.simulator.answers import Ask, Told
from penstock.simulator.budgets import PER_DAY, Budgets, limits_of
from penstock.simulator.chance import EXACT, Seconds, Spread, chances, digest
from penstock.simulator.engine import Engine
from penstock.simulator.foreign import Others
from penstock.simulator.plans import Case, Plan, invalid, outcome_of, plan_of, refused, told_of
from penstock.simulator.settings import NO_FAULTS, Faults, Phase, Settings, expected_text, prompt_digest

__all__ = [
    "Faults",
    "Phase",
    "Plan",
    "Seconds",
    "Settings",
    "Simulator",
    "Spread",
    "Stats",
    "expected_text",
    "prompt_digest",
]

_DEFAULT_OUTPUT_TOKENS = 16
_FIRST_PHASE = Phase(at=0.0)
_UNUSED = [0.0] * 5
"""Stands for numbers that nothing is drawn with."""


class Simulator:
    """One provider: `arrive` plans what a request gets, `leave` closes its account, `stats` tells it.

    `foreign` is what others on the same key were charged so far, by unit.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._seed = str(settings.seed).encode()[:64]
        self._budgets: dict[str, tuple[Budgets, Others]] = {}
        self._account = Account()
        self._engine: Engine[Plan] = Engine(settings.slots, settings.shed_above)
        times = (settings.latency, settings.token_latency)
        self._by_chance = settings.faults is not NO_FAULTS or any(isinstance(time, Spread) for time in times)
        self._key_refused_after = _or_never(settings.key_refused_after)
        self._credit_gone_after = _or_never(settings.credit_gone_after)
        self._max_in_flight = _or_never(settings.max_in_flight)
        self._phase = _FIRST_PHASE
        self._phases = list(reversed(settings.schedule))
        self.foreign: Counter[str] = Counter()

    def arrive(self, now: float, body: bytes, key: str | None = None) -> Plan:
        """The plan for a body that came with that API key, at `now` in monotonic seconds."""
        self._account.arrives(now)
        if self._phases:
            self._follow_schedule(now)
        plan = self._plan(now, body, key)
        self._account.decided(plan.outcome)
        return plan

    def leave(self, now: float, plan: Plan, whole: bool) -> None:
        """The request is over; `whole` says that all of its answer went out. Who has waited for its slot begins."""
        self._account.leaves(plan.outcome, whole)
        if plan.in_engine:
            self._begin(self._engine.leave(plan, plan.queued))
        if plan.outcome == "answered" and whole:
            self._settle(now, plan)
            self._account.answered(plan.digest, plan.input_tokens, plan.output_tokens)

    def stats(self, now: float) -> Stats:
        """The account at `now`."""
        return self._account.stats(now)

    # -- what changes with time

    def _follow_schedule(self, now: float) -> None:
        began = self._account.first_arrival or 0.0
        while self._phases and began + self._phases[-1].at <= now:
            self._phase = self._phases.pop()
            at = began + self._phase.at
            for budgets, others in self._budgets.values():
                self._let_others_in(at, budgets, others)
                budgets.scale(at, self._phase.limit_share)
                others.set_share(at, self._phase.foreign_share)
            self._begin(self._engine.scale(self._phase.limit_share))

    def _let_others_in(self, now: float, budgets: Budgets, others: Others) -> None:
        """Others take as much of every limit as of the requests; where it does not fit, they get nothing."""
        for at in others.until(now):
            costs = {
                unit: (limit or 0.0) / others.requests_per_minute for unit, limit in limits_of(self.settings).items()
            }
            costs[PER_DAY] = 1.0
            if budgets.admit(at, costs) is None:
                self.others_admitted(at, costs)

    def others_admitted(self, at: float, costs: Mapping[str, float]) -> None:  # noqa: ARG002  whoever keeps a log wants the time
        """A request of others was let in at that time, which may have passed before the arrival that brought it up."""
        self.foreign.update(costs)

    def _begin(self, begun: list[Plan]) -> None:
        for plan in begun:
            plan.queued = False
            self._slow_down(plan)
            if plan.begin is not None:
                plan.begin()

    def _slow_down(self, plan: Plan) -> None:
        if self.settings.batch_slowdown:
            plan.slow_down(1 + self.settings.batch_slowdown * (self._engine.busy - 1))

    # -- what a request gets

    def _plan(self, now: float, body: bytes, key: str | None) -> Plan:
        settings, arrived = self.settings, self._account.arrived
        if self._phase.outage is not None:
            return _struck_by(self._phase.outage)
        if settings.api_key not in (None, key) or arrived > self._key_refused_after:
            return refused("bad_key")
        if arrived > self._credit_gone_after:
            return refused("no_credit")
        if self._engine.busy >= self._max_in_flight * self._phase.limit_share:
            return refused("throttle_bare" if settings.full_status == 429 else "error_503")
        try:
            ask = answers.read(body)
        except RequestError as error:
            return invalid(error.message)
        if settings.models is not None and ask.model not in settings.models:
            return Plan(404, [answers.JSON], "model_not_found", answers.unknown_model(ask.model))
        return self._limited(now, ask, len(body))

    def _limited(self, now: float, ask: Ask, size_bytes: int) -> Plan:
        budgets, others = self._budgets.get(ask.model) or self._new_budgets(now, ask.model)
        if others.next_at <= now:
            self._let_others_in(now, budgets, others)
        case = self._case(ask)
        outcome = outcome_of(case, self.settings)
        told = told_of(case, self.settings, self._seed, outcome)
        inputs, outputs = self._reserved(case, size_bytes, told)
        costs = {
            "requests": 1,
            PER_DAY: 1,
            "tokens": inputs + outputs,
            "input-tokens": inputs,
            "output-tokens": outputs,
        }
        refusal = budgets.admit(now, costs)
        kind = self.settings.headers
        if refusal is not None:
            if kind == "none":
                return refused("throttle_bare")
            return Plan(429, [answers.JSON, *budgets.headers(now, kind), *refusal.headers], "throttled", refusal.body)
        plan = self._admitted(case, outcome, told)
        plan.admitted_at, plan.reserved_input, plan.reserved_output = now, inputs, outputs
        plan.headers += budgets.headers(now, kind)
        return plan

    def _new_budgets(self, now: float, model: str) -> tuple[Budgets, Others]:
        settings = self.settings
        limits = limits_of(settings)
        budgets = Budgets(model, limits, settings.burst_seconds, settings.window, settings.window_offset)
        budgets.scale(now, self._phase.limit_share)
        others = Others(self._seed, digest(model), settings.requests_per_minute)
        others.set_share(now, self._phase.foreign_share)
        self._budgets[model] = budgets, others
        return budgets, others

    def _case(self, ask: Ask) -> Case:
        text = ask.text()
        name = digest(text)
        number = int.from_bytes(name, "big")
        turn = self._account.turns(number)
        numbers = chances(self._seed, name, turn) if self._by_chance else _UNUSED
        return Case(ask, text, name, number, turn, numbers)

    def _reserved(self, case: Case, size_bytes: int, told: Told) -> tuple[float, float]:
        """Input and output tokens that are charged at admission."""
        settings = self.settings
        inputs: float = (size_bytes + 3) // 4
        outputs: float = settings.output_tokens or _DEFAULT_OUTPUT_TOKENS
        if settings.charge == "actual":
            inputs, outputs = told.input_tokens, told.output_tokens
        elif settings.charge == "reserved" and case.ask.limit is not None:
            outputs = case.ask.limit
        if settings.charge_scatter is not EXACT:
            numbers = chances(self._seed, case.name, case.turn, b"charge")
            factor = settings.charge_scatter.factor(numbers[0], numbers[1])
            inputs, outputs = inputs * factor, outputs * factor
        return inputs, outputs

    def _admitted(self, case: Case, outcome: str | None, told: Told) -> Plan:
        self._account.admitted(case.digest)
        plan = plan_of(case, self.settings, outcome, told)
        if plan.status == 200 or plan.status >= 500:
            plan = self._into_engine(plan)
        plan.model, plan.digest = case.ask.model, case.digest
        plan.headers.append((b"x-request-id", b"req_%b%d" % (case.name.hex().encode(), case.turn)))
        return plan

    def _into_engine(self, plan: Plan) -> Plan:
        match self._engine.enter(plan):
            case "answered":
                self._slow_down(plan)
            case "queued":
                plan.queued = True
            case "shed":
                return refused("error_503")
        plan.in_engine = True
        return plan

    def _settle(self, now: float, plan: Plan) -> None:
        if not self.settings.settled:
            return
        inputs, outputs = plan.input_tokens - plan.reserved_input, plan.output_tokens - plan.reserved_output
        differences = {"tokens": inputs + outputs, "input-tokens": inputs, "output-tokens": outputs}
        self._budgets[plan.model][0].settle(now, plan.admitted_at, {"requests": 0, PER_DAY: 0, **differences})


def _or_never(after: int | None) -> float:
    return math.inf if after is None else after


def _struck_by(outage: str) -> Plan:
    if outage == "error_503":
        return refused(outage)
    return Plan(0, [], outage, fault=outage)
