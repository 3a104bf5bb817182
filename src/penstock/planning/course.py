"""The course of a plan: look at a sample, learn from what is recorded, simulate three cases, add up, tell.

It sends nothing and writes nothing. How requests are paced and tried again is the engine's, what tokens cost the prices'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from penstock.errors import InputError, RequestError, UsageError, request_error
from penstock.options import Timeouts
from penstock.planning.forecast import Forecast, shortened
from penstock.planning.learning import NO_PAST, Lessons, Past, learn
from penstock.planning.sample import ERRORS_SHOWN, Sample, Source, draw
from penstock.planning.simulation import Conditions, workers_of
from penstock.planning.timing import IN_FLIGHT, NO_TIME, guesses_in_flight, time_of
from penstock.planning.words import BATCH_SERVICES, Basis, assumptions
from penstock.ports import AnswerStream
from penstock.records import HttpAnswer, HttpCall, RawRow, Row, Usage
from penstock.rules.forecast import SIDES, Outlook, Range, Shape, learned, supposed

BATCH_SHARE = 0.5


class Unconnected:
    """`ports.Transport` of a client that only plans: it reaches nobody, and whoever sends by it is told so."""

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:  # noqa: ARG002  the port's
        raise _not_sent()

    def stream(self, call: HttpCall, timeouts: Timeouts) -> AbstractAsyncContextManager[AnswerStream]:  # noqa: ARG002
        raise _not_sent()

    async def aclose(self) -> None:
        """Nothing is open."""


def _not_sent() -> RequestError:
    return request_error("connect", "this client was made to plan and sends nothing: make another one to send")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before the simulation: `shapes` stand for the `left` rows that would be sent."""

    rows: int
    left: int
    looked_at: int
    shapes: Sequence[Shape]
    outlook: Outlook
    first_body: bytes | None


async def plan(
    conditions: Conditions,
    render: Callable[[RawRow], Row],
    source: Source,
    *,
    past: Past = NO_PAST,
    limit: int | None = None,
) -> Forecast:
    """What the rows of a source would take, up to `limit` of them, less those that are recorded in the past.

    The simulation runs in a thread. Raises `InputError` for rows of the sample that can never be sent, and `UsageError` where
    there is no row.
    """
    sample = Sample(render, conditions.provider, conditions.model)
    await draw(sample, source, past.state, limit)
    _refuse(sample)
    lessons = await learn(past, sample.done, workers_of(conditions.rules))
    shapes = [*sample.left.items, *lessons.changed]
    # What of the sample has changed since stands for as much of all recorded rows.
    again = round(sample.done.seen * len(lessons.changed) / max(1, len(sample.done.items)))
    seen = Seen(
        rows=sample.rows,
        left=sample.left.seen + again,
        looked_at=len(sample.left.items) + len(sample.done.items),
        shapes=shapes,
        outlook=_outlook(lessons, shapes),
        first_body=sample.first_body,
    )
    return await asyncio.to_thread(_forecast, conditions, seen)


def _outlook(lessons: Lessons, shapes: Sequence[Shape]) -> Outlook:
    if not lessons.answers:
        return supposed(_token_limit(shapes))
    return learned(lessons.answers, lessons.waiting_s)


def _refuse(sample: Sample) -> None:
    """Raise for rows that can never be sent, as a run does, and for an input without rows."""
    if sample.errors:
        first, *others = sample.errors
        lines = [first.reason, *map(str, others)]
        if len(sample.errors) >= ERRORS_SHOWN:
            lines.append("(there may be more)")
        if not (sample.left.whole and sample.done.whole):
            lines.append(f"(only some of {sample.rows:,} rows were looked at: others may be bad too; a run checks all)")
        raise InputError(first.where, "\n".join(lines))
    if not sample.rows:
        raise UsageError("there are no rows to plan for")


def _token_limit(shapes: Sequence[Shape]) -> int | None:
    """The longest answer that any row allows; None where one allows any length."""
    limits = [shape.most_output for shape in shapes]
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def _forecast(conditions: Conditions, seen: Seen) -> Forecast:
    fields: dict[str, Any] = {
        "model": f"{conditions.provider.name}/{conditions.model}",
        "rows": seen.rows,
        "recorded": seen.rows - seen.left,
        "left": seen.left,
        "looked_at": seen.looked_at,
        "learned_from": seen.outlook.answers,
        "first_request": None if seen.first_body is None else shortened(msgspec.json.decode(seen.first_body)),
    }
    return Forecast(**fields, **_sums(conditions, seen), **_course(conditions, seen))


def _sums(conditions: Conditions, seen: Seen) -> dict[str, Any]:
    """What all rows left take together: each of the sample stands for as many."""
    factor = seen.left / max(1, len(seen.shapes))
    scenarios = [seen.outlook.scenario(side) for side in SIDES]
    usages = [list(scenario.usages(seen.shapes)) for scenario in scenarios]
    costs = [_cost(conditions, seen.shapes, side) for side in usages]
    known = [cost for cost in costs if cost is not None]
    cost = Range(*known).times(factor) if len(known) == len(costs) else None
    batch = cost is not None and conditions.provider.name in BATCH_SERVICES
    return {
        "requests": seen.outlook.sends_per_row.times(seen.left),
        "input_tokens": Range(*(sum(usage.input_tokens for usage in side) for side in usages)).times(factor),
        "output_tokens": Range(*(sum(usage.output_tokens for usage in side) for side in usages)).times(factor),
        "cost": cost,
        "batch_cost": cost.times(BATCH_SHARE) if cost is not None and batch else None,
    }


def _cost(conditions: Conditions, shapes: Sequence[Shape], usages: Sequence[Usage]) -> float | None:
    """US dollars of the sample; None where the price of one row is not known."""
    total = 0.0
    for shape, usage in zip(shapes, usages, strict=True):
        cost = conditions.prices.cost(shape.model, usage)
        if cost is None:
            return None
        total += cost
    return total


def _course(conditions: Conditions, seen: Seen) -> dict[str, Any]:
    """The time, what sets it, what would shorten it, and what that rests on."""
    guessed = guesses_in_flight(conditions.rules)
    basis = Basis(
        conditions=conditions,
        outlook=seen.outlook,
        shapes=seen.shapes,
        rows=seen.rows,
        looked_at=seen.looked_at,
        in_flight=Range(*sorted(map(float, IN_FLIGHT.values()))) if guessed else None,
    )
    time = time_of(conditions, seen.outlook, seen.shapes, seen.left) if seen.shapes else NO_TIME
    return msgspec.structs.asdict(time) | {"assumptions": assumptions(basis)}
