"""Who may ask: default deny over the router's own list of routes, keys, host names, media types, other origins."""

from __future__ import annotations

import ast
import inspect
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import BaseRoute

from penstock.server import security
from penstock.server.app import Server
from penstock.server.security import Guest, Keys
from tests.kit.serving import (
    CHAT,
    HI,
    Served,
    Wire,
    echoes,
    gateway,
    key_of,
    provider,
    request,
    served,
    settings_for,
    wire,
)

KEYS = {"team": "interactive", "nightly": "batch"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def routes_of(server: Server) -> Iterator[tuple[str, set[str]]]:
    """Path and methods of every route that the router has, however it got there."""

    def walk(routes: list[BaseRoute]) -> Iterator[tuple[str, set[str]]]:
        for route in routes:
            if nested := getattr(route, "routes", None):
                yield from walk(nested)
            elif (effective := getattr(route, "effective_route_contexts", None)) is not None:
                for each in effective():
                    yield each.path, set(each.methods or ())
            else:
                yield route.path, set(route.methods or ())  # type: ignore[attr-defined]

    yield from walk(server.app.router.routes)


def targets(path: str) -> list[str]:
    """A route's path with its parameters filled in, and in every disguise that might lead past a rule about it."""
    plain = re.sub(r"\{[^}]*\}", "file-0123456789abcdef01234567", path)
    first, rest = plain[1:2], plain[2:]
    return [
        plain,
        f"{plain}/",
        f"/{plain}",
        f"//{plain}//",
        f"/%{ord(first or 'x'):02x}{rest}",
        plain.replace("/", "/%2e/"),
        f"/healthz/..{plain}",
        f"/healthz/%2e%2e{plain}",
        f"/healthz%2f..{plain}",
        f"/%2fhealthz{plain}",
        f"/healthz;{plain}",
        plain.upper(),
        f"{plain}?/healthz",
        f"{plain}%00",
        f"{plain}%3f",
        f"{plain}#/healthz",
        f"http://127.0.0.1{plain}",
        f"http://localhost/healthz/..{plain}",
    ]


async def status_of(line: Wire, server: Served, method: str, target: str, **headers: str) -> int:
    given = {"host": "localhost", "content-type": "application/json"} | headers
    body = b"{}" if method in ("POST", "PUT", "PATCH") else None
    await line.send(request(method, target, list(given.items()), body))
    told = await line.answer(method)
    return told.status


OPEN = {("/healthz", "GET")}


def test_the_router_has_the_routes_that_are_walked(tmp_path: Path) -> None:
    """Or the walk would prove nothing."""
    server = Server(settings_for("http://127.0.0.1:9/v1", tmp_path), {})
    found = dict(routes_of(server))
    document = {re.sub(r":path\}", "}", path) for path in found}
    assert set(server.app.openapi()["paths"]) <= document
    assert {CHAT, "/generate", "/generate/stream", "/generate/batch", "/metrics", "/healthz", "/openapi.json"} <= set(
        found
    )


async def test_every_route_but_healthz_needs_a_key(tmp_path: Path) -> None:
    """Every route of the router, every method, every disguise: 401, or 404/400 where the server understands no route at all."""
    reached = 0
    async with gateway(echoes, tmp_path, keys=KEYS) as (server, upstream):
        for path, _ in routes_of(server.server):
            for method in METHODS:
                for target in targets(path):
                    async with wire(server.port) as line:
                        status = await status_of(line, server, method, target)
                    plain = target in (
                        "/healthz",
                        "/%68ealthz",
                        "http://127.0.0.1/healthz",
                        "/healthz?/healthz",
                        "/healthz#/healthz",
                    )
                    if path == "/healthz" and plain and method in ("GET", "HEAD"):
                        assert status in (200, 405), (method, target, status)
                        reached += 1
                    else:
                        assert status in (400, 401), (method, target, status)
        assert {exchange.status for exchange in server.over.all} == {401}
        assert {exchange.route for exchange in server.over.all} == {""}
    assert reached
    assert upstream.asked.all == []


async def test_with_a_key_every_route_is_there(tmp_path: Path) -> None:
    """The walk above would also pass over a server that answers 401 to everything."""
    async with gateway(echoes, tmp_path, keys=KEYS) as (server, _):
        for path, methods in routes_of(server.server):
            for method in methods - {"HEAD"}:
                target = targets(path)[0]
                async with wire(server.port) as line:
                    status = await status_of(line, server, method, target, authorization=f"Bearer {key_of('team')}")
                assert status not in (401, 403, 405, 421, 500), (method, path, status)


WRONG = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer  ",
    "Bearer wrong",
    f"Bearer {key_of('team')}x",
    f"Bearer {key_of('team')[:-1]}",
    f"Bearer {key_of('team').upper()}",
    f"Bearer {key_of('team')} {key_of('team')}",
    f"Bearer {key_of('team')},{key_of('nightly')}",
    f"Basic {key_of('team')}",
    f"Token {key_of('team')}",
    key_of("team"),
    f"Bearer{key_of('team')}",
    "Bearer \xff\xfe",
    "Bearer None",
    "Bearer *",
    "Bearer " + "x" * 50_000,
]


