"""`POST /v1/chat/completions` to the letter of the OpenAI API: what goes to the provider, what comes back, whole and streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kit.hostile import Peer, answer
from tests.kit.serving import (
    CHAT,
    HI,
    LAST,
    ROLE,
    STREAM_HEAD,
    STREAMED,
    Asked,
    completion,
    echoes,
    error_answer,
    event,
    gateway,
    gives,
    json_answer,
    stream_of,
    whole,
)

RETRIED = {"openai/gpt-5-mini": {"max_retries": 2}}


# -- whole answers


async def test_a_whole_answer_is_the_providers_body_byte_for_byte(tmp_path: Path) -> None:
    """Odd spacing, unknown fields, a second choice, log probabilities, numbers in any form: nothing is written anew."""
    body = (
        b'{ "id":"x",\n "choices" : [ {"index":0,"message":{"role":"assistant","content":"h\\u00e9 \\/","annotations":[]},'
        b'"logprobs":{"content":[]},"finish_reason":"stop"},{"index":1,"message":{"content":"b"},"finish_reason":"length"}],'
        b'"usage":{"prompt_tokens":1.0,"completion_tokens":2,"total_tokens":3,"cost":1e-7},"x_new":[1.50,{"a":null}] }\r\n'
    )
    async with gateway(gives(json_answer(body)), tmp_path) as (server, _):
        told = await server.ask(body=HI)
    assert (told.status, told.kind, told.body) == (200, "application/json", body)


async def test_unknown_fields_of_a_request_reach_the_provider_as_they_are(tmp_path: Path) -> None:
    """Every field but the stream's own, in its order, with messages of any form, under the provider's name of the model."""
    sent = {
        "messages": [
            {
                "role": "system",
                "content": [{"type": "text", "text": "\u00fc\U0001f600"}],
                "name": "n",
                "x": {"y": [None]},
            },
            {"role": "tool", "tool_call_id": "t", "content": "42"},
        ],
        "model": "gpt-5-mini",
        "temperature": 0.25,
        "n": 2,
        "seed": 2**63 - 1,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_object"},
        "logit_bias": {"50256": -100},
        "metadata": {},
        "x_vendor": {"deep": [1, 2.5, "three", False]},
        "user": "",
    }
    async with gateway(echoes, tmp_path) as (server, upstream):
        assert (await server.ask(body={**sent, "stream": False})).status == 200
        assert (await server.ask(body={**sent, "stream": None, "stream_options": None})).status == 200
    for asked in upstream.asked.all:
        assert asked.fields == sent
        assert list(asked.fields) == ["model", "messages", *list(sent)[2:]]


@pytest.mark.parametrize("name", ["gpt-5-mini", "openai/gpt-5-mini"])
async def test_a_model_goes_by_its_bare_name_and_by_the_whole(tmp_path: Path, name: str) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream):
        assert (await server.ask(body={**HI, "model": name})).status == 200
    assert upstream.asked.all[0].fields["model"] == "gpt-5-mini"


async def test_a_model_of_a_name_of_ones_own_goes_by_that_name_only(tmp_path: Path) -> None:
    """`[models.fast] model = "openai/gpt-5-mini"`: clients say `fast`, the provider hears `gpt-5-mini`."""
    models: dict[str, Any] = {"fast": {"model": "openai/gpt-5-mini"}, "a/b/c": {"model": "custom/meta/llama"}}
    async with gateway(echoes, tmp_path, models=models) as (server, upstream):
        assert [(await server.ask(body={**HI, "model": name})).status for name in models] == [200, 200]
        for hidden in ("gpt-5-mini", "openai/gpt-5-mini", "meta/llama"):
            assert (await server.ask(body={**HI, "model": hidden})).status == 404
    assert [asked.fields["model"] for asked in upstream.asked.all] == ["gpt-5-mini", "meta/llama"]


async def test_a_bare_name_that_two_models_share_is_nobodys(tmp_path: Path) -> None:
    models: dict[str, Any] = {"openai/m": {}, "custom/m": {}}
    async with gateway(echoes, tmp_path, models=models) as (server, upstream):
        assert (await server.ask(body={**HI, "model": "m"})).status == 404
        assert (await server.ask(body={**HI, "model": "custom/m"})).status == 200
    assert len(upstream.asked.all) == 1


@pytest.mark.parametrize("name", ["gpt-5", "", "GPT-5-MINI", "openai/", "../gpt-5-mini", "x" * 10_000, 5, {}, True])
async def test_an_unknown_model_is_a_404_that_names_those_there_are(tmp_path: Path, name: object) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream):
        told = await server.ask(body={**HI, "model": name})
    assert (told.status, told.error["code"], told.error["param"]) == (404, "model_not_found", "model")
    assert "gpt-5-mini" in told.error["message"]
    assert len(told.body) < 1_000
    assert upstream.asked.all == []


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"nonsense", None),
    (b"[]", None),
    (b'"text"', None),
    (b"null", None),
    (b"\xff\xfe{}", None),
    (b'{"model":"gpt-5-mini","messages":[{"role":"user","content":NaN}]}', None),
    (b'{"model":"gpt-5-mini"}', "messages"),
    (b'{"model":"gpt-5-mini","messages":null}', "messages"),
    (b'{"model":"gpt-5-mini","messages":[]}', "messages"),
    (b'{"model":"gpt-5-mini","messages":"hi"}', "messages"),
    (b'{"model":"gpt-5-mini","messages":["hi"]}', "messages"),
    (b'{"messages":[{"role":"user","content":"hi"}]}', "model"),
    (b'{"model":null,"messages":[{"role":"user","content":"hi"}]}', "model"),
    (b'{"model":"gpt-5-mini","messages":[{}],"stream":"yes"}', "stream"),
    (b'{"model":"gpt-5-mini","messages":[{}],"stream":true,"stream_options":[]}', "stream_options"),
]


@pytest.mark.parametrize(("body", "param"), BAD_BODIES)
async def test_what_can_be_no_request_is_a_400_that_says_which_field(
    tmp_path: Path, body: bytes, param: str | None
) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream):
        told = await server.ask(body=body)
    assert (told.status, told.error["type"], told.error["param"]) == (400, "invalid_request_error", param)
    assert upstream.asked.all == []


async def test_an_answer_is_passed_on_with_what_the_provider_tells_of_limits_and_ids(tmp_path: Path) -> None:
    """Limits, waits, its own time and its id; none of its other headers."""
    told_by_provider = (
        "X-Request-Id: req-upstream",
        "X-RateLimit-Limit-Requests: 60",
        "x-ratelimit-remaining-requests: 59",
        "x-ratelimit-reset-requests: 1s",
        "openai-processing-ms: 123",
        "set-cookie: session=1",
        "server: theirs",
        "access-control-allow-origin: *",
        "openai-organization: org",
    )
    async with gateway(gives(whole("fine", *told_by_provider)), tmp_path) as (server, _):
        told = await server.ask(body=HI)
    own = told.header("x-request-id")
    assert own is not None
    assert own.startswith("req_")
    assert dict(told.headers) == {
        "content-type": "application/json",
        "content-length": str(len(told.body)),
        "x-request-id": own,
        "x-penstock-upstream-request-id": "req-upstream",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "openai-processing-ms": "123",
    }


async def test_headers_that_no_client_could_read_do_not_break_an_answer(tmp_path: Path) -> None:
    """A provider's odd bytes in what is passed on: the answer was paid for."""
    odd = ("x-ratelimit-remaining-requests: 5\xff\t9", "x-request-id: r\xe9q", "openai-processing-ms:")
    async with gateway(gives(whole("fine", *odd)), tmp_path) as (server, _):
        told = await server.ask(body=HI)
    assert (told.status, told.json["choices"][0]["message"]["content"]) == (200, "fine")


