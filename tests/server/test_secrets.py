"""S1, S2, S3, S7, S10: no request chooses where it goes or as whom; no secret is told anywhere; a log line is one line."""

from __future__ import annotations

import ast
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.server.logs import JsonFormatter, Redaction
from tests.kit.hostile import Peer
from tests.kit.serving import (
    CHAT,
    HI,
    LAST,
    ROLE,
    STREAM_HEAD,
    Asked,
    Served,
    chunk,
    echoes,
    environ_for,
    error_answer,
    event,
    gateway,
    json_answer,
    key_of,
    log_lines,
    provider,
    served,
    settings_for,
    whole,
)
from tests.security.capturing import content_of, forms, found_in

# -- S2, S3: a request chooses neither address, nor key, nor headers

ADDRESSES = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://[fd00:ec2::254]/",
    "http://metadata.google.internal/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://2130706433/",
    "http://017700000001/",
    "http://127.1/",
    "http://localhost/",
    "http://[::1]/",
    "http://[::]/",
    "http://0/",
    "http://127.0.0.1.nip.io/",
    "http://user:pass@127.0.0.1/",
    "http://127.0.0.1#@evil.example/",
    "//127.0.0.1/",
    "file:///etc/passwd",
    "gopher://127.0.0.1/_x",
    "unix:///var/run/docker.sock",
    "http://127.0.0.1\r\nx: y/",
]
FIELDS = [
    "base_url",
    "baseUrl",
    "api_base",
    "api_url",
    "endpoint",
    "url",
    "host",
    "proxy",
    "proxies",
    "webhook",
    "callback_url",
    "model_list",
]
OTHERS: list[dict[str, Any]] = [
    {"api_key": "sk-theirs"},
    {"key": "sk-theirs"},
    {"organization": "o", "project": "p"},
    {"headers": {"x-evil": "1", "authorization": "Bearer sk-theirs"}},
    {"extra_headers": {"x-evil": "1", "host": "evil.example"}},
    {"default_headers": {"x-evil": "1"}},
    {"extra_body": {"base_url": "http://evil.example"}},
    {"extra_query": {"x": "1"}},
    {"custom_llm_provider": "openai", "litellm_params": {"api_base": "http://evil.example"}},
    {"user_config": {"model_list": []}},
    {"fallbacks": ["http://evil.example"]},
    {"mock_response": "x"},
    {"timeout": 0, "max_retries": 100},
    {"transport": "x", "http_client": "x"},
    {"metadata": {"base_url": "http://evil.example"}},
    {"stream_options": {"base_url": "http://evil.example"}},
    {"user": "\r\nx-evil: 1"},
    {"provider": "http://evil.example"},
    {"deployment_id": "../../evil"},
    {"api_version": "evil"},
]
PAYLOADS = [{field: address} for field, address in itertools.product(FIELDS, ADDRESSES)] + OTHERS
HEADERS = {
    "x-evil": "1",
    "x-forwarded-host": "evil.example",
    "x-original-url": "http://evil.example/",
    "x-rewrite-url": "/admin",
    "x-api-base": "http://evil.example",
    "openai-organization": "evil",
    "openai-beta": "evil",
    "cookie": "evil=1",
    "proxy-authorization": "Basic evil",
    "forwarded": "for=evil",
    "referer": "http://evil.example/",
    "user-agent": "evil",
    "accept-language": "evil",
    "x-stainless-retry-count": "2",
    "idempotency-key": "evil",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "te": "trailers",
    "via": "evil",
}


def test_there_are_as_many_payloads_as_promised() -> None:
    assert len(PAYLOADS) >= 60
    assert len({json.dumps(payload) for payload in PAYLOADS}) == len(PAYLOADS)


@pytest.mark.parametrize("target", [CHAT, "/generate", "/generate/batch"])
async def test_no_field_and_no_header_chooses_where_a_request_goes_or_as_whom(tmp_path: Path, target: str) -> None:
    """Each payload in the body, together with headers and a query of the kind: the same address, key and headers always."""
    async with provider(echoes) as upstream:
        models = {"openai/gpt-5-mini": {"key": "UPSTREAM"}}
        settings = settings_for(upstream.base_url, tmp_path, models=models, keys={"team": "interactive"})
        environ = {"UPSTREAM": "sk-ours-upstream", **environ_for(settings)}
        async with served(settings, environ) as server:
            # How a run is answered is not for its rows to say, so that it takes no `stream_options`.
            payloads = [each for each in PAYLOADS if target == CHAT or "stream_options" not in each]
            for payload in payloads:
                body = {**(HI if target == CHAT else {"prompt": "hi", "prompts": ["hi"]}), **payload}
                asked = f"{target}?base_url=http://evil.example&api_key=sk-theirs"
                told = await server.ask(asked, body, key=key_of("team"), headers=HEADERS)
                assert told.status == 200, (payload, told)
    assert len(upstream.asked.all) == len(payloads)
    heads = {asked.head for asked in upstream.asked.all}
    own = {line.partition(b":")[0].lower() for head in heads for line in head.split(b"\r\n")[1:]}
    assert own == {
        b"host",
        b"authorization",
        b"content-type",
        b"accept",
        b"accept-encoding",
        b"user-agent",
        b"content-length",
    }
    for head in heads:
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert b"authorization: bearer sk-ours-upstream\r\n" in head.lower() + b"\r\n"
        assert b"evil" not in head
        assert key_of("team").encode() not in head
        assert b"sk-theirs" not in head