async def test_a_wrong_key_is_a_401_whatever_it_looks_like(tmp_path: Path) -> None:
    """Empty, cut, huge, of another scheme; and neither in the query nor under another header."""
    async with gateway(echoes, tmp_path, keys=KEYS) as (server, upstream):
        for wrong in WRONG:
            told = await server.ask(body=HI, headers={"authorization": wrong})
            assert (told.status, told.error["code"]) == (401, "invalid_api_key"), wrong[:60]
            assert told.error["type"] == "authentication_error"
        for headers in (
            {},
            {"x-api-key": key_of("team")},
            {"api-key": key_of("team")},
            {"cookie": f"key={key_of('team')}"},
        ):
            told = await server.ask(f"{CHAT}?api_key={key_of('team')}", HI, headers=headers)
            assert (told.status, told.error["code"]) == (401, "missing_api_key")
        for right in (f"Bearer {key_of('team')}", f"bearer {key_of('nightly')}", f"BEARER   {key_of('team')}"):
            assert (await server.ask(body=HI, headers={"authorization": right})).status == 200
    assert len(upstream.asked.all) == 3


async def test_a_key_decides_the_lane_and_the_name_in_the_account(tmp_path: Path) -> None:
    async with gateway(echoes, tmp_path, keys=KEYS) as (server, _):
        for name in KEYS:
            assert (await server.ask(body=HI, key=key_of(name))).status == 200
        over = await server.over.at_least(2)
    assert [exchange.key_name for exchange in over] == list(KEYS)


async def test_without_keys_any_key_passes_on_loopback(tmp_path: Path) -> None:
    """Clients must send one, whatever it is."""
    async with gateway(echoes, tmp_path) as (server, _):
        for key in (None, "any", "x" * 1_000):
            assert (await server.ask(body=HI, key=key)).status == 200


# -- S5: constant time


