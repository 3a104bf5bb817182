"""A key leaves this machine in one header to its own origin, and shows up nowhere else, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.blocking import Client as BlockingClient
from penstock.client import Client
from penstock.edges.http import HttpTransport
from penstock.errors import PenstockError
from penstock.records import HttpCall
from tests.kit.http_probe import PATIENT
from tests.kit.http_tls import serving
from tests.kit.rows import FreeOfCharge
from tests.security.capturing import (
    KEY,
    PASSWORD,
    PATIENCE_SECONDS,
    Captured,
    capturing,
    content_of,
    forms,
    found_in,
    good,
    http,
)

AT_DEBUG = "import logging; logging.basicConfig(level=logging.DEBUG); from penstock.cli import main; main()"
TOLD = json.dumps({"error": {"message": f"no {KEY} here", "code": f"bad_{KEY}", "type": KEY, "param": KEY}}).encode()
IN_HEADERS = (f"X-Request-Id: {KEY}", f"WWW-Authenticate: Bearer {KEY}", f"Location: http://127.0.0.1:9/?key={KEY}")
PAGE = f"<html><title>Error for Bearer {KEY}</title><body>{KEY}</body></html>".encode()

FAULTS: dict[str, bytes | None] = {
    "fine": good(),
    "500": http("500 Internal Server Error", TOLD, *IN_HEADERS),
    "400": http("400 Bad Request", TOLD, *IN_HEADERS),
    "422": http("422 Unprocessable", json.dumps({"detail": [{"loc": [KEY], "msg": KEY}]}).encode(), *IN_HEADERS),
    "page": http("502 Bad Gateway", PAGE, "Content-Type: text/html", *IN_HEADERS),
    "page as an answer": http("200 OK", PAGE, "Content-Type: text/html", *IN_HEADERS),
    "error as an answer": http("200 OK", TOLD, *IN_HEADERS),
    "text": http("418 No", f"Authorization: Bearer {KEY}".encode(), *IN_HEADERS),
    "not http": f"{KEY}\r\n{KEY}\r\n\r\n".encode(),
    "bad status": f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
    "bad header": f"HTTP/1.1 200 OK\r\n{KEY} {KEY}\r\n\r\n".encode(),
    "cut": http("200 OK", TOLD)[:-9],
    "compressed": http("200 OK", TOLD, f"Content-Encoding: {KEY}"),
    "reset": None,
    "nothing": b"",
}


def by_the_prompt(request: bytes) -> bytes | None:
    """The fault that the prompt names."""
    return FAULTS[json.loads(request.partition(b"\r\n\r\n")[2])["messages"][-1]["content"]]


def command(folder: Path, base_url: str, *options: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """A run over all faults at DEBUG, with asyncio's own debugging; everything it leaves is in the folder."""
    rows = folder / "in.jsonl"
    if not rows.exists():
        rows.write_text("".join(json.dumps({"prompt": name}) + "\n" for name in FAULTS))
    own = ["run", str(rows), "-o", str(folder / "out.jsonl"), "-m", "openai/m", "--base-url", base_url, "-v"]
    own += ["--max-retries", "0", "--deadline", "1", "--summary", str(folder / "summary.json"), *options]
    return subprocess.run(
        [sys.executable, "-c", AT_DEBUG, *own],
        capture_output=True,
        env={**os.environ, "OPENAI_API_KEY": KEY, "PYTHONASYNCIODEBUG": "1", **environ},
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def check_no_secret(ran: subprocess.CompletedProcess[bytes], folder: Path) -> None:
    assert found_in(ran.stdout + ran.stderr, KEY, PASSWORD) == []
    assert found_in(content_of(folder), KEY, PASSWORD) == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    """Each form of a secret is found, also inside of other text, or the checks below would prove nothing."""
    for number, form in enumerate(forms(KEY)):
        (tmp_path / f"{number}").write_bytes(b"before " + form + b" after")
        assert form in found_in(content_of(tmp_path), KEY)


def test_the_command_tells_no_key_whatever_the_provider_gives_away(tmp_path: Path) -> None:
    """Log, messages, ledger, slot file, OUTPUT, summary, account: not one form of the key, though every answer has it."""
    with capturing(by_the_prompt) as provider:
        ran = command(tmp_path, provider.base_url)
    assert ran.returncode == 1, ran.stderr
    assert all(f"authorization: bearer {KEY}".lower().encode() in request.lower() for request in provider.requests)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [line["text"] for line in lines if line["error"] is None] == ["fine"]
    assert len(lines) == len(FAULTS)
    assert b"[key]" in ran.stderr
    check_no_secret(ran, tmp_path)


@pytest.mark.parametrize("status", ["401 Unauthorized", "402 Payment Required", "404 Not Found", "302 Found"])
def test_the_command_tells_no_key_when_it_is_refused(tmp_path: Path, status: str) -> None:
    """The answer that stops a run echoes the key in its body and headers; what is told of it does not."""
    with capturing(lambda _: http(status, TOLD, *IN_HEADERS)) as provider:
        ran = command(tmp_path, provider.base_url)
    assert ran.returncode in (1, 3), ran.stderr
    check_no_secret(ran, tmp_path)


def test_the_command_tells_no_key_when_tls_fails(tmp_path: Path) -> None:
    """An untrusted certificate, and a port that speaks no TLS."""
    with capturing(lambda _: good(), serving()) as untrusted, capturing(lambda _: good()) as plain:
        for number, provider in enumerate((untrusted, plain)):
            folder = tmp_path / str(number)
            folder.mkdir()
            ran = command(folder, provider.base_url.replace("http://", "https://"), "--limit", "1")
            assert ran.returncode in (1, 3), ran.stderr
            assert found_in(b"".join(provider.requests), KEY) == []
            check_no_secret(ran, folder)


@pytest.mark.parametrize(
    "url", ["http://me:{}@127.0.0.1:{}", "http://me:{}@127.0.0.1:{}0000", "socks5://me:{}@127.0.0.1:{}"]
)
def test_the_command_tells_no_password_of_a_proxy(tmp_path: Path, url: str) -> None:
    """A proxy that refuses, and variables that are wrong: neither the password nor the key is told, nor sent to the proxy."""
    with capturing(lambda _: http("407 Proxy Authentication Required", PAGE, *IN_HEADERS)) as proxy:
        environ = {"HTTPS_PROXY": url.format(PASSWORD, proxy.port)}
        ran = command(tmp_path, "https://127.0.0.1:9/v1", "--limit", "1", **environ)
    assert ran.returncode in (1, 2, 3), ran.stderr
    assert found_in(b"".join(proxy.requests), KEY) == []
    check_no_secret(ran, tmp_path)


def everything_about(error: BaseException) -> bytes:
    """All that an error may show: text, repr, traceback with its causes, fields, pickle."""
    told = [str(error), repr(error), "".join(traceback.format_exception(error)), repr(vars(error))]
    return "\n".join(told).encode() + pickle.dumps(error)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_library_tells_no_key_in_errors_and_logs(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """Text, repr, traceback, fields and pickle of every error, results and their reprs, and the log at DEBUG."""
    caplog.set_level(logging.DEBUG)

    async def ask(provider: Captured) -> bytes:
        asyncio.get_running_loop().set_debug(True)
        async with Client(
            "openai/m", api_key=KEY, base_url=provider.base_url, max_retries=0, prices=FreeOfCharge()
        ) as client:
            shown = [repr(client), repr(client.provider), repr(client.statistics())]
            [result] = await client.gather([fault])
            shown += [repr(result), repr(result.response), client.waiting_for()]
            told = everything_about(result.error) if result.error else b""
            try:
                await client.generate(fault)
            except PenstockError as error:
                told += everything_about(error)
        return told + "\n".join(shown).encode()

    with capturing(by_the_prompt) as provider:
        told = asyncio.run(ask(provider))
    assert len(provider.requests) == 2
    assert found_in(told + caplog.text.encode(), KEY) == []


def test_no_public_object_shows_the_key_in_its_repr() -> None:
    """Clients, transport, provider, calls."""
    client = Client("openai/m", api_key=KEY)
    call = client.provider.call(b"{}", "m")
    transport = HttpTransport(environ={"HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9"})
    transport.check(call)
    with BlockingClient("openai/m", api_key=KEY) as blocking:
        shown = [client, blocking, client.provider, call, transport, *vars(transport).values()]
        assert found_in("\n".join(map(repr, shown)).encode(), KEY, PASSWORD) == []


class Broken(FreeOfCharge):
    """A part that fails as no part should."""

    def cost(self, model: str, usage: Any) -> float | None:
        raise ZeroDivisionError("a defect")


async def test_the_traceback_of_a_defect_shows_no_key() -> None:
    """An error that nobody foresaw, in the middle of a run, printed with all its causes."""
    with capturing(lambda _: good()) as provider:
        async with Client("openai/m", api_key=KEY, base_url=provider.base_url, prices=Broken()) as client:
            with pytest.raises(ZeroDivisionError) as raised:
                await client.gather(["hi"])
    assert found_in(everything_about(raised.value), KEY) == []


REDIRECTS = ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]


@pytest.mark.parametrize("status", REDIRECTS)
async def test_a_redirect_is_never_followed(status: str) -> None:
    """The other origin hears nothing at all; the caller gets a typed error."""
    with capturing(lambda _: good()) as other:
        location = f"Location: {other.base_url}/chat/completions"
        with capturing(lambda _: http(status, b"", location)) as provider:
            async with Client("openai/m", api_key=KEY, base_url=provider.base_url, prices=FreeOfCharge()) as client:
                with pytest.raises(PenstockError):
                    await client.generate("hi", user="me")
    assert provider.requests
    assert other.requests == []


async def test_what_a_row_says_changes_neither_address_nor_key() -> None:
    """`base_url`, `api_key`, headers and proxies in a row are fields of its body, like any other."""
    with capturing(lambda _: good()) as other, capturing(lambda _: good()) as provider:
        fields = {
            "base_url": other.base_url,
            "api_base": other.base_url,
            "url": f"{other.base_url}/chat/completions",
            "api_key": "sk-of-the-row",
            "headers": {"Authorization": "Bearer sk-of-the-row"},
            "extra_headers": {"Authorization": "Bearer sk-of-the-row", "Host": "evil.example"},
            "proxy": f"http://127.0.0.1:{other.port}",
        }
        rows = [{"messages": [{"role": "user", "content": "hi"}], **fields}, {"prompt": "hi", "params": fields}]
        async with Client("openai/m", api_key=KEY, base_url=provider.base_url, prices=FreeOfCharge()) as client:
            results = await client.gather(rows)
            assert [result.ok for result in results] == [True, True]
            await client.generate("hi", **fields)
    assert other.requests == []
    assert len(provider.requests) == 3
    for request in provider.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.lower().count(b"authorization:") == 1
        assert f"bearer {KEY}".lower().encode() in head.lower()
        assert b"sk-of-the-row" not in head
        assert f"host: 127.0.0.1:{provider.port}".encode() in head.lower()
        assert json.loads(body)["api_key"] == "sk-of-the-row"


async def test_a_key_goes_only_to_the_origin_of_its_own_call() -> None:
    """One transport, two origins in turn: each hears its own key and never the other's."""
    keys = [f"sk-of-{number}-canary" for number in range(2)]
    with capturing(lambda _: good()) as first, capturing(lambda _: good()) as second:
        async with HttpTransport(environ={}) as transport:
            for _ in range(3):
                for key, server in zip(keys, (first, second), strict=True):
                    headers = (("Authorization", f"Bearer {key}"),)
                    await transport.send(HttpCall(f"{server.base_url}/x", headers, b"{}"), PATIENT)
    for own, foreign, server in ((*keys, first), (*reversed(keys), second)):
        assert len(server.requests) == 3
        assert all(own.encode() in request and foreign.encode() not in request for request in server.requests)


def _of(call: Callable[[], object]) -> BaseException:
    with pytest.raises(PenstockError) as raised:
        call()
    return raised.value


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": f"{KEY}\n{KEY}"},
        {"api_key": f"{KEY}\u20ac"},
        {"api_key": KEY, "base_url": f"http://me:{KEY}@127.0.0.1/v1"},
        {"api_key": KEY, "base_url": f"http://me:a?{KEY}@127.0.0.1/v1"},
        {"api_key": KEY, "base_url": f"http://me:{KEY}#b@127.0.0.1/v1"},
        {"api_key": KEY, "base_url": f"me:{KEY}@127.0.0.1/v1"},
        {"api_key": KEY, "base_url": f"https://127.0.0.1/v1#{KEY}"},
        {"api_key": KEY, "base_url": f"https://127.0.0.1/v1?mail=me@{KEY}"},
        {"api_key": KEY, "base_url": f"ftp://127.0.0.1/v1?key={KEY}"},
        {"api_key": KEY, "base_url": f"127.0.0.1/v1?key={KEY}"},
        {"api_key": KEY, "base_url": f"http://[::1/v1?key={KEY}"},
    ],
)
def test_an_option_that_is_refused_is_told_without_the_secret_in_it(options: dict[str, str]) -> None:
    """Keys that cannot be a header, and addresses that carry a secret."""
    assert found_in(everything_about(_of(lambda: Client("openai/m", **options))), KEY) == []  # type: ignore[arg-type]
