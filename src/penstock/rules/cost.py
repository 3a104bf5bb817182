"""What an answer cost: usage times rates. Never looks a rate up, and never guesses one."""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from penstock.records import Usage


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars per million tokens. `cached` is the rate of input that the provider had in its cache."""

    input: float
    output: float
    cached: float


def cost_of(usage: Usage, rates: Rates) -> float:
    """US dollars: `((input - cached) * input rate + cached * cached rate + output * output rate) / 10^6`.

    Cached tokens are part of the input, reasoning tokens of the output, as providers count them.
    """
    cached = min(usage.cached_tokens, usage.input_tokens)
    fresh = usage.input_tokens - cached
    return (fresh * rates.input + cached * rates.cached + usage.output_tokens * rates.output) / 1e6


class Tiers(msgspec.Struct, frozen=True):
    """Rates by the length of the prompt: `rates[i + 1]` holds for all tokens once the input exceeds `starts[i]`."""

    starts: tuple[int, ...]
    rates: tuple[Rates, ...]

    def cost(self, usage: Usage) -> float:
        """US dollars at the rates of the tier that the input reaches."""
        return cost_of(usage, self.rates[bisect_left(self.starts, usage.input_tokens)])