def test_keys_are_compared_as_hashes_in_constant_time() -> None:
    """By the source: digests only are kept, every key is compared, by `compare_digest`, and nothing leaves the loop early."""
    tree = ast.parse(inspect.getsource(security))
    (keys,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Keys")
    (guest,) = (node for node in keys.body if isinstance(node, ast.FunctionDef) and node.name == "guest")
    (loop,) = (node for node in ast.walk(guest) if isinstance(node, ast.For))
    inside = [node for part in loop.body for node in ast.walk(part)]
    assert not any(isinstance(node, ast.Return | ast.Break | ast.Continue | ast.Raise | ast.Compare) for node in inside)
    called = [ast.unparse(node.func) for node in inside if isinstance(node, ast.Call)]
    assert called == ["hmac.compare_digest"]


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    original = security.hmac.compare_digest

    def counting(known: bytes, sent: bytes) -> bool:
        compared.append((known, sent))
        return original(known, sent)

    monkeypatch.setattr(security.hmac, "compare_digest", counting)
    keys = Keys((f"key-number-{number}", Guest(str(number))) for number in range(5))
    for sent, name in (("key-number-0", "0"), ("key-number-4", "4"), ("other", None)):
        compared.clear()
        guest = keys.guest(f"Bearer {sent}".encode())
        assert (guest.key_name if guest else None) == name
        assert len(compared) == 5
        assert {len(each) for pair in compared for each in pair} == {32}


def test_what_holds_the_keys_shows_none() -> None:
    """Not in its repr, nor in anything that can be reached from it."""
    keys = Keys([("sk-canary-of-a-client", Guest("team"))])
    assert "sk-canary" not in f"{keys!r} {vars(keys)!r}"
    assert "team" in repr(keys)


# -- host names

ALLOWED = ["localhost", "LOCALHOST", "localhost:1234", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8000"]
REFUSED = [
    "",
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "evil.example/localhost",
    "localhost@evil.example",
    "evil.example#localhost",
    "localhost:80:80",
    "localhost:http",
    "localhost:",
    "localhost:\xb2",
    "localhost.",
    "127.0.0.1.nip.io",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
    "0.0.0.0",
    "::1",
    "[::1",
    "[::ffff:127.0.0.1]",
    "[0:0:0:0:0:0:0:1]",
    "localhost, evil.example",
    "local host",
    "\xe9.example",
]


async def test_only_known_host_names_are_answered(tmp_path: Path) -> None:
    """No web page can point a name of its own at us: 421, before anything is read or sent."""
    async with gateway(echoes, tmp_path) as (server, upstream):
        for host in ALLOWED:
            assert (await server.ask(body=HI, headers={"host": host})).status == 200, host
        for host in REFUSED:
            told = await server.ask(body=HI, headers={"host": host})
            assert (told.status, told.error["code"]) == (421, "unknown_host"), host
            assert (await server.ask("/v1/models", headers={"host": host})).status == 421, host
            forwarded = {"host": "evil.example", "x-forwarded-host": "localhost", "forwarded": "host=localhost"}
            assert (await server.ask("/v1/models", headers=forwarded)).status == 421
    assert len(upstream.asked.all) == len(ALLOWED)


async def test_host_twice_or_missing_is_refused(tmp_path: Path) -> None:
    """Also where both are the same, and with HTTP/1.0, which needs none; and so for each header that decides."""
    async with gateway(echoes, tmp_path) as (server, upstream):
        good = [("host", "localhost"), ("content-type", "application/json")]
        for name, values in {
            "host": ["localhost", "evil.example", ""],
            "content-type": ["application/json", "text/plain"],
            "authorization": ["Bearer a", "Bearer b"],
        }.items():
            for value in values:
                twice = [*good, ("authorization", "Bearer a"), (name, value)]
                async with wire(server.port) as line:
                    await line.send(request("POST", CHAT, twice, b"{}"))
                    assert (await line.answer()).status == 400, (name, value)
        async with wire(server.port) as line:
            await line.send(request("POST", CHAT, good[1:], b"{}"))
            assert (await line.answer()).status == 421
        async with wire(server.port) as line:
            await line.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
            assert (await line.answer()).status == 421
    assert upstream.asked.all == []


async def test_further_names_are_answered_where_the_settings_say_so(tmp_path: Path) -> None:
    async with provider(echoes) as upstream:
        settings = settings_for(upstream.base_url, tmp_path, hosts=["API.example.com", "fd00::1"])
        async with served(settings) as server:
            for host, status in {"api.example.com:443": 200, "[fd00::1]": 200, "example.com": 421}.items():
                assert (await server.ask(body=HI, headers={"host": host})).status == status
        async with served(settings_for(upstream.base_url, tmp_path, hosts=["*"])) as server:
            assert (await server.ask(body=HI, headers={"host": "whatever.example"})).status == 200


# -- what a web page can send

OF_A_PAGE = [
    None,
    "",
    "text/plain",
    "text/plain;charset=UTF-8",
    "text/plain; application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=application/json",
    "application/json-patch+json",
    "application/jsonp",
    "application/csp-report",
    "application/reports+json",
    "text/json",
    "*/*",
    "application/json, text/plain",
    "application\\json",
]


async def test_no_request_that_a_page_of_another_origin_can_send_gets_past_the_door(tmp_path: Path) -> None:
    """Every POST route: forms, text, beacons, and no type at all are 415, so that no page can spend money."""
    async with gateway(echoes, tmp_path) as (server, upstream):
        posts = [targets(path)[0] for path, methods in routes_of(server.server) if "POST" in methods]
        assert len(posts) >= 4
        for target in posts:
            for kind in OF_A_PAGE:
                headers = [("host", "localhost"), ("origin", "https://evil.example")]
                headers += [("content-type", kind)] if kind is not None else []
                async with wire(server.port) as line:
                    await line.send(request("POST", target, headers, b'{"prompt":"x"}'))
                    told = await line.answer()
                assert (told.status, told.error["code"]) == (415, "unsupported_media_type"), (target, kind)
        for kind in ("application/json", "Application/JSON; charset=utf-8", "application/json ;x=y"):
            assert (await server.ask(body=HI, headers={"content-type": kind})).status == 200
    assert len(upstream.asked.all) == 3


async def test_no_answer_lets_another_origin_read_it(tmp_path: Path) -> None:
    """No header of CORS anywhere, also for a preflight, which is answered without a leave."""
    preflight = {
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
        "access-control-request-private-network": "true",
    }
    async with gateway(echoes, tmp_path) as (server, _):
        for path, methods in routes_of(server.server):
            target = targets(path)[0]
            for method in {"OPTIONS", "GET", *methods}:
                body: Any = {"prompt": "x"} if method == "POST" else None
                async with wire(server.port) as line:
                    await line.send(server.request(method, target, body, headers=preflight))
                    told = await line.answer(method)
                assert not [name for name, _ in told.headers if name.startswith("access-control")], (method, target)
                if method == "OPTIONS":
                    assert told.status in (404, 405), target


async def test_odd_requests_are_refused_and_never_reach_the_provider(tmp_path: Path) -> None:
    """Targets, methods and framing that no client sends, drawn from a seed too; the server goes on."""
    chance = random.Random(7)
    noise = [bytes(chance.randrange(256) for _ in range(chance.randrange(1, 400))) for _ in range(60)]
    odd = [
        b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        b"GET  / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\xe9 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/2.0\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: localhost\r\n a: folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nbad header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n",
        *noise,
    ]
    async with gateway(echoes, tmp_path) as (server, upstream):
        for sent in odd:
            async with wire(server.port) as line:
                await line.send(sent)
                line.writer.write_eof()
                told = await line.ended()
            assert not told.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5")), (sent, told)
        assert (await server.ask(body=HI)).status == 200
    assert len(upstream.asked.all) == 1
