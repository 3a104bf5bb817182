"""The client as a user meets it: keys, addresses, the built-in model over real loopback HTTP, ledgers across clients."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from penstock import Client, Limits, Request, UsageError
from penstock.access import reviver
from penstock.providers.catalog import SERVICES
from penstock.records import HttpCall
from penstock.testing import ScriptedTransport, completion

TEXT = "Penstock moves requests. It is quick and it is safe. The pipe carries water under control to a turbine."


def scripted() -> ScriptedTransport:
    return ScriptedTransport(lambda _: completion("fine", input_tokens=3, output_tokens=2))


def header(call: HttpCall, name: str) -> str | None:
    return next((value for key, value in call.headers if key.lower() == name), None)


async def test_the_built_in_model_needs_nothing() -> None:
    async with Client("builtin/extractive") as client:
        response = await client.generate(f"Summarise in one sentence: {TEXT}")
        assert response.text in TEXT
        assert response.usage is not None
        results = await client.gather(
            [{"text": TEXT}, {"text": "One. Two."}], prompt="Summarise in one sentence: {text}"
        )
        assert [result.ok for result in results] == [True, True]
        assert [result.cost for result in results] == [0.0, 0.0]


async def test_a_prompt_may_be_text_messages_or_a_whole_request() -> None:
    transport = scripted()
    async with Client("openai/gpt-x", transport=transport) as client:
        await client.generate("hi", system="be brief", temperature=0, max_tokens=9)
        await client.generate([{"role": "user", "content": "hi"}])
        await client.generate(Request([{"role": "user", "content": "hi"}], model="other"))
        await client.generate("hi", model="openai/third")
    bodies = [call.body for call in transport.calls]
    assert b'"role":"system","content":"be brief"' in bodies[0]
    assert b'"temperature":0' in bodies[0]
    assert b'"max_completion_tokens":9' in bodies[0]
    assert [b'"model":"gpt-x"' in bodies[1], b'"model":"other"' in bodies[2], b'"model":"third"' in bodies[3]] == [
        True
    ] * 3


async def test_the_key_comes_from_the_argument_or_the_providers_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        Client("openai/gpt-x")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-from-environment\n")
    client = Client("openai/gpt-x")
    assert "canary" not in repr(client)
    assert header(client.provider.call(b"{}", "m"), "authorization") == "Bearer sk-canary-from-environment"
    own = Client("openai/gpt-x", api_key="sk-canary-own")
    assert header(own.provider.call(b"{}", "m"), "authorization") == "Bearer sk-canary-own"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": "8"}, "max_concurrency"),
        ({"max_concurrency": True}, "max_concurrency"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"deadline": float("nan")}, "deadline"),
        ({"base_url": "localhost:8000"}, "localhost:8000"),
    ],
)
def test_an_option_that_cannot_be_right_is_told_by_name(options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Client("openai/m", transport=scripted(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "100", True])
def test_a_limit_that_cannot_be_right_is_told_by_name(value: object) -> None:
    with pytest.raises(UsageError, match="requests_per_minute"):
        Limits(requests_per_minute=value)  # type: ignore[arg-type]


def test_more_in_flight_than_the_system_has_files_is_refused_with_the_figure() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(UsageError, match=r"ulimit -n"):
        Client("vllm/m", max_concurrency=hard)


def test_our_own_figure_is_lowered_to_the_systems_files_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.access.raise_descriptor_limit", lambda: 128)
    client = Client("vllm/m")
    assert "51 go at once" in client.note
    assert Client("vllm/m", max_concurrency=51).note == ""


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_the_recorded_answers_of_every_provider_are_read_without_a_key(name: str) -> None:
    assert reviver(name)(completion("kept").body).text == "kept"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("HTTPS_PROXY", "socks5://127.0.0.1:1", "socks5"), ("SSL_CERT_FILE", "/nowhere/ca.pem", "SSL_CERT_FILE")],
)
def test_a_proxy_or_certificates_that_cannot_be_used_are_told_before_anything_is_sent(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told):
        Client("openai/gpt-x", api_key="sk-x")


async def test_rows_must_be_an_iterable_of_rows() -> None:
    async with Client("openai/m", transport=scripted()) as client:
        with pytest.raises(UsageError, match=r"use generate\(\)"):
            await client.gather("one prompt")


async def test_a_ledger_on_disk_serves_another_client_and_other_places(tmp_path: Path) -> None:
    ledger = tmp_path / "summaries.ledger"
    rows = [{"text": f"row {index}"} for index in range(30)]
    first, second, third = scripted(), scripted(), scripted()
    async with Client("openai/m", transport=first) as client:
        async for result in client.map(rows, prompt="Say {text}", ledger=ledger):
            if result.index == 10:
                break
    sent = len(first.calls)
    assert 11 <= sent <= 30
    async with Client("openai/m", transport=second) as client:
        results = await client.gather([{"text": "new"}, *rows], prompt="Say {text}", ledger=str(ledger))
    assert [result.index for result in results] == list(range(31))
    assert all(result.ok for result in results)
    recorded_by_first = sum(result.reused for result in results)
    assert len(second.calls) == 31 - recorded_by_first
    assert recorded_by_first >= 11
    async with Client("openai/m", transport=third) as client:
        results = await client.gather(rows, prompt="Say {text} again", ledger=ledger)
        assert len(third.calls) == 30
        results = await client.gather(rows, prompt="Say {text}", ledger=ledger)
        assert len(third.calls) == 30
    assert all(result.reused for result in results)


async def test_unwrap_gives_the_response_or_raises_the_rows_error() -> None:
    async with Client("openai/m", transport=scripted()) as client:
        good, bad = await client.gather(["hi", {"prompt": ""}])
    assert good.unwrap().text == good.text == "fine"
    assert bad.text is None
    with pytest.raises(type(bad.error)):
        bad.unwrap()
