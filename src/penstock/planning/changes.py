"""What sets the time of a run and what would shorten it: each change is simulated, and told only where it helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from penstock.planning.forecast import Change, duration
from penstock.planning.simulation import STRICT_BURST_S, Conditions, simulate
from penstock.rules.forecast import Scenario, Shape

HELPS = 0.95
"""A change is told where it takes at least 5 % off the time."""

PER_MINUTE = (
    "requests_per_minute",
    "tokens_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
)
LONG_ANSWERS = 0.995
MARGIN = 1.1
"""A tight token limit: a tenth above what 99.5 % of the answers have."""

INPUT_ITSELF = "the input itself: its rows are done before any limit binds"
SEVERAL = "several limits at once"


class Alternative(msgspec.Struct, frozen=True):
    """The same run with one thing changed. `cause` is what sets the time if that helps."""

    cause: str
    change: str
    conditions: Conditions
    shapes: Sequence[Shape]


def reasons(
    conditions: Conditions, scenario: Scenario, shapes: Sequence[Shape], rows: int, seconds: float
) -> tuple[str, tuple[Change, ...]]:
    """What sets the time of a run that takes so many seconds in front of a strict provider, and the changes that shorten it, best
    first."""

    def takes(alternative: Alternative) -> float:
        return simulate(alternative.conditions, scenario, alternative.shapes, rows, STRICT_BURST_S).whole(rows)

    single = list(_alternatives(conditions, scenario, shapes))
    helpful = _helpful(single, takes, seconds)
    if not helpful and len(single) > 1:
        helpful = _helpful([_all_doubled(conditions, shapes)], takes, seconds)
    cause = helpful[0][1].cause if helpful else INPUT_ITSELF
    return cause, tuple(Change(alternative.change, took) for took, alternative in helpful)


def _helpful(
    alternatives: Sequence[Alternative], takes: Callable[[Alternative], float], seconds: float
) -> list[tuple[float, Alternative]]:
    taken = [(takes(alternative), alternative) for alternative in alternatives]
    return sorted((pair for pair in taken if pair[0] <= HELPS * seconds), key=lambda pair: pair[0])


def _alternatives(conditions: Conditions, scenario: Scenario, shapes: Sequence[Shape]) -> Iterator[Alternative]:
    limits = conditions.rules.limits
    for name in PER_MINUTE:
        if (limit := getattr(limits, name)) is not None:
            words = name.replace("_per_minute", "").replace("_", " ") + " a minute"
            changed = _with_limits(conditions, **{name: 2 * limit})
            yield Alternative(f"{words} ({limit:,.0f})", f"twice the {words} ({2 * limit:,.0f})", changed, shapes)
    most = conditions.rules.max_concurrency
    cause = f"concurrency x latency ({most:,} at once, {duration(scenario.latency_s)} an answer)"
    yield Alternative(cause, f"twice as many at once ({2 * most:,})", _with_concurrency(conditions, 2 * most), shapes)
    if any(getattr(limits, name) is not None for name in PER_MINUTE[1:]):
        yield from _tighter(conditions, scenario, shapes)


def _tighter(conditions: Conditions, scenario: Scenario, shapes: Sequence[Shape]) -> Iterator[Alternative]:
    """The same with the token limit of each request just above what answers have, where that is less."""
    tight = math.ceil(MARGIN * scenario.output_at(LONG_ANSWERS, None))
    wide = max((shape.most_output or 0 for shape in shapes), default=0)
    if wide <= tight:
        return
    tightened = [
        msgspec.structs.replace(shape, most_output=min(tight, shape.most_output)) if shape.most_output else shape
        for shape in shapes
    ]
    used = round(scenario.output_tokens)
    yield Alternative(
        f"max_tokens: {wide:,} are reserved for an answer that has {used:,}",
        f"max_tokens {tight:,} in place of {wide:,} (an answer has {used:,})",
        conditions,
        tightened,
    )


def _all_doubled(conditions: Conditions, shapes: Sequence[Shape]) -> Alternative:
    limits = conditions.rules.limits
    doubled = {name: 2 * getattr(limits, name) for name in PER_MINUTE if getattr(limits, name) is not None}
    changed = _with_concurrency(_with_limits(conditions, **doubled), 2 * conditions.rules.max_concurrency)
    return Alternative(SEVERAL, "twice as much of every limit, and twice as many at once", changed, shapes)


def _with_limits(conditions: Conditions, **limits: float) -> Conditions:
    rules = conditions.rules
    changed = msgspec.structs.replace(rules, limits=msgspec.structs.replace(rules.limits, **limits))
    return msgspec.structs.replace(conditions, rules=changed)


def _with_concurrency(conditions: Conditions, most: int) -> Conditions:
    return msgspec.structs.replace(conditions, rules=msgspec.structs.replace(conditions.rules, max_concurrency=most))
