"""Sending by real processes over real sockets: it is as with one process, and whatever dies is told."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock.edges.http import HttpTransport
from penstock.edges.http.connection import StaleConnection
from penstock.edges.processes import frames, link, sender, starting
from penstock.edges.processes.direct import DirectTransport
from penstock.edges.processes.frames import (
    READY,
    SETTINGS,
    WHOLE,
    WINDOW_BYTES,
    FrameReader,
    Settings,
    encode,
    read_answer,
)
from penstock.edges.processes.transport import ProcessTransport
from penstock.errors import NoAnswer, NotSent, RequestError, UsageError
from penstock.options import Timeouts
from penstock.ports import Transport
from penstock.records import HttpCall
from tests.kit.hostile import Peer, Script, answer, hostile
from tests.kit.http_probe import PATIENT, SHORT, nothing_leaks, post, until
from tests.kit.http_tls import authority, serving
from tests.kit.sending import Sending, sending

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MEGABYTE = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"


async def echo(peer: Peer) -> None:
    """Answers with the body of each request."""
    while True:
        request = await peer.request()
        await peer.send(answer(request.partition(b"\r\n\r\n")[2], headers=("X-A: 1", "x-a: 2")))


@pytest.mark.parametrize("processes", [2, 3])
async def test_each_call_gets_its_own_answer_and_all_processes_send(processes: int) -> None:
    """Sixty calls, twenty at a time: bodies and headers as the server wrote them, connections kept, the work shared evenly."""
    async with nothing_leaks(), hostile(echo) as server, sending(processes, max_connections=20) as under_test:
        for _ in range(3):
            bodies = [b"body %d" % number for number in range(20)]
            got = await asyncio.gather(
                *(under_test.transport.send(post(server.url(), body), PATIENT) for body in bodies)
            )
            assert [one.body for one in got] == bodies
            assert all(one.status == 200 and one.headers[:2] == [(b"X-A", b"1"), (b"x-a", b"2")] for one in got)
        sent = under_test.transport.statistics()
        assert sum(sent) == 60
        assert max(sent) - min(sent) <= 3
        assert server.accepted <= 21  # each has its share of the connections, rounded up
        assert under_test.under_way == 0


async def test_a_call_goes_to_the_process_that_has_the_fewest_under_way() -> None:
    """Where one has calls that are held up, the next ones go to the other; where all have as many, they take turns."""
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            if b"wait" in await peer.request():
                await release.wait()
            await peer.send(answer())

    async with hostile(script) as server, sending() as under_test:
        transport = under_test.transport
        held = [asyncio.create_task(transport.send(post(server.url(), b"wait"), PATIENT)) for _ in range(2)]
        await until(lambda: under_test.under_way == 2)
        assert transport.statistics() == (1, 1)
        held.append(asyncio.create_task(transport.send(post(server.url(), b"wait"), PATIENT)))
        await until(lambda: under_test.under_way == 3)
        for _ in range(4):
            await transport.send(post(server.url()), PATIENT)
        assert sorted(transport.statistics()) == [2, 5]
        release.set()
        await asyncio.gather(*held)


async def silent(peer: Peer) -> None:
    await peer.gone()


async def resetting(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def cutting(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    peer.end()


async def babbling(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"220 mail.example.org ESMTP\r\n")


async def failing(peer: Peer) -> None:
    await peer.request()
    await peer.send(answer(b"down", status="503 Service Unavailable", headers=("Retry-After: 7",)))


async def outcome_of(request: Awaitable[object]) -> object:
    """What came of it, an error by all its fields."""
    try:
        return await request
    except (RequestError, UsageError) as error:
        return type(error), str(error), vars(error)


async def streamed(
    transport: Transport, call: HttpCall, timeouts: Timeouts
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    async with transport.stream(call, timeouts) as stream:
        return stream.status, stream.headers, b"".join([piece async for piece in stream])


async def whole(transport: Transport, call: HttpCall, timeouts: Timeouts) -> object:
    return await transport.send(call, timeouts)


@pytest.mark.parametrize("script", [silent, resetting, cutting, babbling, failing, None])
async def test_what_goes_wrong_is_told_as_by_one_process(script: Script | None) -> None:
    """Time-outs, resets, cut and garbled answers, statuses, refused connections: the same error with the same fields."""
    async with hostile(script or silent) as server, sending(1) as under_test:
        url = server.url() if script is not None else f"http://127.0.0.1:{unused_port()}/"
        for how in (whole, streamed):
            async with HttpTransport(environ={}) as alone:
                expected = await outcome_of(how(alone, post(url), SHORT))
            assert await outcome_of(how(under_test.transport, post(url), SHORT)) == expected
        assert under_test.under_way == 0


@pytest.mark.parametrize("script", [silent, resetting, cutting, babbling, failing])
async def test_what_goes_wrong_on_a_kept_connection_is_told_as_by_one_process(script: Script) -> None:
    """There nothing is waited for on the other side, which is a way of its own."""

    async def first_well(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"well"))
        await script(peer)

    async with hostile(first_well) as server, sending(1) as under_test, HttpTransport(environ={}) as alone:
        told = []
        for transport in (alone, under_test.transport):
            assert (await transport.send(post(server.url()), SHORT)).body == b"well"
            told.append(await outcome_of(transport.send(post(server.url()), SHORT)))
        assert told[0] == told[1]
        assert server.accepted == 2
        assert under_test.under_way == 0


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_what_can_never_be_sent_is_told_at_once() -> None:
    """A header that is none is a `UsageError` that does not show it; the no-network switch of this process holds in the others."""
    async with sending(1) as under_test:
        for how in (whole, streamed):
            with pytest.raises(UsageError, match="header X") as caught:
                await how(under_test.transport, post("http://127.0.0.1:9/", headers=(("X", "sk-canary\n"),)), PATIENT)
            assert "canary" not in str(caught.value)
        with pytest.raises(NotSent, match="switched off"):
            await under_test.transport.send(post("http://192.0.2.1/"), PATIENT)


async def test_long_bodies_cross_in_both_directions() -> None:
    """A megabyte up, eight down, beside short ones that need not wait for their end."""

    async def script(peer: Peer) -> None:
        while True:
            body = (await peer.request()).partition(b"\r\n\r\n")[2]
            await peer.send(answer(body * 8 if len(body) > 100 else body))

    async with hostile(script) as server, sending() as under_test:
        long = os.urandom(1 << 20)
        bodies = [long, *(b"short %d" % number for number in range(20)), long[::-1]]
        got = await asyncio.gather(*(under_test.transport.send(post(server.url(), body), PATIENT) for body in bodies))
        assert [one.body for one in got] == [long * 8, *bodies[1:-1], bodies[-1] * 8]


async def test_calls_that_differ_in_all_but_the_body_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are more kinds of them than are kept: each call goes where it should, with its own headers."""
    monkeypatch.setattr(link, "KEPT_MANNERS", 3)

    async def script(peer: Peer) -> None:
        while True:
            head = (await peer.request()).partition(b"\r\n\r\n")[0]
            await peer.send(answer(head))

    async with hostile(script) as server, sending(1) as under_test:
        for number in [*range(6), 0, 0, 5, 1, *range(6)]:
            call = post(server.url(f"/{number}"), headers=(("X-Number", str(number)),))
            head = (await under_test.transport.send(call, PATIENT)).body
            assert head.startswith(b"POST /%d HTTP/1.1\r\n" % number)
            assert b"X-Number: %d\r\n" % number in head
        (only,) = under_test.transport._processes
        assert len(only._manners) == 3


