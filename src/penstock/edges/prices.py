"""Prices out of the tables that genai-prices carries: loaded at the first question, never fetched from the network.

Decides what an answer cost, in US dollars. A price that is not known is None and never 0; a model on the user's own
machine has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from penstock.records import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

    from penstock.rules.cost import Tiers

Pricing: TypeAlias = Callable[[Usage], float | None]

# Our names of services, as genai-prices calls their providers.
_PROVIDERS = {
    "openai": "openai",
    "azure": "azure",
    "azure-v1": "azure",
    "anthropic": "anthropic",
    "gemini": "google",
    "mistral": "mistral",
    "groq": "groq",
    "together": "together",
    "openrouter": "openrouter",
    "deepseek": "deepseek",
}
_FREE = "builtin"

# With one of these, the plain rates of input, output and cached input are not the whole price.
_FURTHER_RATES = ("requests_kcount", "output_reasoning_mtok")


class GenaiPrices:
    """`ports.Prices` of one service. The first `cost` imports the tables, which takes about a second of CPU."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._pricing: dict[str, Pricing] = {}

    def cost(self, model: str, usage: Usage | None) -> float | None:
        """US dollars for one answer of a model; None where its price or its usage is not known."""
        if self._service == _FREE:
            return 0.0
        if usage is None:
            return None
        pricing = self._pricing.get(model)
        if pricing is None:
            pricing = self._pricing[model] = _pricing_of(_PROVIDERS.get(self._service), model)
        return pricing(usage)


def _pricing_of(provider: str | None, model: str) -> Pricing:
    """How one model is priced: by its rates of tokens, else by genai-prices' own slower arithmetic."""
    if provider is None:
        return _unknown
    from genai_prices import Usage as Counts
    from genai_prices import calc_price

    try:
        prices = calc_price(Counts(), model, provider_id=provider).model_price
    except LookupError:
        return _unknown
    tiers = _tiers(prices)
    return tiers.cost if tiers is not None else partial(_calculated, prices)


def _tiers(prices: ModelPrice) -> Tiers | None:
    """The rates of tokens, by tier; None where something else counts too, or a rate is missing."""
    from penstock.rules.cost import Rates, Tiers

    fresh, output = getattr(prices, "input_mtok", None), getattr(prices, "output_mtok", None)
    if fresh is None or output is None or any(getattr(prices, name, None) is not None for name in _FURTHER_RATES):
        return None
    cached = getattr(prices, "cache_read_mtok", None)
    three = (fresh, output, fresh if cached is None else cached)
    starts = sorted({tier.start for price in three for tier in getattr(price, "tiers", ())})
    return Tiers(
        starts=tuple(starts),
        rates=tuple(Rates(**_rates_at(three, input_tokens)) for input_tokens in (0, *(start + 1 for start in starts))),
    )


def _rates_at(three: Iterable[Decimal | TieredPrices], input_tokens: int) -> dict[str, float]:
    fresh, output, cached = (float(_rate_at(price, input_tokens)) for price in three)
    return {"input": fresh, "output": output, "cached": cached}


def _rate_at(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]  # tiers stand in ascending order
    return reached[-1] if reached else price.base


def _calculated(prices: ModelPrice, usage: Usage) -> float | None:
    from genai_prices import Usage as Counts

    told = (("input_mtok", usage.input_tokens), ("output_mtok", usage.output_tokens))
    if any(tokens and getattr(prices, name, None) is None for name, tokens in told):
        return None
    counts = Counts(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=min(usage.cached_tokens, usage.input_tokens) or None,
        output_reasoning_tokens=min(usage.reasoning_tokens, usage.output_tokens) or None,
    )
    return float(prices.calc_price(counts)["total_price"])


def _unknown(_: Usage) -> None:
    return None
