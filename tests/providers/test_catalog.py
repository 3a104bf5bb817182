"""The catalogue of services: what a model name means, and what every entry must say."""

from __future__ import annotations

import re

import pytest

from penstock.errors import UsageError
from penstock.providers.catalog import SERVICES, split_model


@pytest.mark.parametrize(
    ("model", "service", "bare"),
    [
        ("openai/gpt-5-mini", "openai", "gpt-5-mini"),
        ("gpt-5-mini", "openai", "gpt-5-mini"),
        ("openrouter/openai/gpt-4.1-mini", "openrouter", "openai/gpt-4.1-mini"),
        ("together/meta-llama/Llama-3.3-70B", "together", "meta-llama/Llama-3.3-70B"),
        ("vllm/Qwen/Qwen3-8B", "vllm", "Qwen/Qwen3-8B"),
        ("builtin/extractive", "builtin", "extractive"),
        ("custom/anything", "custom", "anything"),
        ("azure/my-deployment", "azure", "my-deployment"),
    ],
)
def test_only_the_first_slash_divides_provider_and_model(model: str, service: str, bare: str) -> None:
    found, name = split_model(model)
    assert (found.name, name) == (service, bare)


def test_with_a_base_url_an_unknown_first_word_belongs_to_the_model() -> None:
    service, name = split_model("Qwen/Qwen3-8B", "http://localhost:9000/v1")
    assert (service.name, name) == ("custom", "Qwen/Qwen3-8B")


def test_an_unknown_provider_is_refused_with_the_known_ones_and_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"'opneai'.*openai, azure.*custom/NAME.*--base-url"):
        split_model("opneai/gpt-5-mini")


@pytest.mark.parametrize("model", ["", "openai/", "openai/ ", "custom/"])
def test_an_empty_model_name_is_refused(model: str) -> None:
    with pytest.raises(UsageError, match="no model name"):
        split_model(model)


def test_a_key_goes_by_https_to_every_service_beyond_this_machine() -> None:
    for service in SERVICES.values():
        assert service.base_url is None or re.match(r"https://|http://localhost:", service.base_url), service.name


def test_every_service_that_needs_a_key_names_where_it_is_kept() -> None:
    assert {service.name for service in SERVICES.values() if service.key_needed and not service.key_variables} == set()


@pytest.mark.parametrize(
    ("service", "given", "sent"),
    [
        ("openai", "max_tokens", "max_completion_tokens"),
        ("openai", "max_completion_tokens", "max_completion_tokens"),
        ("azure", "max_tokens", "max_completion_tokens"),
        ("groq", "max_tokens", "max_completion_tokens"),
        ("mistral", "max_completion_tokens", "max_tokens"),
        ("together", "max_completion_tokens", "max_tokens"),
        ("openrouter", "max_completion_tokens", "max_tokens"),
        ("deepseek", "max_completion_tokens", "max_tokens"),
        ("ollama", "max_completion_tokens", "max_tokens"),
        ("vllm", "max_completion_tokens", "max_completion_tokens"),
        ("vllm", "max_tokens", "max_tokens"),
        ("gemini", "max_tokens", "max_tokens"),
        ("anthropic", "max_tokens", "max_tokens"),
        ("custom", "max_tokens", "max_tokens"),
        ("mistral", "seed", "random_seed"),
    ],
)
def test_a_limit_goes_out_under_the_name_that_the_service_obeys(service: str, given: str, sent: str) -> None:
    assert SERVICES[service].renamed.get(given, given) == sent
