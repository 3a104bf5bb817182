"""The simulator over HTTP: what an ordinary client gets, and what each fault looks like on the wire."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from penstock.simulator.behaviour import Phase, Settings, Simulator, expected_text
from penstock.simulator.server import Server, builtin_settings, serve
from tests.kit.simulated import simulated

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def wire(body: Any, head: str = "", path: str = "/v1/chat/completions") -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{head}\r\n".encode() + data


def prompt(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


@asynccontextmanager
async def connection(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.base_url).port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer with a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return int(head.split()[1]), await reader.readexactly(length)


async def everything(server: Server, data: bytes) -> bytes:
    """What comes back until the server closes; a reset raises ConnectionResetError."""
    async with connection(server) as (reader, writer):
        writer.write(data)
        return await reader.read()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")


@pytest.mark.parametrize("path", ["/chat/completions", "/../chat/completions"])
async def test_an_ordinary_client_gets_answers(path: str) -> None:
    """With and without /v1; the connection is kept."""
    async with serve(Settings()) as server, aiohttp.ClientSession() as session:
        for text in ("one", "two"):
            async with session.post(server.base_url + path, json=prompt(text)) as response:
                body = await response.json()
            assert response.status == 200
            assert body["choices"][0]["message"]["content"] == expected_text(text)
        assert len(server.connections) == 1
        assert server.stats().answered == 2


@pytest.mark.parametrize("token_latency", [0.0, 0.001])
async def test_a_stream_arrives_event_by_event(token_latency: float) -> None:
    """Server-sent events in chunks, ended by [DONE], with the usage where it was asked for."""
    async with serve(Settings(token_latency=token_latency)) as server, aiohttp.ClientSession() as session:
        asked = prompt("a b c", stream=True, stream_options={"include_usage": True})
        async with session.post(server.base_url + "/chat/completions", json=asked) as response:
            events = [line[6:] async for line in response.content if line.strip()]
        assert response.headers["content-type"].startswith("text/event-stream")
        assert events.pop() == b"[DONE]\n"
        chunks = [json.loads(event) for event in events]
        assert chunks[-1]["usage"]["completion_tokens"] > 0
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
        assert text == expected_text("a b c")
        assert server.stats().answered == 1


async def test_models_stats_and_unknown_paths() -> None:
    """The list of models, the account as JSON, and OpenAI's error shape for the rest."""
    async with serve(Settings(models=("a", "b"))) as server, aiohttp.ClientSession() as session:
        async with session.get(server.base_url + "/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["a", "b"]
        async with session.get(server.base_url + "/../stats") as response:
            assert await response.json() == {**msgspec.to_builtins(server.stats())}
        for method, path in [("GET", "/nothing"), ("GET", "/chat/completions"), ("POST", "/models")]:
            async with session.request(method, server.base_url + path) as response:
                assert response.status == 404
                assert (await response.json())["error"]["code"] == "unknown_url"
        assert server.stats().arrived == 0


async def test_limits_and_keys_show_in_status_and_headers() -> None:
    """A 429 with its headers, a 401 for a wrong key."""
    async with serve(Settings(requests_per_minute=1, api_key="k")) as server, aiohttp.ClientSession() as session:
        url = server.base_url + "/chat/completions"
        statuses = []
        for key in ("wrong", "k", "k"):
            async with session.post(url, json=HELLO, headers={"Authorization": f"Bearer {key}"}) as response:
                await response.read()
            statuses.append(response.status)
        assert statuses == [401, 200, 429]
        assert 0 < float(response.headers["retry-after-ms"]) <= 60_000
        assert response.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("split", [1, 7, 10_000])
async def test_requests_in_any_pieces_and_in_a_pipeline_are_answered_in_order(split: int) -> None:
    """Bytes may be cut anywhere; later requests wait for the earlier answer, also where that one is slower."""
    texts = ["first [[simulate:500*0]]", "second", "third"]
    data = b"".join(wire(prompt(text)) for text in texts)
    async with serve(Settings(token_latency=0.0001)) as server, connection(server) as (reader, writer):
        for start in range(0, len(data), split):
            writer.write(data[start : start + split])
            await asyncio.sleep(0)
        for text in texts:
            status, body = await read_answer(reader)
            assert status == 200
            assert json.loads(body)["choices"][0]["message"]["content"] == expected_text(text)


async def test_a_thousand_pipelined_requests_do_not_nest() -> None:
    """The depth of the stack does not grow with the length of the pipeline."""
    async with serve(Settings()) as server, connection(server) as (reader, writer):
        writer.write(wire(HELLO) * 1500)
        for _ in range(1500):
            assert (await read_answer(reader))[0] == 200


async def test_a_chunked_body_and_an_expectation_are_understood() -> None:
    """A client may ask before it sends, and send without a length."""
    async with serve(Settings()) as server, connection(server) as (reader, writer):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        body = json.dumps(HELLO).encode()
        writer.write(b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:]))
        assert (await read_answer(reader))[0] == 200


