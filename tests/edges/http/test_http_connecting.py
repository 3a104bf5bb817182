"""What keeps a connection from coming about is told as NotSent, with a code, and leaves nothing open."""

from __future__ import annotations

import asyncio
import errno
import pathlib
import socket

import pytest
import uvloop

from penstock.edges.http import HttpTransport, dial, forbid_network, resolver
from penstock.edges.http.wire import parse_url
from penstock.errors import BadAnswer, NotSent, UsageError
from penstock.options import Timeouts
from tests.kit.hostile import Peer, answer, hostile
from tests.kit.http_probe import PATIENT, SHORT, nothing_leaks, post, until
from tests.kit.http_tls import authority, serving, trusting

NAMED = "http://name.test:{port}/"


async def answers(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(answer())


@pytest.fixture(autouse=True)
def names_may_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift the ban that the whole suite runs under; every test that uses a name answers the look-up itself."""
    monkeypatch.setattr(resolver, "_forbidden", 0)


def found(*addresses: tuple[str, int]) -> list[resolver.AddressInfo]:
    """What a look-up of a name with these addresses brings."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]


async def refusal(client: HttpTransport, url: str, timeouts: Timeouts = PATIENT) -> NotSent:
    """The error that a request to this URL ends with; nothing of the transport may be left."""
    with pytest.raises(NotSent) as caught:
        await client.send(post(url), timeouts)
    now = client.statistics()
    assert (now.open, now.connecting, now.waiting) == (0, 0, 0)
    assert caught.value.kind == "connect"
    assert not caught.value.maybe_billed
    assert "sk-canary" not in repr(caught.value)
    return caught.value


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def test_a_refused_connection_says_so() -> None:
    """Code "refused"."""
    async with nothing_leaks(), HttpTransport(environ={}) as client:
        assert (await refusal(client, f"http://127.0.0.1:{closed_port()}/")).code == "refused"


async def test_a_name_that_is_not_found_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code "dns", and the failure is not remembered."""
    failing = True

    async def lookup(host: str, port: int) -> list[resolver.AddressInfo]:
        if failing:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(("127.0.0.1", port))

    monkeypatch.setattr(resolver, "_ask_system", lookup)
    async with nothing_leaks(), hostile(answers) as server, HttpTransport(environ={}) as client:
        url = NAMED.format(port=server.port)
        error = await refusal(client, url)
        assert error.code == "dns"
        assert "name.test" in error.message
        failing = False
        assert (await client.send(post(url), PATIENT)).status == 200


async def test_a_look_up_is_shared_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many connections at once to one name cost one look-up."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[resolver.AddressInfo]:
        asked.append(host)
        await asyncio.sleep(0)
        return found(("127.0.0.1", port))

    monkeypatch.setattr(resolver, "_ask_system", lookup)
    async with hostile(answers) as server, HttpTransport(environ={}) as client:
        call = post(NAMED.format(port=server.port))
        await asyncio.gather(*[client.send(call, PATIENT) for _ in range(10)])
        assert client.statistics().opened == 10
        assert asked == ["name.test"]


async def test_a_look_up_that_one_gave_up_serves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling one request does not cancel the name look-up that another waits for."""
    ready = asyncio.Event()

    async def lookup(host: str, port: int) -> list[resolver.AddressInfo]:
        await ready.wait()
        return found(("127.0.0.1", port))

    monkeypatch.setattr(resolver, "_ask_system", lookup)
    async with nothing_leaks(), hostile(answers) as server, HttpTransport(environ={}) as client:
        call = post(NAMED.format(port=server.port))
        first, second = (asyncio.create_task(client.send(call, PATIENT)) for _ in range(2))
        await until(lambda: client.statistics().connecting == 2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        ready.set()
        assert (await second).status == 200


async def test_the_next_address_is_tried_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose first address refuses is still reached."""
    dead = ("127.0.0.1", closed_port())

    async def lookup(host: str, port: int) -> list[resolver.AddressInfo]:
        return found(dead, ("127.0.0.1", port))

    monkeypatch.setattr(resolver, "_ask_system", lookup)
    async with nothing_leaks(), hostile(answers) as server, HttpTransport(environ={}) as client:
        assert (await client.send(post(NAMED.format(port=server.port)), PATIENT)).status == 200


async def test_a_connection_that_takes_too_long_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code "timeout" after `connect` seconds, wherever the time went: look-up, or an accept queue that is full."""

    async def lookup(host: str, port: int) -> list[resolver.AddressInfo]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(resolver, "_ask_system", lookup)
    async with nothing_leaks(), HttpTransport(environ={}) as client:
        error = await refusal(client, "http://name.test/", SHORT)
        assert error.code == "timeout"
        assert "0.2 s" in error.message
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            queued = [socket.socket() for _ in range(4)]
            for sock in queued:
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            assert (await refusal(client, f"http://127.0.0.1:{full.getsockname()[1]}/", SHORT)).code == "timeout"
            for sock in queued:
                sock.close()


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH])
async def test_an_unreachable_address_says_so(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code "unreachable"."""

    async def unreachable(address: object) -> socket.socket:
        raise OSError(number, "unreachable")

    monkeypatch.setattr(dial, "_connect_to", unreachable)
    async with HttpTransport(environ={}) as client:
        assert (await refusal(client, "http://127.0.0.1:9/")).code == "unreachable"


async def test_a_server_that_never_shakes_hands_ends_in_time() -> None:
    """The connect time-out covers TLS too."""
    async with nothing_leaks(), hostile(Peer.gone) as server, HttpTransport(environ={}) as client:
        assert (await refusal(client, f"https://127.0.0.1:{server.port}/", SHORT)).code == "timeout"


async def test_a_handshake_cut_short_may_be_tried_again() -> None:
    """Code "reset", not "tls": a load balancer that restarts must not stop a run."""

    async def cuts(peer: Peer) -> None:
        await peer.reader.read(1)
        peer.reset()

    async with nothing_leaks(), hostile(cuts) as server, HttpTransport(environ={}) as client:
        assert (await refusal(client, f"https://127.0.0.1:{server.port}/")).code == "reset"


async def test_a_server_without_tls_says_so() -> None:
    """Code "tls"."""

    async def plain(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    async with nothing_leaks(), hostile(plain) as server, HttpTransport(environ={}) as client:
        error = await refusal(client, f"https://127.0.0.1:{server.port}/")
        assert error.code == "tls"


@pytest.mark.parametrize("name", ["127.0.0.1", "other.test"])
async def test_a_certificate_that_is_not_trusted_or_of_another_host_is_refused(name: str) -> None:
    """Code "tls", and the message names SSL_CERT_FILE."""
    context = trusting() if name == "other.test" else None
    async with nothing_leaks(), hostile(answers, tls=serving(name)) as server:
        async with HttpTransport(environ={}, ssl_context=context) as client:
            error = await refusal(client, server.url())
        assert error.code == "tls"
        assert "SSL_CERT_FILE" in error.message


async def test_tls_with_a_context_of_the_callers_own() -> None:
    """Requests go through and the connection is kept."""
    async with nothing_leaks(), hostile(answers, tls=serving()) as server:
        client = HttpTransport(environ={}, ssl_context=trusting())
        for _ in range(2):
            assert (await client.send(post(server.url()), PATIENT)).status == 200
        assert (client.statistics().opened, client.statistics().reused) == (1, 1)
        await client.aclose()


async def test_the_certificate_file_of_the_environment_is_trusted(tmp_path: pathlib.Path) -> None:
    """SSL_CERT_FILE works; one that is not there is told by name."""
    file = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(file))
    async with hostile(answers, tls=serving()) as server:
        async with HttpTransport(environ={"SSL_CERT_FILE": str(file)}) as client:
            assert (await client.send(post(server.url()), PATIENT)).status == 200
        async with HttpTransport(environ={"SSL_CERT_FILE": str(tmp_path / "none.pem")}) as client:
            with pytest.raises(UsageError, match=r"none\.pem"):
                await client.send(post(server.url()), PATIENT)


async def test_a_body_cut_by_the_end_of_tls_is_told() -> None:
    """A cut answer is truncated over TLS as well."""

    async def cuts(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        peer.end()

    async with nothing_leaks(), hostile(cuts, tls=serving()) as server:
        client = HttpTransport(environ={}, ssl_context=trusting())
        with pytest.raises(BadAnswer) as caught:
            await client.send(post(server.url()), PATIENT)
        assert caught.value.kind == "truncated"
        await client.aclose()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("[2001:db8::1]", False),
        ("0.0.0.0", False),
        ("name.test", False),
        ("localhost.evil.test", False),
    ],
)
async def test_the_no_network_switch_lets_only_loopback_through(host: str, allowed: bool) -> None:
    """A forbidden address is NotSent with code "forbidden", without a look-up, and bans nest."""
    lift_outer, lift_inner = forbid_network(), forbid_network()
    lift_inner()
    lift_inner()  # lifting twice lifts one ban, not two
    try:
        async with HttpTransport(environ={}) as client:
            error = await refusal(client, f"http://{host}:{closed_port()}/")
            assert (error.code == "forbidden") is not allowed
    finally:
        lift_outer()


async def test_the_switch_is_off_again_once_lifted() -> None:
    """After the last ban is lifted an address elsewhere is tried again."""
    forbid_network()()
    async with HttpTransport(environ={}) as client:
        with pytest.raises(NotSent) as caught:
            await client.send(post("http://0.0.0.0:1/"), SHORT)
        assert caught.value.code == "refused"


@pytest.mark.parametrize(
    ("url", "authority", "header"),
    [
        ("http://h/x", "h:80", "h"),
        ("http://H:80/x", "h:80", "h"),
        ("https://h/x", "h:443", "h"),
        ("http://h:443/x", "h:443", "h:443"),
        ("https://h:8443/x", "h:8443", "h:8443"),
        ("http://[::1]/x", "[::1]:80", "[::1]"),
        ("http://[0:0::1]:8080/x", "[::1]:8080", "[::1]:8080"),
    ],
)
def test_the_host_header_has_brackets_and_only_unusual_ports(url: str, authority: str, header: str) -> None:
    """As RFC 9112, 3.2 has it."""
    origin, target = parse_url(url)
    assert (origin.authority, origin.host_header, target) == (authority, header, "/x")


async def test_both_event_loops_are_really_used(request: pytest.FixtureRequest) -> None:
    """The tests of this folder run on uvloop where they say so."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop) is ("uvloop" in request.node.name)


async def test_sockets_do_not_delay_and_notice_dead_peers() -> None:
    """TCP_NODELAY and keep-alive probes are on."""
    async with hostile(answers) as server, HttpTransport(environ={}) as client:
        await client.send(post(server.url()), PATIENT)
        connection = next(iter(client._pool._connections))
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 60
