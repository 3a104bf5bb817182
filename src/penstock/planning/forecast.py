"""What `plan` tells, as fields and as the text that a person reads. It decides how figures are put into words, nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from penstock.rules.forecast import SIDES, Range

CUT_CHARACTERS = 400
"""A longer text in the request that is shown is cut, with a note."""

WIDTH = 16


class Change(msgspec.Struct, frozen=True):
    """One thing done otherwise, and the seconds that the same rows then take in the simulation."""

    change: str
    seconds: float


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would take. Nothing was sent.

    `rows` are in the input, `recorded` of them need not be sent, `left` would be; `looked_at` were rendered. The figures are of the
    rows left. `cost` is in US dollars, None where the price is not known; `batch_cost` at the provider's batch price, None where
    there is none. `bound_by` names what sets the time, `changes` what would shorten it. `learned_from` counts the recorded answers
    behind the figures, 0 where they are supposed. `first_request` is the first body that would be sent, long texts cut.
    """

    model: str
    rows: int
    recorded: int
    left: int
    looked_at: int
    requests: Range
    input_tokens: Range
    output_tokens: Range
    cost: Range | None
    batch_cost: Range | None
    seconds: Range
    bound_by: str
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...]
    learned_from: int
    first_request: Any

    def __str__(self) -> str:
        return "\n".join([*_head(self), *_table(self), *_reasons(self), *_first(self)])


def _head(forecast: Forecast) -> list[str]:
    rows = f"{forecast.rows:,} rows for {forecast.model}; nothing was sent"
    if not forecast.recorded:
        return [rows]
    return [rows, f"{forecast.recorded:,} are recorded already, {forecast.left:,} are left; the figures are of those"]


def _table(forecast: Forecast) -> list[str]:
    lines: list[tuple[str, Iterable[str]]] = [
        ("", SIDES),
        ("requests", map(_count, sides_of(forecast.requests))),
        ("tokens in", map(_count, sides_of(forecast.input_tokens))),
        ("tokens out", map(_count, sides_of(forecast.output_tokens))),
        ("cost", _prices(forecast.cost)),
    ]
    if forecast.batch_cost is not None:
        lines.append(("at batch price", _prices(forecast.batch_cost)))
    lines.append(("time", map(duration, sides_of(forecast.seconds))))
    return [f"{name:<15}" + "".join(f"{figure:>{WIDTH}}" for figure in figures) for name, figures in lines]


def _count(figure: float) -> str:
    return f"{figure:,.0f}"


def _prices(cost: Range | None) -> tuple[str, ...]:
    return ("unknown",) * len(SIDES) if cost is None else tuple(map(dollars, sides_of(cost)))


def _reasons(forecast: Forecast) -> list[str]:
    lines = [f"the time is set by {forecast.bound_by}"]
    lines += [f"  {change.change}: {duration(change.seconds)}" for change in forecast.changes]
    lines += [f"warning: {warning}" for warning in forecast.warnings]
    told = (
        f"learned from {forecast.learned_from:,} answers" if forecast.learned_from else "assumed, no answer being seen"
    )
    return [*lines, f"{told}:", *(f"  - {assumption}" for assumption in forecast.assumptions)]


def _first(forecast: Forecast) -> list[str]:
    if forecast.first_request is None:
        return []
    return ["the first request:", msgspec.json.format(msgspec.json.encode(forecast.first_request)).decode()]


def sides_of(figures: Range) -> tuple[float, float, float]:
    """Low, likely, high."""
    return figures.low, figures.likely, figures.high


def duration(seconds: float) -> str:
    """A time for a person: `4.2 s`, `12 min 05 s`, `3 h 07 min`, `4 d 02 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def dollars(cost: float) -> str:
    """Dollars for a person, small sums with four places."""
    return f"${cost:,.2f}" if cost >= 1 or cost == 0 else f"${cost:.4f}"


def shortened(value: Any) -> Any:
    """The same JSON with its long texts cut."""
    if isinstance(value, dict):
        return {key: shortened(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shortened(part) for part in value]
    if isinstance(value, str) and len(value) > CUT_CHARACTERS:
        return f"{value[:CUT_CHARACTERS]} [cut: {len(value) - CUT_CHARACTERS:,} more characters]"
    return value