async def test_connection_close_is_obeyed() -> None:
    """The answer says so too."""
    async with serve(Settings()) as server:
        answer = await everything(server, wire(HELLO, "Connection: close\r\n"))
    assert b"connection: close\r\n" in answer
    assert answer.endswith(b"}")


async def test_a_reset_reaches_the_client_as_one() -> None:
    """Not a byte of an answer, and RST instead of an orderly end."""
    async with serve(Settings()) as server:
        with pytest.raises(ConnectionResetError):
            await everything(server, wire(prompt("[[simulate:reset]]")))
        await until(lambda: not server.connections)
        assert (server.stats().failed, server.stats().in_flight) == ({"reset": 1}, 0)


async def test_a_truncated_answer_ends_before_its_length() -> None:
    """Half of the body, then the end; half of a stream without its last chunk."""
    async with serve(Settings()) as server:
        head, _, body = (await everything(server, wire(prompt("[[simulate:truncate]]")))).partition(b"\r\n\r\n")
        assert f"content-length: {2 * len(body)}".encode() in head or f"{2 * len(body) + 1}".encode() in head
        stream = await everything(server, wire(prompt("[[simulate:truncate]]", stream=True)))
        assert b"data: " in stream
        assert not stream.endswith(b"0\r\n\r\n")
        assert b"[DONE]" not in stream


async def test_garbage_is_not_http() -> None:
    """And the connection is over."""
    async with serve(Settings()) as server:
        assert not (await everything(server, wire(prompt("[[simulate:garbage]]")))).startswith(b"HTTP")


async def test_a_stalled_request_hears_nothing_until_it_leaves() -> None:
    """It stays in flight as long as the client does, and others are served meanwhile."""
    async with serve(Settings()) as server:
        async with connection(server) as (reader, writer), connection(server) as (other_reader, other_writer):
            writer.write(wire(prompt("[[simulate:stall]]")))
            other_writer.write(wire(HELLO))
            assert (await read_answer(other_reader))[0] == 200
            await until(lambda: server.stats().in_flight == 1)
            assert not reader.at_eof()
        await until(lambda: not server.connections)
        assert (server.stats().in_flight, server.stats().failed) == (0, {"stall": 1})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_counted_and_its_timer_dropped(stream: bool) -> None:
    """An answer that nobody waits for is abandoned, never answered."""
    latency, token_latency = (0.0, 60.0) if stream else (60.0, 0.0)
    async with serve(Settings(latency=latency, token_latency=token_latency)) as server:
        async with connection(server) as (_, writer):
            writer.write(wire(prompt("x", stream=stream)))
            await until(lambda: server.stats().in_flight == 1)
            (known,) = server.connections
        await until(lambda: not server.connections)
        stats = server.stats()
        assert (stats.abandoned, stats.answered, stats.in_flight) == (1, 0, 0)
    assert known._timer is not None
    assert known._timer.cancelled()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02 not http\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nEndless: " + b"x" * 2_000_000, b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n" + b"x" * (65 << 20), b"413"),
    ],
)
async def test_what_is_no_request_is_refused_and_closed(data: bytes, status: bytes) -> None:
    """The server survives each of them and serves the next client."""
    async with serve(Settings()) as server:
        async with connection(server) as (reader, writer):
            writer.write(data)
            assert (await reader.readuntil(b"\r\n")).split()[1] == status
            await until(lambda: not server.connections)
        async with connection(server) as (reader, writer):
            writer.write(wire(HELLO))
            assert (await read_answer(reader))[0] == 200


async def test_leaving_closes_what_is_open_and_a_taken_port_is_an_error() -> None:
    """No connection survives the server; a second server on its port raises OSError."""
    async with serve(Settings(latency=60.0)) as server:
        port = urlsplit(server.base_url).port
        with pytest.raises(OSError, match="address already in use"):
            async with serve(Settings(), port=port):
                pass
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire(HELLO))
        await until(lambda: server.stats().in_flight == 1)
    assert await reader.read() == b""
    writer.close()


