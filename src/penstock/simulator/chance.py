"""Chance without a generator: numbers drawn from a seed and a name, so that a run replays in whatever order things happen.

Pure. It decides how long a drawn time is and how large a drawn factor; never who draws.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import TypeAlias

import msgspec

from penstock.errors import UsageError

_five = struct.Struct("<5Q").unpack


def digest(text: str) -> bytes:
    """8 bytes that name a text."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def chances(seed: bytes, name: bytes, turn: int, purpose: bytes = b"") -> list[float]:
    """Five numbers in [0, 1) that depend on nothing but these; a seed has at most 64 bytes, a purpose 16."""
    drawn = hashlib.blake2b(name + turn.to_bytes(8, "little"), key=seed, digest_size=40, person=purpose).digest()
    return [(number >> 11) * 2.0**-53 for number in _five(drawn)]


def _normal(first: float, second: float) -> float:
    """A number from the standard normal distribution for two in [0, 1) (Box-Muller)."""
    return math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)


class Spread(msgspec.Struct, frozen=True):
    """A log-normal time in seconds, cut off at `low` and `high`: exp(ln(median) + sigma * N(0, 1))."""

    median: float
    sigma: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not (0 < self.median < math.inf and self.sigma >= 0 and self.low <= self.high):
            raise UsageError(
                "a spread of times needs a median above 0, a sigma from 0, and a low end below the high one"
            )

    @classmethod
    def between(cls, low: float, high: float) -> Spread:
        """None outside of `low` and `high`, 95 % of it before the cut (two sigmas reach to either end)."""
        if not 0 < low <= high < math.inf:
            raise UsageError(f"a spread of times must go from above 0 to something larger, not from {low} to {high}")
        return cls(math.sqrt(low * high), math.log(high / low) / 4, low, high)

    def draw(self, first: float, second: float) -> float:
        """The time for two numbers in [0, 1)."""
        return min(self.high, max(self.low, self.median * math.exp(self.sigma * _normal(first, second))))


Seconds: TypeAlias = float | Spread


def seconds(time: Seconds, first: float, second: float) -> float:
    """The time itself, or the one that a spread has for two numbers in [0, 1)."""
    return time.draw(first, second) if isinstance(time, Spread) else time


class Scatter(msgspec.Struct, frozen=True):
    """A log-normal factor whose mean is `bias`: 0.2 of `noise` spreads it by about 20 %."""

    bias: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.bias < math.inf and 0 <= self.noise < math.inf):
            raise UsageError(f"a scatter needs a bias above 0 and a noise from 0, not {self.bias!r} and {self.noise!r}")

    def factor(self, first: float, second: float) -> float:
        """The factor for two numbers in [0, 1)."""
        return self.bias * math.exp(self.noise * (_normal(first, second) - self.noise / 2))


EXACT = Scatter()
