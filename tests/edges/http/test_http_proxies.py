"""Proxies out of the environment: which one, and what is said to it."""

from __future__ import annotations

import base64

import pytest

from penstock.edges.http import HttpTransport
from penstock.edges.http.proxies import Proxies
from penstock.edges.http.wire import Origin
from penstock.errors import NotSent, UsageError
from tests.kit.hostile import Peer, Script, answer, hostile
from tests.kit.http_probe import PATIENT, SHORT, nothing_leaks, post
from tests.kit.http_proxy import ConnectProxy
from tests.kit.http_tls import serving, trusting

API = Origin("https", "api.example.com", 443)
CREDENTIALS = "Basic " + base64.b64encode(b"me:p@ss").decode()


@pytest.mark.parametrize(
    ("environ", "origin", "chosen"),
    [
        ({}, API, None),
        ({"HTTPS_PROXY": "http://p:1"}, API, "p:1"),
        ({"https_proxy": "http://p:1"}, API, "p:1"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, API, "low:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://up:1"}, API, None),
        ({"HTTP_PROXY": "http://p:1"}, API, None),
        ({"HTTP_PROXY": "http://p:1"}, Origin("http", "h", 80), "p:1"),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, Origin("http", "h", 80), None),
        ({"ALL_PROXY": "http://p:1"}, API, "p:1"),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:2"}, API, "q:2"),
        ({"HTTPS_PROXY": "p:3128"}, API, "p:3128"),
        ({"HTTPS_PROXY": "http://p"}, API, "p:80"),
        ({"HTTPS_PROXY": "https://p"}, API, "p:443"),
        ({"HTTPS_PROXY": "http://[::1]:8"}, API, "[::1]:8"),
        ({"HTTPS_PROXY": "http://p:1"}, Origin("https", "127.0.0.1", 443), "p:1"),
    ],
)
def test_the_variable_of_the_scheme_chooses_the_proxy(
    environ: dict[str, str], origin: Origin, chosen: str | None
) -> None:
    """Lower case before upper, the scheme's own before ALL_PROXY, none for CGI's HTTP_PROXY; loopback is no exception."""
    proxy = Proxies(environ).proxy_for(origin)
    assert (proxy and proxy.origin.authority) == chosen


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("*", "api.example.com", True),
        ("example.com", "api.example.com", True),
        ("example.com", "example.com", True),
        (".example.com", "api.example.com", True),
        (".example.com", "example.com", True),
        ("*.example.com", "api.example.com", True),
        ("EXAMPLE.com", "api.example.com", True),
        ("ample.com", "api.example.com", False),
        ("example.com.evil", "api.example.com", False),
        ("a.test, example.com", "api.example.com", True),
        ("a.test example.com", "api.example.com", True),
        ("example.com:443", "api.example.com", True),
        ("example.com:8443", "api.example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "api.example.com", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:443", "::1", True),
        ("[::1]:1", "::1", False),
        ("2001:db8::/32", "2001:db8::7", True),
        ("localhost,127.0.0.1", "127.0.0.1", True),
        ("", "api.example.com", False),
        (",", "api.example.com", False),
    ],
)
def test_no_proxy_names_what_is_reached_directly(no_proxy: str, host: str, direct: bool) -> None:
    """Names with all below them, ports, addresses and networks."""
    proxies = Proxies({"HTTPS_PROXY": "http://p:1", "NO_PROXY": no_proxy})
    assert (proxies.proxy_for(Origin("https", host, 443)) is None) is direct


@pytest.mark.parametrize("url", ["socks5://p:1", "http://p:x", "http://", "http://p q"])
def test_a_proxy_that_cannot_be_used_is_told(url: str) -> None:
    """No request goes out past a proxy that someone meant to be used."""
    with pytest.raises(UsageError):
        Proxies({"HTTPS_PROXY": url}).proxy_for(API)


def test_a_proxy_never_shows_its_password() -> None:
    """Its repr names scheme, host and port."""
    proxy = Proxies({"HTTPS_PROXY": "http://me:sk-canary@p:1"}).proxy_for(API)
    assert repr(proxy) == "Proxy(http://p:1)"