async def test_the_builtin_model_summarises_and_says_its_name() -> None:
    """`builtin/extractive`: a sentence of the text, no other model, 0.3 to 1.5 s by the plan."""
    settings = builtin_settings()
    asked = prompt("Summarise in one sentence: Rain falls from the clouds. Rain and clouds are water.")
    async with serve(msgspec.structs.replace(settings, latency=0.0)) as server, aiohttp.ClientSession() as session:
        url = server.base_url + "/chat/completions"
        async with session.post(url, json={**asked, "model": "extractive"}) as response:
            body = await response.json()
        async with session.post(url, json=asked) as refused:
            assert refused.status == 404
    assert (body["model"], body["choices"][0]["finish_reason"]) == ("extractive", "stop")
    assert body["choices"][0]["message"]["content"] in asked["messages"][0]["content"]
    for i in range(100):
        body = json.dumps({**prompt(f"text {i}"), "model": "extractive"}).encode()
        assert 0.3 <= Simulator(settings).arrive(0.0, body).delay <= 1.5


def test_every_fault_looks_the_same_from_a_process_on_uvloop() -> None:
    """What the tests above see on asyncio holds for the served program."""
    with simulated() as sim:
        ask = {
            fault: json.dumps(prompt(f"[[simulate:{fault}]]")).encode() for fault in ("reset", "truncate", "500", "0")
        }
        ask["0"] = json.dumps(HELLO).encode()
        with pytest.raises(ConnectionResetError):
            sim.fetch("POST", "/v1/chat/completions", ask["reset"])
        with pytest.raises(http.client.IncompleteRead):
            sim.fetch("POST", "/v1/chat/completions", ask["truncate"])
        assert sim.fetch("POST", "/v1/chat/completions", ask["500"])[0] == 500
        assert sim.fetch("POST", "/v1/chat/completions", ask["0"])[0] == 200
        stats = sim.stats()
    assert stats["failed"] == {"reset": 1, "truncate": 1, "error_500": 1}
    assert (stats["answered"], stats["in_flight"]) == (1, 0)


# -- kinds of providers


async def test_a_queued_request_is_answered_when_a_slot_is_free() -> None:
    """The client that has the slot leaves, and the one behind it begins."""
    async with (
        serve(Settings(slots=1, text=lambda prompt, _: prompt)) as server,
        connection(server) as (reader, writer),
    ):
        async with connection(server) as (_, first):
            first.write(wire(prompt("[[simulate:stall]]")))
            await until(lambda: server.stats().in_flight == 1)
            writer.write(wire(prompt("second")))
            await until(lambda: server.stats().in_flight == 2)
        status, body = await read_answer(reader)
        assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "second")


async def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    """Its turn goes to the next one."""
    async with serve(Settings(slots=1)) as server, connection(server) as (reader, writer):
        async with connection(server) as (_, first):
            first.write(wire(prompt("[[simulate:stall]]")))
            await until(lambda: server.stats().in_flight == 1)
            async with connection(server) as (_, second):
                second.write(wire(prompt("second")))
                await until(lambda: server.stats().in_flight == 2)
            await until(lambda: server.stats().in_flight == 1)
            writer.write(wire(prompt("third")))
            await until(lambda: server.stats().in_flight == 2)
        assert (await read_answer(reader))[0] == 200
        assert server.stats().answered == 1


async def test_while_connections_are_refused_nobody_gets_in_and_then_the_port_is_there_again() -> None:
    """Open connections break at once; afterwards it is the same address."""
    async with serve(Settings()) as server, connection(server) as (reader, writer):
        writer.write(wire(HELLO))
        assert (await read_answer(reader))[0] == 200
        server._enter(Phase(at=0.0, outage="refused"))
        assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", urlsplit(server.base_url).port)
        before = server.base_url
        server._enter(Phase(at=1.0))
        assert server._opening is not None
        await server._opening
        assert server.base_url == before
        async with connection(server) as (again, writer):
            writer.write(wire(HELLO))
            assert (await read_answer(again))[0] == 200


async def test_the_schedule_runs_from_the_first_arrival_on() -> None:
    """Nothing happens before it; then connections are refused, and leaving ends what is still to come."""
    schedule = (Phase(at=0.0, outage="refused"), Phase(at=3600.0))
    async with serve(Settings(schedule=schedule)) as server:
        async with connection(server) as (reader, writer):
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read_answer(reader))[0] == 200
            with pytest.raises(ConnectionResetError):
                await everything(server, wire(HELLO))
        await until(lambda: server._listener is None)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", urlsplit(server.base_url).port)
    assert all(timer.cancelled() or timer.when() <= asyncio.get_running_loop().time() for timer in server._timers)