async def test_certificates_and_proxies_are_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is verified by `SSL_CERT_FILE`, as in one process."""
    trusted = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(trusted))
    async with hostile(echo, tls=serving()) as server:
        async with sending(1) as under_test:
            with pytest.raises(NotSent, match="not trusted"):
                await under_test.transport.send(post(server.url()), PATIENT)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        async with sending(1) as under_test:
            assert (await under_test.transport.send(post(server.url(), b"secure"), PATIENT)).body == b"secure"


# -- cancelling


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("how", [whole, streamed])
async def test_cancelling_closes_the_connection(
    how: Callable[[Transport, HttpCall, Timeouts], Awaitable[object]], kept: bool
) -> None:
    """The server learns at once that nobody waits any more; the next call is not disturbed."""
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        while b"leave" not in await peer.request():
            await peer.send(answer(b"fine"))
        arrived.set()
        await peer.gone()
        gone.set()

    async with nothing_leaks(), hostile(script) as server, sending(1) as under_test:
        if kept:
            await under_test.transport.send(post(server.url()), PATIENT)
        task = asyncio.ensure_future(how(under_test.transport, post(server.url(), b"leave"), Timeouts()))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert under_test.under_way == 0
        await gone.wait()
        assert (await under_test.transport.send(post(server.url()), PATIENT)).body == b"fine"


@pytest.mark.parametrize("how", [whole, streamed])
async def test_calls_cancelled_at_any_moment_leave_nothing(
    how: Callable[[Transport, HttpCall, Timeouts], Awaitable[object]],
) -> None:
    """In the turn in which it was asked for, before it left, while its answer crosses: what comes later is nobody else's."""
    async with nothing_leaks(), hostile(echo) as server, sending(max_connections=4) as under_test:
        for turns in range(60):
            tasks = [
                asyncio.ensure_future(how(under_test.transport, post(server.url(), b"%d" % number), PATIENT))
                for number in range(4)
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks[:3]:
                task.cancel()
            *_, last = await asyncio.gather(*tasks, return_exceptions=True)
            assert getattr(last, "body", last if isinstance(last, bytes) else None) == b"3" or last[2] == b"3"
            assert under_test.under_way == 0


# -- streams


async def test_pieces_come_as_they_are_sent() -> None:
    """Each piece is there before the next one is sent, and after the last one the connection is kept."""
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(CHUNKED)
            for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n"):
                await peer.send(piece)
                await seen.wait()
                seen.clear()
            await peer.send(b"0\r\n\r\n")
        await peer.gone()

    async with nothing_leaks(), hostile(script) as server, sending(1) as under_test:
        for _ in range(2):
            pieces = []
            async with under_test.transport.stream(post(server.url()), PATIENT) as stream:
                assert stream.status == 200
                assert (b"Content-Type", b"text/event-stream") in stream.headers
                assert "canary" not in repr(stream)
                async for piece in stream:
                    pieces.append(piece)
                    seen.set()
            assert pieces == [b"one", b"two"]
        assert server.accepted == 1


async def test_a_slow_reader_holds_the_server_back() -> None:
    """Of fifty megabytes no more lies here than the window and one piece, and the server cannot send them; all of it arrives."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(50):
            await peer.send(MEGABYTE)
            sent += 1
        await peer.send(b"0\r\n\r\n")
        await peer.request()
        await peer.send(answer(b"next"))

    async with hostile(script) as server, sending(1) as under_test:
        async with under_test.transport.stream(post(server.url()), PATIENT) as stream:
            pieces = aiter(stream)
            total = len(await anext(pieces))
            await held_back(under_test, lambda: sent)
            assert sent < 20
            assert sum(map(len, stream._pieces)) <= WINDOW_BYTES + 600_000
            async for piece in pieces:
                total += len(piece)
        assert total == 50 * 0x100000
        assert (await under_test.transport.send(post(server.url()), PATIENT)).body == b"next"
        assert server.accepted == 1


async def held_back(under_test: Sending, progress: Callable[[], int]) -> None:
    """Return once nothing comes through any more: a call of another kind takes its whole way, ten times, and nothing moved."""
    before, quiet = -1, 0
    while quiet < 10:
        with pytest.raises(UsageError):
            await under_test.transport.send(HttpCall("no-url", (), b""), PATIENT)
        for _ in range(100):
            await asyncio.sleep(0)
        quiet = quiet + 1 if progress() == before else 0
        before = progress()


async def test_what_came_before_a_cut_is_given_before_the_error() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED, b"3\r\none\r\n3\r\ntwo\r\n")
        peer.end()

    async def read(stream: AsyncIterator[bytes], got: list[bytes]) -> None:
        async for piece in stream:
            got.append(piece)  # noqa: PERF401 - a comprehension would lose the pieces before the error

    got: list[bytes] = []
    async with (
        hostile(script) as server,
        sending(1) as under_test,
        under_test.transport.stream(post(server.url()), PATIENT) as stream,
    ):
        await until(lambda: under_test.under_way == 0, turns=10**7)
        with pytest.raises(RequestError) as caught:
            await read(stream, got)
    assert (b"".join(got), caught.value.kind) == (b"onetwo", "truncated")


@pytest.mark.parametrize("pieces", [0, 1])
async def test_leaving_a_stream_early_closes_its_connection(pieces: int) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED, b"1\r\nx\r\n")
        await peer.gone()
        gone.set()

    async with nothing_leaks(), hostile(script) as server, sending(1) as under_test:
        async with under_test.transport.stream(post(server.url()), Timeouts()) as stream:
            if pieces:
                async for _ in stream:
                    break
        assert under_test.under_way == 0
        await gone.wait()


# -- the end


async def test_a_process_that_is_killed_ends_the_runs_before_its_calls_fail() -> None:
    """Its calls and streams may be billed; the others go on; where none is left, nothing is sent."""
    arrived = 0

    async def script(peer: Peer) -> None:
        nonlocal arrived
        while b"hold" not in await peer.request():
            await peer.send(answer(b"fine"))
        arrived += 1
        await peer.gone()

    async with nothing_leaks(), hostile(script) as server, sending(2) as under_test:
        transport = under_test.transport
        call = post(server.url(), b"hold")
        held = [asyncio.ensure_future(how(transport, call, PATIENT)) for how in (whole, streamed) for _ in range(2)]
        for task in held:
            task.add_done_callback(lambda _: under_test.lost[0])
        await until(lambda: arrived == 4, turns=10**7)
        os.kill(under_test.pids[0], signal.SIGKILL)
        await until(lambda: sum(task.done() for task in held) == 2, turns=10**7)
        (stopped,) = under_test.lost
        assert stopped.reason == "process"
        assert f"process {under_test.pids[0]} was killed by SIGKILL" in str(stopped)
        assert (await transport.send(post(server.url()), PATIENT)).body == b"fine"
        os.kill(under_test.pids[1], signal.SIGKILL)
        for error in await asyncio.gather(*held, return_exceptions=True):
            assert isinstance(error, NoAnswer)
            assert (error.kind, error.maybe_billed) == ("disconnected", True)
        with pytest.raises(NotSent, match="no sending process is left"):
            await transport.send(post(server.url()), PATIENT)
        assert len(under_test.lost) == 2


async def test_closing_fails_what_is_under_way_and_leaves_no_process() -> None:
    """Calls and streams end as if the connection had broken; afterwards nothing can be sent; closing twice is fine."""
    arrived = 0

    async def script(peer: Peer) -> None:
        nonlocal arrived
        await peer.request()
        arrived += 1
        await peer.gone()

    async with nothing_leaks(), hostile(script) as server:
        async with sending(2) as under_test:
            transport = under_test.transport
            held = [asyncio.ensure_future(how(transport, post(server.url()), PATIENT)) for how in (whole, streamed)]
            await until(lambda: arrived == 2, turns=10**7)
            await transport.aclose()
            for task in held:
                with pytest.raises(NoAnswer, match="the transport was closed"):
                    await task
        assert under_test.lost == []
        with pytest.raises(UsageError, match="closed"):
            await transport.send(post(server.url()), PATIENT)


async def test_closing_that_is_cancelled_leaves_no_process() -> None:
    async with nothing_leaks(), sending(2) as under_test:
        task = asyncio.ensure_future(under_test.transport.aclose())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not [pid for pid in under_test.pids if Path(f"/proc/{pid}").exists()]


async def test_a_process_that_does_not_listen_is_killed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stopped cannot see that its socket is closed."""
    monkeypatch.setattr(starting, "_END_SECONDS", 0.05)
    async with nothing_leaks(), sending(1) as under_test:
        os.kill(under_test.pids[0], signal.SIGSTOP)


async def test_signals_to_the_whole_group_are_the_parents_business() -> None:
    """Ctrl-C and SIGTERM do not end a sending process."""
    async with hostile(echo) as server, sending(1) as under_test:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(under_test.pids[0], number)
        assert (await under_test.transport.send(post(server.url(), b"still here"), PATIENT)).body == b"still here"
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


# -- the start


@pytest.mark.parametrize(
    ("executable", "reason"),
    [("/bin/false", "ended with status 1 before it was ready"), ("/no/such/python", "could not be started")],
)
async def test_processes_that_do_not_start_are_told(
    executable: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `UsageError`: nothing was sent."""
    monkeypatch.setattr(sys, "executable", executable)
    async with nothing_leaks():
        under_test = Sending(2, 10)
        with pytest.raises(UsageError, match=reason):
            await under_test.transport.open()
        assert under_test.lost == []
        with pytest.raises(UsageError, match="closed"):
            await under_test.transport.send(post("http://127.0.0.1:9/"), PATIENT)


@pytest.mark.parametrize("what", ["socketpair", "Popen"])
async def test_a_start_that_fails_half_way_leaves_nothing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more descriptors or no more processes after the first: that one is gone again."""
    calls, real = 0, getattr(socket if what == "socketpair" else subprocess, what)

    def second_fails(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(*args, **options)

    monkeypatch.setattr(starting.socket if what == "socketpair" else starting.subprocess, what, second_fails)
    async with nothing_leaks():
        under_test = Sending(3, 10)
        with pytest.raises(UsageError, match="Too many open files"):
            await under_test.transport.open()
        assert len(under_test.pids) == 1
        assert not Path(f"/proc/{under_test.pids[0]}").exists()


async def test_a_transport_that_is_not_open_sends_nothing() -> None:
    transport = ProcessTransport(2, max_connections=2, lost=lambda _: None)
    with pytest.raises(UsageError, match="closed"):
        await transport.send(post("http://127.0.0.1:9/"), PATIENT)
    await transport.aclose()


# -- secrets


async def test_no_key_is_where_others_can_see_it() -> None:
    """Not in the arguments of the processes, nor in their environment, nor in a repr."""
    async with hostile(echo) as server, sending(2) as under_test:
        for _ in range(2):
            await under_test.transport.send(post(server.url(), b"secret body"), PATIENT)
        for pid in under_test.pids:
            seen = (Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/environ").read_bytes())
            assert b"canary" not in b"".join(seen)
            names = {line.partition(b"=")[0].decode() for line in seen[1].split(b"\0") if line}
            assert names <= set(os.environ)
        shown = repr(under_test.transport)
        assert "under way" in shown
        assert "canary" not in shown
        assert "secret" not in shown


# -- the other side, in this process


async def test_a_kept_connection_that_was_closed_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first byte could not be written, the call goes out once more, on a connection that is opened for it."""

    def closed(
        _: DirectTransport, call: HttpCall, timeouts: Timeouts, number: int, tell: Callable[..., None]
    ) -> object:
        stale = SimpleNamespace(number=number, call=call, timeouts=timeouts, over=True)
        tell(stale, StaleConnection("connect", "it was closed"))
        return stale

    monkeypatch.setattr(DirectTransport, "begin", closed)
    ended: list[int] = []
    monkeypatch.setattr(sender.os, "_exit", ended.append)
    async with hostile(echo) as server:
        ours = await sender_here()
        manner = encode((post(server.url(), b""), PATIENT))
        await tell(ours, (frames.MANNER, 0, 0, manner), (WHOLE, 0, 1, b"once more"))
        frame = b""
        while not (came := FrameReader().feed(frame)):
            frame += await asyncio.get_running_loop().sock_recv(ours, 4096)
        assert read_answer(came[0][3]).body == b"once more"
        ours.close()
        await until(lambda: ended == [0])


async def sender_here() -> socket.socket:
    """Our end of the socket to a sender that lives in this process, and is ready."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    await loop.create_unix_connection(sender.Sender, sock=theirs)
    await tell(ours, (SETTINGS, 0, 0, encode(Settings(os.getppid(), 1))))
    assert [frame[0] for frame in FrameReader().feed(await loop.sock_recv(ours, 100))] == [READY]
    return ours


async def tell(ours: socket.socket, *told: frames.Frame) -> None:
    """Send some frames."""
    pieces = [frames._pack(len(payload), kind, argument, number) + payload for kind, argument, number, payload in told]
    await asyncio.get_running_loop().sock_sendall(ours, b"".join(pieces))


async def test_a_mistake_of_ours_ends_the_process_and_says_where(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is not taken for an answer, nor left without one: the process ends, and with it the run."""
    ended: list[int] = []
    monkeypatch.setattr(sender.os, "_exit", ended.append)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(HttpTransport, "send", broken)
    ours = await sender_here()
    manner = encode((HttpCall("http://127.0.0.1:9/", (), b""), Timeouts()))
    await tell(ours, (frames.MANNER, 0, 0, manner), (WHOLE, 0, 1, b""))
    await until(lambda: ended == [70])
    assert "ZeroDivisionError: a defect" in capfd.readouterr().err
    ours.close()
    await until(lambda: ended == [70, 0])
