"""How long a run would take: three cases through the simulation, and what a day's limits add. It puts no figure into words but what
sets the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.engine.gate import Rules
from penstock.planning.changes import PER_MINUTE, reasons
from penstock.planning.forecast import Change
from penstock.planning.simulation import FULL_BURST_S, STRICT_BURST_S, Conditions, Pass, simulate
from penstock.planning.words import warnings
from penstock.rules.forecast import LIMITS_UNKNOWN, NOISE, Outlook, Range, Shape, days_for

IN_FLIGHT = {"low": 1_000, "likely": 100, "high": 20}
"""How many go at once in front of a provider of which nothing is known, in the case of that side of the time."""

A_DAYS_LIMIT = "a day's limit"


class Time(msgspec.Struct, frozen=True):
    """The part of a `Forecast` that the simulation tells."""

    seconds: Range
    bound_by: str
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]


NO_TIME = Time(Range(0.0, 0.0, 0.0), "nothing: every row is recorded", (), ())


def time_of(conditions: Conditions, outlook: Outlook, shapes: Sequence[Shape], rows: int) -> Time:
    """The time of so many rows of these shapes."""
    time = _by_the_minute(conditions, outlook, shapes, rows)
    days = _by_the_day(conditions.rules, outlook, shapes, rows)
    if days <= time.seconds.likely:
        return time
    seconds = Range(days, days, max(days * NOISE, time.seconds.high))
    return msgspec.structs.replace(time, seconds=seconds, bound_by=A_DAYS_LIMIT, changes=())


def _by_the_minute(conditions: Conditions, outlook: Outlook, shapes: Sequence[Shape], rows: int) -> Time:
    """The likely time lies between a provider that lets a minute's limit through at once and one that does not."""

    def takes(side: str, burst_s: float) -> Pass:
        return simulate(_case(conditions, side), outlook.scenario(side), shapes, rows, burst_s)

    strict = takes("likely", STRICT_BURST_S)
    slow = strict.whole(rows)
    known = _rate_is_known(conditions.rules)
    fast = takes("likely", FULL_BURST_S).whole(rows) if known else slow
    low, high = takes("low", FULL_BURST_S).whole(rows), takes("high", STRICT_BURST_S).whole(rows)
    likely = (slow + fast) / 2
    bound_by, changes = reasons(_case(conditions, "likely"), outlook.scenario("likely"), shapes, rows, slow)
    return Time(
        Range(min(low, fast) / NOISE, likely, max(slow, high) * NOISE * (1.0 if known else LIMITS_UNKNOWN)),
        bound_by,
        tuple(Change(change.change, change.seconds * likely / slow) for change in changes),
        warnings(strict),
    )


def _rate_is_known(rules: Rules) -> bool:
    return any(getattr(rules.limits, name) is not None for name in PER_MINUTE)


def guesses_in_flight(rules: Rules) -> bool:
    """True where neither a limit nor the user says how many go at once: the engine finds it out as it runs."""
    return rules.adaptive and not _rate_is_known(rules)


def _case(conditions: Conditions, side: str) -> Conditions:
    """What is simulated on that side of the time. A day's limits, which no sample reaches, are added up instead."""
    rules = conditions.rules
    limits = msgspec.structs.replace(rules.limits, requests_per_day=None, tokens_per_day=None)
    rules = msgspec.structs.replace(rules, limits=limits)
    if guesses_in_flight(rules):
        most = min(IN_FLIGHT[side], rules.max_concurrency)
        rules = msgspec.structs.replace(rules, max_concurrency=most, adaptive=False)
    return msgspec.structs.replace(conditions, rules=rules)


def _by_the_day(rules: Rules, outlook: Outlook, shapes: Sequence[Shape], rows: int) -> float:
    """The seconds that a day's limits alone take."""
    limits, scenario = rules.limits, outlook.scenario("likely")
    tokens = sum(scenario.input_tokens(shape) + scenario.output_tokens for shape in shapes) / len(shapes)
    requests = rows * scenario.sends_per_row
    return max(
        days_for(requests, limits.requests_per_day, limits.share),
        days_for(requests * tokens, limits.tokens_per_day, limits.share),
    )
