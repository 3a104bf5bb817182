"""Base URLs and headers: every usual spelling is understood, everything else is refused before a key goes anywhere."""

from __future__ import annotations

import pytest

from penstock.errors import UsageError
from penstock.providers.catalog import SERVICES
from penstock.providers.openai import chat_completions

KEY = "sk-canary-1234567890"


def url_of(service: str, base_url: str | None = None, model: str = "m") -> str:
    return chat_completions(SERVICES[service], base_url=base_url, api_key=KEY).call(b"{}", model).url


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/v1/",
        "http://127.0.0.1:8000/v1//",
        " http://127.0.0.1:8000/v1 ",
        "http://127.0.0.1:8000/v1/chat/completions",
        "http://127.0.0.1:8000/v1/chat/completions/",
    ],
)
def test_a_base_url_is_understood_with_slash_and_with_the_whole_path(base_url: str) -> None:
    assert url_of("custom", base_url) == "http://127.0.0.1:8000/v1/chat/completions"


@pytest.mark.parametrize(
    ("service", "url"),
    [
        ("openai", "https://api.openai.com/v1/chat/completions"),
        ("anthropic", "https://api.anthropic.com/v1/chat/completions"),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"),
        ("groq", "https://api.groq.com/openai/v1/chat/completions"),
        ("deepseek", "https://api.deepseek.com/chat/completions"),
        ("ollama", "http://localhost:11434/v1/chat/completions"),
        ("vllm", "http://localhost:8000/v1/chat/completions"),
    ],
)
def test_each_service_has_its_address(service: str, url: str) -> None:
    assert url_of(service) == url


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://r.openai.azure.com", "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"),
        ("https://r.openai.azure.com/", "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"),
        (
            "https://r.openai.azure.com/openai?api-version=2025-01-01-preview",
            "/openai/deployments/my%20gpt/chat/completions?api-version=2025-01-01-preview",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/own?api-version=2024-06-01",
            "/openai/deployments/own/chat/completions?api-version=2024-06-01",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/own/chat/completions?api-version=2024-06-01",
            "/openai/deployments/own/chat/completions?api-version=2024-06-01",
        ),
        ("https://r.openai.azure.com/openai/v1/", "/openai/v1/chat/completions"),
    ],
)
def test_azure_has_the_deployment_in_its_url_unless_the_base_url_is_of_v1(base_url: str, url: str) -> None:
    assert url_of("azure", base_url, "my gpt") == "https://r.openai.azure.com" + url


def test_azure_v1_is_a_plain_base_url() -> None:
    assert url_of("azure-v1", "https://r.openai.azure.com/openai/v1").endswith("azure.com/openai/v1/chat/completions")


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://host/v1",
        "host/v1",
        "http://",
        "http:///v1",
        "http://user:pw@host/v1",
        "http://host/v1?x=1",
        "http://host/v1#frag",
        "http://ho st/v1",
        "http://host\r\nX: y/v1",
        "http://host:port/v1",
        "http://höst/v1",
        "http://host\\@evil/v1",
        "",
    ],
)
def test_what_is_no_plain_http_url_is_refused_by_name(base_url: str) -> None:
    with pytest.raises(UsageError, match=r"(?i)base.url"):
        url_of("custom", base_url)


@pytest.mark.parametrize("base_url", ["http://me:hunter2secret@host/v1", "http://host/v1?key=hunter2secret"])
def test_a_secret_in_a_refused_base_url_is_not_repeated(base_url: str) -> None:
    with pytest.raises(UsageError) as refused:
        url_of("custom", base_url)
    assert "hunter2secret" not in str(refused.value)
    assert "host" in str(refused.value)


def test_azure_takes_no_other_query_than_its_version() -> None:
    with pytest.raises(UsageError, match="api-version"):
        url_of("azure", "https://r.openai.azure.com?sig=1")


@pytest.mark.parametrize("service", ["azure", "azure-v1", "builtin", "custom"])
def test_a_service_without_a_fixed_address_asks_for_one(service: str) -> None:
    with pytest.raises(UsageError, match="--base-url"):
        url_of(service)


@pytest.mark.parametrize("service", ["openai", "azure", "mistral", "gemini"])
def test_a_missing_key_is_told_with_its_variable(service: str) -> None:
    base_url = "https://r.openai.azure.com" if service == "azure" else None
    with pytest.raises(UsageError, match=SERVICES[service].key_variables[0]):
        chat_completions(SERVICES[service], base_url=base_url)


@pytest.mark.parametrize(
    ("service", "base_url"), [("openai", "http://127.0.0.1:1/v1"), ("ollama", None), ("vllm", None)]
)
def test_no_key_is_needed_on_a_server_of_ones_own(service: str, base_url: str | None) -> None:
    provider = chat_completions(SERVICES[service], base_url=base_url)
    assert "authorization" not in {name.lower() for name, _ in provider.call(b"{}", "m").headers}


@pytest.mark.parametrize(
    ("service", "header"), [("openai", ("Authorization", f"Bearer {KEY}")), ("azure", ("api-key", KEY))]
)
def test_the_key_stands_in_one_header_of_the_form_that_the_service_takes(service: str, header: tuple[str, str]) -> None:
    provider = chat_completions(SERVICES[service], base_url="https://r.openai.azure.com", api_key=KEY)
    headers = provider.call(b"{}", "m").headers
    assert [pair for pair in headers if KEY in pair[1]] == [header]
    assert ("Content-Type", "application/json") in headers


def test_headers_are_made_once_and_shared_by_all_calls() -> None:
    provider = chat_completions(SERVICES["openai"], api_key=KEY)
    assert provider.call(b"1", "a").headers is provider.call(b"2", "b").headers


def test_a_callers_header_replaces_ours_of_the_same_name() -> None:
    given = {"authorization": "Bearer entra", "OpenAI-Project": "p"}
    headers = (
        chat_completions(SERVICES["azure"], base_url="https://r.openai.azure.com", headers=given).call(b"", "m").headers
    )
    assert [value for name, value in headers if name.lower() == "authorization"] == ["Bearer entra"]
    assert ("OpenAI-Project", "p") in headers


@pytest.mark.parametrize("key", ["sk secret", "sk-secret\n", "sk-secret\r\nX: 1", "sk-sécret"])
def test_a_key_that_would_break_a_header_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(UsageError) as refused:
        chat_completions(SERVICES["openai"], api_key=key)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize(("name", "value"), [("X y", "1"), ("X", "1\r\nY: 2"), ("", "1"), ("X", "é")])
def test_a_header_that_http_cannot_carry_is_refused(name: str, value: str) -> None:
    with pytest.raises(UsageError, match="header"):
        chat_completions(SERVICES["openai"], api_key=KEY, headers={name: value})


def test_no_repr_shows_the_key() -> None:
    provider = chat_completions(SERVICES["openai"], api_key=KEY)
    assert KEY not in repr(provider)
    assert KEY not in repr(provider.call(b"{}", "m"))
