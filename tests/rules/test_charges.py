"""F9: what a request is charged before and after its answer, exactly, by each provider's own rule."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.providers.catalog import SERVICES
from penstock.providers.openai import chat_completions
from penstock.records import HttpAnswer, Usage
from penstock.rules.charges import BUDGETS, CHARGE_RULES, NOTHING, USUAL, Charge, Estimate, charge_rule

ONE = Estimate(input_tokens=1_000.0, output_tokens=300.0, most_output=4_096)
UNBOUND = Estimate(input_tokens=1_000.0, output_tokens=300.0)
SHORT = Estimate(input_tokens=1_000.0, output_tokens=300.0, most_output=50)

MODELS = {
    "openai": ("openai", "gpt-5-mini"),
    "azure": ("azure", "gpt-5-mini"),
    "azure-v1": ("azure-v1", "gpt-5-mini"),
    "anthropic": ("anthropic", "claude-sonnet-4-5"),
    "groq": ("groq", "llama-3.3-70b-versatile"),
    "cerebras": ("cerebras", "llama-3.3-70b"),
    "bedrock": ("bedrock", "amazon.nova-pro-v1:0"),
    "bedrock claude": ("bedrock", "anthropic.claude-sonnet-4-20250514-v1:0"),
    "custom": ("custom", "m"),
}


def usage_of(recorded: dict[str, Any]) -> Usage:
    """The usage of an answer as it stood on the wire."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Tea."}, "finish_reason": "stop"}
    body = msgspec.json.encode({"model": "m", "choices": [choice], "usage": recorded})
    provider = chat_completions(SERVICES["openai"], base_url="http://127.0.0.1:1/v1", api_key="sk-canary")
    usage = provider.decode(HttpAnswer(200, [], body), 0.0).usage
    assert usage is not None
    return usage


PLAIN = {"prompt_tokens": 1_117, "completion_tokens": 209, "total_tokens": 1_326}
CACHED = {
    "prompt_tokens": 2_006,
    "completion_tokens": 300,
    "total_tokens": 2_306,
    "prompt_tokens_details": {"cached_tokens": 1_920},
    "completion_tokens_details": {"reasoning_tokens": 192},
}
LONG = {"prompt_tokens": 900, "completion_tokens": 5_000, "total_tokens": 5_900}


def test_every_rule_of_the_table_has_its_row_here() -> None:
    assert set(CHARGE_RULES) <= {service for service, _ in MODELS.values()}


@pytest.mark.parametrize(
    ("name", "estimate", "output"),
    [
        ("openai", ONE, 4_096),
        ("openai", UNBOUND, 300),
        ("openai", SHORT, 50),
        ("azure", ONE, 4_096),
        ("azure-v1", ONE, 4_096),
        ("anthropic", ONE, 300),
        ("anthropic", UNBOUND, 300),
        ("anthropic", SHORT, 50),
        ("groq", ONE, 4_096),
        ("cerebras", ONE, 4_096),
        ("bedrock", ONE, 4_096),
        ("bedrock", UNBOUND, 64_000),
        ("bedrock claude", ONE, 5 * 4_096),
        ("bedrock claude", UNBOUND, 5 * 64_000),
        ("bedrock claude", SHORT, 5 * 50),
        ("custom", ONE, 4_096),
        ("custom", UNBOUND, 300),
    ],
)
def test_what_is_reserved_when_a_request_goes_out(name: str, estimate: Estimate, output: float) -> None:
    """`max_tokens` is reserved, or what answers usually take; Anthropic counts what is produced; Claude on Bedrock fivefold."""
    assert charge_rule(*MODELS[name]).before(estimate) == Charge(1, 1_000 + output, 1_000, output)


@pytest.mark.parametrize(
    ("name", "recorded", "inputs", "outputs"),
    [
        # Nothing is given back of what was reserved (4,096); more than that is owed.
        ("openai", PLAIN, 1_117, 4_096),
        ("openai", CACHED, 2_006, 4_096),
        ("openai", LONG, 900, 5_000),
        ("azure", PLAIN, 1_117, 4_096),
        ("azure-v1", CACHED, 2_006, 4_096),
        # As produced; what was read from the cache is free.
        ("anthropic", PLAIN, 1_117, 209),
        ("anthropic", CACHED, 86, 300),
        ("anthropic", LONG, 900, 5_000),
        ("groq", PLAIN, 1_117, 209),
        ("groq", CACHED, 86, 300),
        ("cerebras", PLAIN, 1_117, 209),
        ("cerebras", CACHED, 2_006, 300),
        ("bedrock", PLAIN, 1_117, 209),
        ("bedrock", CACHED, 86, 300),
        ("bedrock claude", PLAIN, 1_117, 1_045),
        ("bedrock claude", CACHED, 86, 1_500),
        ("custom", PLAIN, 1_117, 209),
        ("custom", CACHED, 2_006, 300),
    ],
)
def test_what_a_request_has_cost_by_the_usage_that_came_back(
    name: str, recorded: dict[str, Any], inputs: float, outputs: float
) -> None:
    rule = charge_rule(*MODELS[name])
    assert rule.after(usage_of(recorded), ONE.most_output) == Charge(1, inputs + outputs, inputs, outputs)


def test_what_no_request_named_was_never_reserved() -> None:
    rule = CHARGE_RULES["openai"]
    assert rule.after(usage_of(PLAIN), None) == Charge(1, 1_117 + 209, 1_117, 209)


@pytest.mark.parametrize("model", ["us.anthropic.claude-opus-4-1-20250805-v1:0", "anthropic.claude-sonnet-4-v1:0"])
def test_claude_burns_five_tokens_for_one_on_bedrock_only(model: str) -> None:
    assert charge_rule("bedrock", model).output_weight == 5.0
    assert charge_rule("openrouter", model).output_weight == 1.0


def test_a_service_that_nothing_is_known_of_reserves_and_gives_back() -> None:
    assert charge_rule("vllm", "m") is USUAL


@pytest.mark.parametrize(("service", "slice_seconds"), [("azure", 0.1), ("azure-v1", 0.1), ("openai", 0.6)])
def test_no_more_goes_at_once_than_the_slice_that_a_provider_judges(service: str, slice_seconds: float) -> None:
    assert charge_rule(service, "m").slice_seconds == slice_seconds


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_charge_tells_what_it_takes_from_each_budget(budget: str) -> None:
    charge = Charge(1, 30, 20, 10)
    expected = {"requests": 1, "tokens": 30, "input": 20, "output": 10}[budget.partition("_")[0]]
    assert charge.of(budget) == expected
    assert NOTHING.of(budget) == 0