MODELS_OF_ODD_NAMES = [
    "http://evil.example/v1",
    "custom/http://evil.example",
    "../x",
    "gpt-5-mini\r\nx: y",
    "gpt-5-mini?x",
    "%2e",
]


async def test_no_model_name_leads_anywhere_but_to_a_configured_model(tmp_path: Path) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream):
        for name in (*MODELS_OF_ODD_NAMES, *ADDRESSES):
            assert (await server.ask(body={**HI, "model": name})).status == 404
            assert (await server.ask("/generate", {"prompt": "x", "model": name})).status == 404
    assert upstream.asked.all == []


async def test_a_redirect_of_the_provider_is_not_followed(tmp_path: Path) -> None:
    """The key stays with its origin; the client is not sent there either."""
    async with provider(echoes) as other:

        async def respond(_: Asked, peer: Peer) -> None:
            location = f"location: {other.base_url}/chat/completions"
            await peer.send(json_answer({}, location, status="307 Temporary Redirect"))

        async with gateway(respond, tmp_path) as (server, upstream):
            told = await server.ask(body=HI)
    assert told.status == 404
    assert told.header("location") is None
    assert other.asked.all == []
    assert len(upstream.asked.all) == 1


# -- S1: secrets

UPSTREAM_KEY = "sk-canary/7f+3d9e2=a61b~Q"
CLIENT_KEY = key_of("team")
PROMPT = "canary of a prompt 5b1c"


def spills(secret: str) -> dict[str, bytes]:
    """Answers of a provider that gives away what it was trusted with wherever it can."""
    headers = (f"x-request-id: {secret}", f"x-ratelimit-limit-requests: {secret}", f"openai-processing-ms: {secret}")
    page = f"<html><title>Bearer {secret}</title>{secret}</html>".encode()
    fields = {"type": secret, "param": secret, "code": secret}
    lost = event({"error": {"message": secret, **fields}})
    return {
        "400": error_answer("400 Bad Request", f"no {secret} here", *headers, **fields),
        "401": error_answer("401 Unauthorized", f"Incorrect API key provided: {secret}", *headers, **fields),
        "429": error_answer("429 Too Many Requests", secret, *headers, "retry-after: 99", **fields),
        "500": error_answer("500 Internal Server Error", secret, *headers, **fields),
        "page": json_answer(page, *headers, status="502 Bad Gateway"),
        "error as an answer": json_answer({"error": {"message": secret, **fields}}, *headers),
        "no answer": json_answer(page, *headers),
        "not http": f"{secret}\r\n\r\n".encode(),
        "stream": STREAM_HEAD.replace(b"req-upstream", secret.encode()) + lost + LAST,
        "mid-stream": STREAM_HEAD + ROLE + event(chunk({"content": "x"})) + lost + LAST,
        "good": whole("fine", *headers),
    }


async def told_by(server: Served, asked: dict[str, Any]) -> bytes:
    """Everything that the server says of some requests, to their clients and elsewhere."""
    told = []
    for target, body in (
        (CHAT, {**asked, "stream": False}),
        (CHAT, {**asked, "stream": True}),
        ("/generate", {"prompt": PROMPT}),
        ("/generate/stream", {"prompt": PROMPT}),
        ("/generate/batch", {"prompts": [PROMPT, PROMPT]}),
    ):
        told.append(await server.ask(target, body, key=CLIENT_KEY))
    quiet = ("/metrics", "/v1/models", "/openapi.json", "/readyz", "/nowhere", "/healthz")
    told += [await server.ask(target, key=CLIENT_KEY) for target in quiet]
    told.append(await server.ask("/metrics", key=CLIENT_KEY + "x"))
    return repr(told).encode() + repr((server.server.serving, server.over.all)).encode()