async def test_every_answer_has_an_id_of_its_own(tmp_path: Path) -> None:
    """Never the client's, nor the provider's, and it is the one of the account."""
    async with gateway(echoes, tmp_path) as (server, _):
        headers = {"x-request-id": "mine"}
        ids = [(await server.ask(body=HI, headers=headers)).header("x-request-id") for _ in range(3)]
        ids.append((await server.ask("/nowhere", headers=headers)).header("x-request-id"))
        over = await server.over.at_least(3)
    assert len(set(ids)) == 4
    assert "mine" not in ids
    assert [exchange.request_id for exchange in over][:3] == ids[:3]


# -- errors of the provider

STATUSES = [
    ("400 Bad Request", 400),
    ("401 Unauthorized", 401),
    ("402 Payment Required", 402),
    ("403 Forbidden", 403),
    ("404 Not Found", 404),
    ("409 Conflict", 409),
    ("413 Payload Too Large", 413),
    ("422 Unprocessable Entity", 422),
    ("429 Too Many Requests", 429),
    ("500 Internal Server Error", 500),
    ("502 Bad Gateway", 502),
    ("503 Service Unavailable", 503),
    ("529 Overloaded", 529),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("line", "status"), STATUSES)
async def test_an_error_of_the_provider_comes_in_its_own_words(
    tmp_path: Path, line: str, status: int, streamed: bool
) -> None:
    """Status, message, type, param, code, limits and id as sent; a status of its own also where a stream was asked for."""
    headers = ("x-request-id: req-upstream", "x-ratelimit-limit-requests: 60", "retry-after: 60")
    failed = error_answer(line, "their words, é", *headers, type="their_type", param="n", code="their_code")
    async with gateway(gives(failed), tmp_path, max_wait=0.02) as (server, _):
        told = await server.ask(body=STREAMED if streamed else HI)
        (exchange,) = await server.over.at_least(1)
    assert told.status == status
    assert told.error == {"message": "their words, é", "type": "their_type", "param": "n", "code": "their_code"}
    assert told.header("x-penstock-upstream-request-id") == "req-upstream"
    assert told.header("x-ratelimit-limit-requests") == "60"
    assert told.kind == "application/json"
    assert (exchange.status, exchange.upstream_request_id, exchange.streamed) == (status, "req-upstream", streamed)
    assert exchange.error_kind


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (answer(b"<html><title>502 Bad Gateway</title>", status="502 Bad Gateway"), 502, "server_error"),
        (answer(b"", status="500 Internal Server Error"), 500, "server_error"),
        (answer(b"slow down", status="429 Too Many Requests"), 429, "rate_limit_exceeded"),
        (answer(b"no", status="401 Unauthorized"), 401, "invalid_api_key"),
        (answer(b"", status="302 Found", headers=("location: http://127.0.0.1:9/",)), 404, "model_not_found"),
        (json_answer({"error": {"message": "lost", "type": "server_error"}}), 502, "server_error"),
        (json_answer({"choices": []}), 502, "malformed"),
        (json_answer(b"not json"), 502, "malformed"),
        (json_answer(completion())[:-9], 502, "truncated"),
        (b"\x00\x01 garbage\r\n\r\n", 502, "malformed"),
    ],
)
async def test_what_is_no_answer_becomes_an_error_of_the_one_form(
    tmp_path: Path, sent: bytes, status: int, code: str, streamed: bool
) -> None:
    """Pages, nothing at all, redirects, errors under a 200, cut and garbled bodies."""

    async def respond(_: Asked, peer: Peer) -> None:
        await peer.send(sent)
        raise ConnectionResetError("and the end")

    async with gateway(respond, tmp_path, max_wait=0.02) as (server, _):
        told = await server.ask(body=STREAMED if streamed else HI)
    assert told.status == status
    assert told.error["code"] in (code, "truncated") if streamed else told.error["code"] == code


