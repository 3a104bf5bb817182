"""What a trial of the flow control is made of: a server, what the client is told of it, rows, and the figures that must hold.

10,000 requests in about 15 virtual minutes: each limit is chosen so. The servers themselves are in `servers`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import msgspec

from penstock.options import Limits
from penstock.simulator.behaviour import Settings, Spread

ROWS = 10_000
MINUTES = 15.0
SEEDS = range(1, 21)
FIRST_HALF, SECOND_HALF = SEEDS[:10], SEEDS[10:]

ARRIVAL = Spread.between(0.02, 0.35)
"""20 to 350 ms on the way, 84 ms in the median; 2.3 % take the whole 350."""

MEAN_TOKENS, SIGMA, MOST_TOKENS = 1_400.0, 0.8, 8_000
OUTPUT_TOKENS = 16
"""Constant and known to the client by `max_tokens`, so that a charge can be exact; the prompts are what differs."""

_ANSWER = "four" * OUTPUT_TOKENS
_FILLER = "the quick brown fox jumps over the lazy dog, " * 800


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold of one run; None is not asked. Shares are of 1, the first minute and 30 s from the first admission."""

    least_use: float | None = None
    most_throttled: int | None = None
    most_throttled_first: int | None = None
    most_throttled_steady: int | None = None
    most_throttled_share: float | None = None
    most_extra_throttles: int | None = None
    least_recovered: float | None = None
    most_sends_a_row: float | None = None
    most_in_flight: int | None = None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One seed of a model. `available` is what the server lets through: (from so many seconds after the first arrival on,
    units a minute); after each change of it the client must recover. `unit` is requests or tokens."""

    settings: Settings
    available: tuple[tuple[float, float], ...]
    figures: Figures
    limits: Limits = Limits()
    unit: str = "requests"

    def rows(self, count: int) -> Iterator[str]:
        """The prompts."""
        return prompts(count) if self.unit == "requests" else sized_prompts(count, self.settings.seed)


class Model(msgspec.Struct, frozen=True):
    """One kind of server, as a trial for any seed; `seeds` are those that every run of the tests tries."""

    name: str
    trial: Callable[[int], Trial]
    seeds: range = SEEDS


def prompts(count: int) -> Iterator[str]:
    """As small as can be: what is limited is their number."""
    return (f"row {index}" for index in range(count))


def sized_prompts(count: int, seed: int) -> Iterator[str]:
    """Prompts of log-normal length that come to about `MEAN_TOKENS` with their answers."""
    chance = random.Random(seed)
    mu = math.log(MEAN_TOKENS - OUTPUT_TOKENS) - SIGMA**2 / 2
    for index in range(count):
        yield prompt_of(index, min(MOST_TOKENS, chance.lognormvariate(mu, SIGMA)))


def prompt_of(index: int, tokens: float) -> str:
    """A prompt of that many tokens, at four bytes each."""
    head = f"row {index} "
    missing = max(0, round(4 * tokens) - len(head))
    return head + _FILLER * (missing // len(_FILLER)) + _FILLER[: missing % len(_FILLER)]


def same_answer(_: str, __: int | None) -> str:
    """An answer of `OUTPUT_TOKENS` tokens that takes no time to make."""
    return _ANSWER