async def test_no_secret_is_told_whatever_the_provider_gives_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers, headers, metrics, the document, the log at DEBUG, the request log, every file: neither key, nor the prompt."""
    caplog.set_level(logging.DEBUG)
    asked = {**HI, "messages": [{"role": "user", "content": PROMPT}]}
    for number, (name, answer) in enumerate(spills(UPSTREAM_KEY).items()):
        data = tmp_path / str(number)

        async def respond(_: Asked, peer: Peer, answer: bytes = answer) -> None:
            await peer.send(answer)
            raise ConnectionResetError("and the end")

        async with provider(respond) as upstream:
            models = {"openai/gpt-5-mini": {"key": "UPSTREAM", "deadline": 0.2}}
            settings = settings_for(upstream.base_url, data, models=models, keys={"team": "interactive"}, max_wait=0.05)
            async with served(settings, {"UPSTREAM": UPSTREAM_KEY, **environ_for(settings)}) as server:
                told = await told_by(server, asked)
            assert upstream.asked.all, name
            assert all(UPSTREAM_KEY.encode() in asked.head for asked in upstream.asked.all)
        everywhere = told + content_of(data) + caplog.text.encode()
        assert found_in(everywhere, UPSTREAM_KEY, CLIENT_KEY) == [], name
        assert PROMPT.encode() not in content_of(data) + caplog.text.encode(), name
        assert log_lines(data), name


async def test_a_defect_is_logged_with_its_request_and_without_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback names the request; the client gets a 500 of the one form, on either way through the server."""
    from penstock.server import gateway as hot
    from penstock.server import generate

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(hot, "read_chat", broken)
    monkeypatch.setattr(generate, "_request", broken)
    async with gateway(echoes, tmp_path, keys={"team": "interactive"}) as (server, _):
        for target in (CHAT, "/generate"):
            told = await server.ask(target, {**HI, "prompt": PROMPT}, key=CLIENT_KEY)
            assert (told.status, told.error["code"], told.error["type"]) == (500, "internal", "server_error")
            assert "ZeroDivision" not in told.body.decode()
        over = await server.over.at_least(2)
    assert [exchange.status for exchange in over] == [500, 500]
    assert "ZeroDivisionError" in caplog.text
    assert found_in(caplog.text.encode(), CLIENT_KEY) == []


async def test_content_is_logged_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Then prompt and answer stand in the request log, and still no key."""
    asked = {**HI, "messages": [{"role": "user", "content": PROMPT}]}
    for folder, wanted in (("without", False), ("with", True)):
        data = tmp_path / folder
        async with gateway(echoes, data, keys={"team": "interactive"}, log_content=wanted) as (server, _):
            assert (await server.ask(body=asked, key=CLIENT_KEY)).status == 200
        (line,) = log_lines(data)
        assert (PROMPT in json.dumps(line)) is wanted
        assert found_in(content_of(data), CLIENT_KEY) == []


async def test_what_the_server_keeps_is_for_its_user_only(tmp_path: Path) -> None:
    """S8: the folder is 0700 and each file in it 0600."""
    data = tmp_path / "data"
    async with gateway(echoes, data) as (server, _):
        await server.ask(body=HI)
    assert data.stat().st_mode & 0o777 == 0o700
    kept = [path for path in data.rglob("*") if path.is_file()]
    assert kept
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


# -- S7: one line for each event

INJECTIONS = [
    'x\n{"time":"2026","status":200,"forged":true}',
    "x\r\n127.0.0.1 - - forged",
    "x\x1b[2Jforged",
    "x\u2028forged",
    "x\u2029forged",
    "x\x85forged",
    "x\x0bforged\x0cforged",
    "x\x00forged",
    "x\u202eforged",
    "\ud800forged".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
]


async def test_nothing_that_a_client_sends_makes_a_second_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As model, prompt, query and header; in the request log and in the log."""
    caplog.set_level(logging.DEBUG)
    count = 0
    async with gateway(echoes, tmp_path, log_content=True) as (server, _):
        for text in INJECTIONS:
            shown = "".join(char for char in text if char.isprintable() and char.isascii())
            await server.ask(body={**HI, "model": text})
            await server.ask(
                body={**HI, "messages": [{"role": "user", "content": text}]}, headers={"user-agent": shown}
            )
            await server.ask(f"/v1/models/{shown.replace(' ', '%0a').replace('{', '%7b')}%0d%0aforged%e2%80%a8")
            count += 3
    raw = (tmp_path / "requests.jsonl").read_bytes()
    assert raw.count(b"\n") == count
    assert len(raw.decode().splitlines()) == count
    assert all("forged" not in line for line in log_lines(tmp_path))
    formatter = JsonFormatter(Redaction())
    assert all(len(formatter.format(record).splitlines()) == 1 for record in caplog.records)


# -- S10: no code from data

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "code", "codeop", "jsonpickle"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "subprocess.run",
    "subprocess.Popen",
}
SOURCE = Path(penstock.__file__).parent


def offences(tree: ast.AST) -> list[str]:
    """Imports and calls that make code of data."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            shell = any(keyword.arg == "shell" for keyword in node.keywords)
            if name in FORBIDDEN_CALLS or shell or name.startswith(("pickle.", "yaml.", "marshal.")):
                found.append(name)
    return found


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from yaml import load", "eval('1')", "exec(x)", "x = compile(a, b, 'exec')", "f(shell=True)"],
)
def test_the_gate_sees_what_it_is_to_refuse(text: str) -> None:
    assert offences(ast.parse(text))


def test_no_part_of_the_package_makes_code_of_data() -> None:
    """No pickle, marshal, yaml, eval or exec, and no shell; the one place that starts processes starts this interpreter."""
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 100
    found = {path.relative_to(SOURCE).as_posix(): offences(ast.parse(path.read_bytes())) for path in files}
    starts = {"edges/processes/starting.py": ["subprocess.Popen"]}
    assert {name: offending for name, offending in found.items() if offending} == starts


def test_the_search_for_secrets_finds_each_form_of_one() -> None:
    assert all(found_in(b"before " + form + b" after", UPSTREAM_KEY) for form in forms(UPSTREAM_KEY))