async def test_a_provider_that_cannot_be_reached_is_a_502_that_is_not_to_be_retried(tmp_path: Path) -> None:
    async with gateway(echoes, tmp_path) as (server, _):
        server.server.serving.models.find("gpt-5-mini").client.provider._endpoint = type(
            server.server.serving.models.find("gpt-5-mini").client.provider._endpoint
        )("http://127.0.0.1:1/v1/chat/completions")
        told = await server.ask(body=HI)
    assert (told.status, told.error["type"], told.error["code"]) == (502, "server_error", "refused")
    assert told.header("x-should-retry") == "false"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_failure_that_was_retried_here_is_not_to_be_retried_again(tmp_path: Path, streamed: bool) -> None:
    """Three sends came to nothing: the official clients would make nine of them."""
    failed = error_answer("500 Internal Server Error")
    async with gateway(gives(failed), tmp_path, models=RETRIED) as (server, upstream):
        told = await server.ask(body=STREAMED if streamed else HI)
        (exchange,) = await server.over.at_least(1)
    assert (told.status, told.header("x-should-retry"), len(upstream.asked.all)) == (500, "false", 3)
    assert exchange.attempts == 3


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_an_answer_after_a_retry_is_an_answer(tmp_path: Path, streamed: bool) -> None:
    """Also where a stream broke before its first token: nothing of the first try is seen."""
    good = stream_of("fine") if streamed else whole("fine")
    first = STREAM_HEAD + ROLE + event({"error": {"message": "lost", "type": "server_error"}}) + LAST
    failures = [first] if streamed else [error_answer("500 Internal Server Error")]
    async with gateway(gives(*failures, good), tmp_path, models=RETRIED) as (server, upstream):
        told = await server.ask(body=STREAMED if streamed else HI)
        (exchange,) = await server.over.at_least(1)
    assert (told.status, len(upstream.asked.all), exchange.attempts) == (200, 2, 2)
    assert told.header("x-should-retry") is None
    if streamed:
        roles = [each["choices"][0]["delta"].get("role") for each in told.chunks]
        assert [role for role in roles if role] == ["assistant"]
    else:
        assert told.json["choices"][0]["message"]["content"] == "fine"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("named", "seconds", "milliseconds"),
    [
        (("retry-after: 7",), 7, 7_000),
        (("retry-after-ms: 1500",), 2, 1_500),
        (("retry-after: 3600",), 120, 120_000),
        (("retry-after-ms: 250", "retry-after: 1"), 1, 250),
    ],
)
async def test_a_throttle_is_told_with_its_wait_in_both_forms(
    tmp_path: Path, named: tuple[str, ...], seconds: int, milliseconds: int, streamed: bool
) -> None:
    """Where the wait is longer than requests may wait here; 120 s at most, because clients obey no longer one."""
    limits = ("x-ratelimit-remaining-requests: 0", "x-request-id: req-upstream")
    failed = error_answer("429 Too Many Requests", "slow down", *named, *limits, code="rate_limit_exceeded")
    async with gateway(gives(failed), tmp_path, max_wait=0.05) as (server, upstream):
        told = await server.ask(body=STREAMED if streamed else HI)
    assert (told.status, told.error["code"], told.error["message"]) == (429, "rate_limit_exceeded", "slow down")
    assert told.header("retry-after") == str(seconds)
    assert abs(int(told.header("retry-after-ms") or 0) - milliseconds) <= 100
    assert told.header("x-ratelimit-remaining-requests") == "0"
    assert len(upstream.asked.all) == 1