async def answers(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(answer(b"through"))


@pytest.mark.parametrize("secure_proxy", [False, True])
async def test_https_goes_through_a_tunnel(secure_proxy: bool) -> None:
    """One tunnel serves many requests; the proxy hears CONNECT and its own credentials, and never the key."""
    proxy = ConnectProxy()
    tls = serving() if secure_proxy else None
    async with nothing_leaks(), hostile(answers, tls=serving()) as server, hostile(proxy, tls=tls) as gate:
        environ = {"HTTPS_PROXY": f"{gate.scheme}://me:p%40ss@127.0.0.1:{gate.port}"}
        client = HttpTransport(environ=environ, ssl_context=trusting())
        for _ in range(2):
            assert (await client.send(post(server.url()), PATIENT)).body == b"through"
        where = f"127.0.0.1:{server.port}".encode()
        expected = b"CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: %s\r\n\r\n"
        assert proxy.heard == [expected % (where, where, CREDENTIALS.encode())]
        assert client.statistics().reused == 1
        await client.aclose()


async def test_no_proxy_goes_past_the_proxy() -> None:
    """The proxy hears nothing."""
    proxy = ConnectProxy()
    async with hostile(answers, tls=serving()) as server, hostile(proxy) as gate:
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{gate.port}", "NO_PROXY": "127.0.0.1"}
        async with HttpTransport(environ=environ, ssl_context=trusting()) as client:
            assert (await client.send(post(server.url()), PATIENT)).body == b"through"
        assert proxy.heard == []


async def test_plain_http_names_the_whole_url_to_the_proxy() -> None:
    """Absolute form, with the proxy's credentials, and the host that is meant."""
    heard: list[bytes] = []

    async def proxy(peer: Peer) -> None:
        heard.append(await peer.request())
        await peer.send(answer(b"through"))

    async with (
        hostile(proxy) as gate,
        HttpTransport(environ={"http_proxy": f"me:p%40ss@127.0.0.1:{gate.port}"}) as client,
    ):
        assert (await client.send(post("http://name.test/v1?a=b"), PATIENT)).body == b"through"
    lines = heard[0].split(b"\r\n")
    assert lines[:2] == [b"POST http://name.test/v1?a=b HTTP/1.1", b"Host: name.test"]
    assert f"Proxy-Authorization: {CREDENTIALS}".encode() in lines


def refuses(*pieces: bytes) -> Script:
    """A proxy that hears the request for a tunnel and says this."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(*pieces)
        peer.end()

    return script


REFUSALS = {
    "wants credentials": (refuses(b"HTTP/1.1 407 No\r\n\r\n"), "user name and password"),
    "forbids": (refuses(b"HTTP/1.1 403 Forbidden\r\n", b"X: y\r\n\r\n"), "status 403"),
    "says nothing": (refuses(), "closed the connection"),
    "says half": (refuses(b"HTTP/1.1 200 OK\r\n"), "closed the connection"),
    "speaks something else": (refuses(b"SSH-2.0-x\r\n\r\n"), "does not speak HTTP"),
    "has no end": (refuses(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 12_000), "no end"),
    "goes on talking": (refuses(b"HTTP/1.1 200 OK\r\n\r\nHello"), "nobody asked"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_proxy_that_refuses_is_told_as_such(name: str) -> None:
    """Code "proxy", nothing was sent, nothing is left, and no credentials are shown."""
    script, reason = REFUSALS[name]
    async with nothing_leaks(), hostile(script) as gate:
        environ = {"HTTPS_PROXY": f"http://me:sk-canary@127.0.0.1:{gate.port}"}
        async with HttpTransport(environ=environ, ssl_context=trusting()) as client:
            with pytest.raises(NotSent, match=reason) as caught:
                await client.send(post("https://127.0.0.1:9/"), PATIENT)
            assert caught.value.code == "proxy"
            assert "sk-canary" not in repr(caught.value)
            assert client.statistics().connecting == 0


async def test_a_proxy_that_is_not_there_or_never_answers_is_told() -> None:
    """Refused: code "proxy". Silent: the connect time-out."""
    async with nothing_leaks(), hostile(Peer.gone) as gate:
        for port, code in ((gate.port, "timeout"), (1, "proxy")):
            async with HttpTransport(environ={"HTTPS_PROXY": f"http://127.0.0.1:{port}"}) as client:
                with pytest.raises(NotSent) as caught:
                    await client.send(post("https://127.0.0.1:9/"), SHORT)
                assert caught.value.code == code


async def test_a_certificate_refused_through_a_tunnel_is_told_as_tls() -> None:
    """The tunnel stands, the origin's certificate does not."""
    async with nothing_leaks(), hostile(answers, tls=serving()) as server, hostile(ConnectProxy()) as gate:
        client = HttpTransport(environ={"HTTPS_PROXY": f"http://127.0.0.1:{gate.port}"})
        with pytest.raises(NotSent) as caught:
            await client.send(post(server.url()), PATIENT)
        assert caught.value.code == "tls"
        await client.aclose()
