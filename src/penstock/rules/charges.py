"""What one request costs each budget, before and after its answer, by each provider's own rule. Data; it keeps no state.

Providers differ in what they take from a limit when a request arrives: the tokens that it may produce at most, or none
until they are produced; in whether they give back what was not used; in what a cached token counts. A rule here is a row of
that table (FLOW-CONTROL C2 has the sources).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from penstock.records import Usage

MINUTE, DAY = 60.0, 86_400.0

BUDGETS: dict[str, tuple[str, float]] = {
    "requests_per_minute": ("requests", MINUTE),
    "tokens_per_minute": ("tokens", MINUTE),
    "input_tokens_per_minute": ("input_tokens", MINUTE),
    "output_tokens_per_minute": ("output_tokens", MINUTE),
    "requests_per_day": ("requests", DAY),
    "tokens_per_day": ("tokens", DAY),
}
"""The budgets by name: the column of a charge that they count, and their period in seconds."""


class Charge(NamedTuple):
    """Units that one request takes from the budgets that count them."""

    requests: float = 1.0
    tokens: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    def of(self, budget: str) -> float:
        """The units that this charge takes from the budget of that name."""
        return float(getattr(self, BUDGETS[budget][0]))


NOTHING = Charge(requests=0.0)
"""What a request costs that was never sent."""

ONE_REQUEST = Charge()
"""What it costs where no limit counts tokens."""


class Estimate(NamedTuple):
    """Tokens that one request is expected to take; `most_output` is its own limit, None where it has none."""

    input_tokens: float
    output_tokens: float
    most_output: int | None = None


class ChargeRule(msgspec.Struct, frozen=True, kw_only=True):
    """How one provider charges its limits.

    `reserves_limit`: a request's `max_tokens` is taken at admission (where it has none: what answers usually take).
    `unset_output`: what is taken at admission where a request names no limit; None: what answers usually take.
    `gives_back`: output that was reserved and not produced returns once the answer is there. More than that is always owed.
    `cached_weight`, `output_weight`: what a cached input token and an output token count.
    `slice_seconds`: how much of a minute's limit may be used at once, where a provider judges shorter slices.
    `doubling_seconds`: a sharp rise is refused; the rate may double in so long (None: it may rise at once).
    """

    reserves_limit: bool = True
    unset_output: int | None = None
    gives_back: bool = True
    cached_weight: float = 1.0
    output_weight: float = 1.0
    slice_seconds: float = 0.6
    doubling_seconds: float | None = None

    def before(self, estimate: Estimate) -> Charge:
        """What is reserved when a request goes out."""
        output = estimate.output_tokens
        if self.reserves_limit:
            if estimate.most_output is not None:
                output = float(estimate.most_output)
            elif self.unset_output is not None:
                output = float(self.unset_output)
        elif estimate.most_output is not None:
            output = min(output, estimate.most_output)
        return _charge(estimate.input_tokens, output * self.output_weight)

    def after(self, usage: Usage, most_output: int | None) -> Charge:
        """What it has cost in the end, by the usage that came back and the limit that the request named."""
        output = usage.output_tokens
        if not self.gives_back and most_output is not None:
            output = max(output, most_output)
        cached = usage.cached_tokens * (1.0 - self.cached_weight)
        return _charge(usage.input_tokens - cached, output * self.output_weight)


def _charge(input_tokens: float, output_tokens: float) -> Charge:
    return Charge(1.0, input_tokens + output_tokens, input_tokens, output_tokens)


USUAL = ChargeRule()
"""Where nothing is known: `max_tokens` is reserved and what was not used comes back, as in most gateways and engines."""

CHARGE_RULES: dict[str, ChargeRule] = {
    # Nothing is documented of a refund, and 429s name the whole reservation; the remaining-headers correct us upwards.
    "openai": ChargeRule(gives_back=False),
    # The requests of a minute are judged over slices of one or ten seconds.
    "azure": ChargeRule(gives_back=False, slice_seconds=0.1),
    "azure-v1": ChargeRule(gives_back=False, slice_seconds=0.1),
    # Output counts as it is produced; reading the cache is free; a sharp rise of traffic is throttled.
    "anthropic": ChargeRule(reserves_limit=False, cached_weight=0.0, doubling_seconds=60.0),
    "groq": ChargeRule(cached_weight=0.0),
    # Settled after the answer, without what was read from the cache; unset max_tokens is the model's most.
    "bedrock": ChargeRule(unset_output=64_000, cached_weight=0.0),
    "cerebras": ChargeRule(),
}
BEDROCK_CLAUDE = msgspec.structs.replace(CHARGE_RULES["bedrock"], output_weight=5.0)
"""Claude models from version 4 on burn five tokens of the quota for each that they produce."""


def charge_rule(service: str, model: str) -> ChargeRule:
    """The rule of a model at a service."""
    if service == "bedrock" and "claude" in model:
        return BEDROCK_CLAUDE
    return CHARGE_RULES.get(service, USUAL)
