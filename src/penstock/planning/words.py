"""What a forecast rests on, in words: what was supposed, what was learned, and what will not go well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from penstock.planning.simulation import Conditions, Pass
from penstock.rules.forecast import Outlook, Range, Shape

BATCH_SERVICES = frozenset({"openai", "anthropic", "gemini", "mistral", "groq"})
"""Services with a batch API at half the price, as their price lists say."""

FAILURES = {
    "never_fits": "need more than a whole limit allows and would be refused; shorten them or raise the limit",
    "deadline": "would not be answered within the deadline",
    "timeout": "would not be answered within the time-out, however often they are sent",
}
FAILED = "would fail"


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What the figures rest on: `looked_at` of `rows` rows; `in_flight` is how many at once are supposed, None where it is set."""

    conditions: Conditions
    outlook: Outlook
    shapes: Sequence[Shape]
    rows: int
    looked_at: int
    in_flight: Range | None


def assumptions(basis: Basis) -> tuple[str, ...]:
    """Everything that was supposed or learned, each as a phrase with its range."""
    return (*_of_answers(basis.outlook), *_of_provider(basis), *_of_sample(basis))


def _of_answers(outlook: Outlook) -> Iterator[str]:
    each = outlook.tokens_per_byte
    bytes_per_token = Range(1 / each.high, 1 / each.likely, 1 / each.low) if each.low > 0 else None
    if bytes_per_token is not None:
        yield f"{_ranged(bytes_per_token, '.1f')} bytes of text a token"
    yield f"{_ranged(outlook.output_tokens, ',.0f')} tokens an answer"
    yield f"{_ranged(outlook.latency_s, '.2g')} s an answer"
    if outlook.given_up:
        yield f"{outlook.given_up:,} rows were given up under way: they count by how long they had waited at least, so less is sure"
    if outlook.answers:
        yield f"{outlook.sends_per_row.likely:.3g} sends a row, {outlook.cached_share:.0%} of the input from the cache"
    else:
        yield f"at most {outlook.sends_per_row.high - 1:.0%} of the rows are sent twice; nothing comes from the cache"


def _ranged(figures: Range, form: str) -> str:
    return f"{figures.likely:{form}} ({figures.low:{form}} to {figures.high:{form}})"


def _of_provider(basis: Basis) -> Iterator[str]:
    limits = basis.conditions.rules.limits
    known = [
        f"{value:,.0f} {name.replace('_per_', ' a ').replace('_', ' ')}"
        for name, value in msgspec.structs.asdict(limits).items()
        if value is not None and name != "share"
    ]
    if known:
        share = f", {limits.share:.0%} of each used" if limits.share < 1 else ""
        yield f"limits as given ({'; '.join(known)}){share}, and nobody else on the key"
        yield "how much of a minute's limit goes at once is not known: all of it in the low case, a second's in the high one"
    else:
        yield "the account's limits are not known: an account that allows less takes longer; give --rpm and --tpm"
    if basis.in_flight is not None:
        yield f"{_ranged(basis.in_flight, ',.0f')} requests at once"
    else:
        yield f"at most {basis.conditions.rules.max_concurrency:,} requests at once, and no outage"
    if basis.conditions.provider.name in BATCH_SERVICES:
        yield "the batch price is half, as the provider's list says; its answers may take a day"


def _of_sample(basis: Basis) -> Iterator[str]:
    if basis.looked_at < basis.rows:
        yield f"{basis.looked_at:,} of {basis.rows:,} rows were looked at and stand for the others; `run` checks every row"
    if others := sum(shape.other_parts for shape in basis.shapes):
        yield f"parts that are no text (images, audio) are not counted: {others:,} in {len(basis.shapes):,} rows"


def warnings(likely: Pass) -> tuple[str, ...]:
    """What will not go well, by what failed in the simulation."""
    return tuple(
        f"{share:.1%} of the rows {FAILURES.get(kind, FAILED)} ({kind})"
        for kind, share in sorted(likely.failed.items())
    )