async def test_an_error_that_echoes_the_providers_key_does_not_tell_it(tmp_path: Path) -> None:
    """In the body, in a header that is passed on, and in the id."""
    key = "sk-canary-upstream-key"
    models = {"openai/gpt-5-mini": {"key": "UPSTREAM", "endpoint": "there"}}
    echo = error_answer("400 Bad Request", f"key {key}", f"x-request-id: {key}", f"x-ratelimit-x: {key}", param=key)

    async def respond(asked: Asked, peer: Peer) -> None:
        assert f"authorization: bearer {key}".encode() in asked.head.lower()
        await peer.send(echo)

    from tests.kit.serving import provider, served, settings_for

    async with provider(respond) as upstream:
        settings = settings_for(upstream.base_url, tmp_path, models=models)
        async with served(settings, {"UPSTREAM": key}) as server:
            told = await server.ask(body=HI)
    assert told.status == 400
    assert key not in repr(told)
    assert "[key]" in told.error["message"]


# -- connections


async def test_one_connection_carries_many_requests_also_after_errors(tmp_path: Path) -> None:
    """Whole, streamed, refused by us, refused by the provider: the connection stays usable, and pipelining keeps its order."""
    from tests.kit.serving import wire

    async with gateway(echoes, tmp_path) as (server, _), wire(server.port) as line:
        bodies = [HI, {**HI, "model": "nobody"}, STREAMED, HI]
        for body in bodies:
            await line.send(server.request("POST", CHAT, body))
        assert [(await line.answer()).status for _ in bodies] == [200, 404, 200, 200]


# -- models


async def test_the_list_of_models_is_openais(tmp_path: Path) -> None:
    """Each under its public name; a name with slashes is found as it is and escaped."""
    models: dict[str, Any] = {"openai/gpt-5-mini": {}, "team/a b": {"model": "custom/meta/llama"}}
    async with gateway(echoes, tmp_path, models=models) as (server, _):
        listed = (await server.ask("/v1/models")).json
        assert [set(card) for card in listed["data"]] == [{"id", "object", "created", "owned_by"}] * 2
        assert [card["id"] for card in listed["data"]] == ["gpt-5-mini", "team/a b"]
        assert listed["object"] == "list"
        for target in ("gpt-5-mini", "openai/gpt-5-mini", "openai%2Fgpt-5-mini"):
            assert (await server.ask(f"/v1/models/{target}")).json == listed["data"][0]
        for target in ("team/a%20b", "team%2Fa%20b"):
            assert (await server.ask(f"/v1/models/{target}")).json == listed["data"][1]
        unknown = await server.ask("/v1/models/nobody/here")
    assert (unknown.status, unknown.error["code"], unknown.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/nowhere", 404),
        ("GET", CHAT, 405),
        ("DELETE", CHAT, 405),
        ("GET", "/generate", 405),
        ("GET", "/generate/", 404),
        ("GET", "/v1/models/", 404),
        ("OPTIONS", CHAT, 405),
        ("HEAD", "/nowhere", 404),
    ],
)
async def test_what_is_not_there_is_an_error_of_the_one_form_too(
    tmp_path: Path, method: str, target: str, status: int
) -> None:
    async with gateway(echoes, tmp_path) as (server, _):
        told = await server.ask(target, method=method)
    assert told.status == status
    assert method == "HEAD" or told.error["type"] == "invalid_request_error"
