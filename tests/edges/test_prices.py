"""Prices out of genai-prices: the dollars of its own arithmetic, None for what is unknown, nothing loaded early."""

from __future__ import annotations

import subprocess
import sys

import pytest
from genai_prices import Usage as Counts
from genai_prices import calc_price

from penstock.edges.prices import GenaiPrices
from penstock.records import Usage


@pytest.mark.parametrize("input_tokens", [0, 1, 1_000, 200_000, 200_001, 3_000_000])
@pytest.mark.parametrize(
    ("service", "provider", "model"),
    [
        ("openai", "openai", "gpt-5-mini"),
        ("azure", "azure", "gpt-4o"),
        ("azure-v1", "azure", "gpt-4o"),
        ("gemini", "google", "gemini-2.5-pro"),
        ("anthropic", "anthropic", "claude-sonnet-4-5"),
        ("mistral", "mistral", "mistral-small-latest"),
        ("deepseek", "deepseek", "deepseek-chat"),
        ("openrouter", "openrouter", "openai/gpt-4.1-mini"),
        ("openrouter", "openrouter", "perplexity/sonar-deep-research"),
    ],
)
def test_dollars_are_those_of_the_tables_in_every_tier(
    service: str, provider: str, model: str, input_tokens: int
) -> None:
    cached, reasoning = input_tokens // 3, 40
    counts = Counts(
        input_tokens=input_tokens, output_tokens=100, cache_read_tokens=cached, output_reasoning_tokens=reasoning
    )
    told = calc_price(counts, model, provider_id=provider).total_price
    cost = GenaiPrices(service).cost(model, Usage(input_tokens, 100, cached, reasoning))
    assert cost == pytest.approx(float(told))
    assert cost


@pytest.mark.parametrize(
    ("service", "model"),
    [
        ("openai", "no-such-model"),
        ("custom", "gpt-5-mini"),
        ("vllm", "gpt-5-mini"),
        ("ollama", "llama3.2"),
        ("openai", "text-embedding-3-small"),
        ("nonsuch", "gpt-5-mini"),
    ],
)
def test_an_unknown_price_is_none_and_never_zero(service: str, model: str) -> None:
    prices = GenaiPrices(service)
    assert prices.cost(model, Usage(1_000, 100)) is None
    assert prices.cost(model, Usage(1_000, 100)) is None


def test_without_usage_the_cost_is_unknown() -> None:
    assert GenaiPrices("openai").cost("gpt-5-mini", None) is None


def test_the_built_in_model_costs_nothing() -> None:
    assert GenaiPrices("builtin").cost("extractive", Usage(10, 10)) == 0.0
    assert GenaiPrices("builtin").cost("extractive", None) == 0.0


def test_more_cached_tokens_than_input_are_no_discount_below_the_cached_rate() -> None:
    prices = GenaiPrices("openai")
    assert prices.cost("gpt-5-mini", Usage(100, 0, 5_000)) == prices.cost("gpt-5-mini", Usage(100, 0, 100))


def test_the_tables_load_at_the_first_question_and_nothing_is_fetched() -> None:
    program = """
import sys, socket
from penstock.edges.prices import GenaiPrices
from penstock.records import Usage
prices = GenaiPrices("openai")
assert "genai_prices" not in sys.modules
def refuse(*_): raise AssertionError("a look at the network")
socket.socket.connect = socket.getaddrinfo = refuse
import threading
assert prices.cost("gpt-5-mini", Usage(1_000_000)) > 0
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
