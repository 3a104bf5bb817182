"""C3: a signal drains the server, a second one cancels, a third one leaves; what was under way is answered and logged."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.command import Ran, ended
from tests.kit.hostile import Peer
from tests.kit.serving import (
    CHAT,
    END,
    HI,
    PATIENCE_SECONDS,
    ROLE,
    STREAM_HEAD,
    STREAMED,
    Asked,
    Process,
    Provider,
    Wire,
    chunk,
    event,
    holds,
    log_lines,
    provider,
    request,
    serving_process,
    until,
    whole,
    wire,
)

BEGUN = STREAM_HEAD + ROLE + event(chunk({"content": "first"}))
SLACK = 3.0
"""Seconds that a busy machine may need beyond what is promised (the grace and 2 s)."""


@contextmanager
def serving(upstream: Provider, data: Path, *options: str) -> Iterator[Process]:
    own = ("-m", "openai/gpt-5-mini", "--base-url", upstream.base_url, "--data", str(data), *options)
    with serving_process(*own) as process:
        yield process


def post(body: Any, target: str = CHAT) -> bytes:
    import json

    headers = [("host", "localhost"), ("content-type", "application/json")]
    return request("POST", target, headers, json.dumps(body).encode())


async def end_of(process: Process) -> Ran:
    return await asyncio.to_thread(ended, process.process)


async def nobody_is_let_in(process: Process) -> None:
    """Until new requests find a closed port; those that still get in are told that the server stops."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                async with wire(process.port) as line:
                    await line.send(post(HI))
                    told = await line.answer()
            except (ConnectionError, asyncio.IncompleteReadError):
                return
            assert (told.status, told.error["code"]) == (503, "stopping")


async def first_piece(line: Wire) -> None:
    assert (await line.head()).status == 200
    came = b""
    while b"first" not in came:
        came += await line.piece()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_what_is_under_way_at_a_signal_comes_to_its_end(tmp_path: Path, number: int, status: int) -> None:
    """A whole answer and a stream are finished, an idle connection is closed, new requests are refused; every line is logged."""
    let_go = asyncio.Event()

    async def respond(asked: Asked, peer: Peer) -> None:
        streamed = asked.fields.get("stream")
        await peer.send(BEGUN if streamed else b"")
        await let_go.wait()
        await peer.send(END if streamed else whole("fine"))

    async with provider(respond) as upstream:
        with serving(upstream, tmp_path) as process:
            async with wire(process.port) as one, wire(process.port) as two, wire(process.port) as idle:
                await idle.send(request("GET", "/healthz", [("host", "localhost")]))
                assert (await idle.answer()).status == 200
                await one.send(post(HI))
                await two.send(post(STREAMED))
                await upstream.asked.at_least(2)
                await first_piece(two)
                process.process.send_signal(number)
                await nobody_is_let_in(process)
                assert await idle.ended() == b""
                let_go.set()
                answered = await one.answer()
                assert (answered.status, answered.header("connection")) == (200, "close")
                assert (await two.body()).endswith(b"data: [DONE]\n\n")
            ran = await end_of(process)
    assert ran.status == status, ran.err
    assert "Traceback" not in ran.err
    lines = [(line["status"], line["streamed"]) for line in log_lines(tmp_path) if line["model"]]
    assert sorted(lines) == [(200, False), (200, True)]


async def test_when_the_grace_is_over_the_rest_is_cancelled_and_told_so(tmp_path: Path) -> None:
    """503 where nothing was sent yet, an error event in a stream; both logged; out within the grace and two seconds."""
    grace = 1
    async with provider(holds()) as upstream:

        async def respond(asked: Asked, peer: Peer) -> None:
            await holds(*([BEGUN] if asked.fields.get("stream") else []))(asked, peer)

        upstream._respond = respond
        with serving(upstream, tmp_path, "--grace", str(grace)) as process:
            async with wire(process.port) as one, wire(process.port) as two, wire(process.port) as three:
                await one.send(post(HI))
                await two.send(post(STREAMED))
                await three.send(post({"prompt": "x"}, "/generate"))
                await upstream.asked.at_least(3)
                await first_piece(two)
                began = time.monotonic()
                process.process.send_signal(signal.SIGTERM)
                for line in (one, three):
                    told = await line.answer()
                    assert (told.status, told.error["code"]) == (503, "stopping")
                rest = await two.body()
                assert b'"code":"stopping"' in rest
                assert b"[DONE]" not in rest
                await upstream.left.at_least(3)
            ran = await end_of(process)
            took = time.monotonic() - began
    print(f"out after {took:.1f} s with a grace of {grace} s")  # noqa: T201 - for whoever reads with -s
    assert ran.status == 143, ran.err
    assert "Traceback" not in ran.err
    assert took < grace + 2 + SLACK
    assert sorted(line["status"] for line in log_lines(tmp_path)) == [200, 503, 503]


async def test_a_second_signal_cancels_at_once(tmp_path: Path) -> None:
    """Whatever is left of the grace; who waits for a turn is told too, and never sent."""
    async with provider(holds()) as upstream:
        with serving(upstream, tmp_path, "--grace", "600", "--max-concurrency", "1") as process:
            async with wire(process.port) as one, wire(process.port) as two:
                await one.send(post(HI))
                await upstream.asked.at_least(1)
                await two.send(post(HI))
                await in_line(process)
                process.process.send_signal(signal.SIGTERM)
                await nobody_is_let_in(process)
                process.process.send_signal(signal.SIGTERM)
                assert [(await line.answer()).status for line in (one, two)] == [503, 503]
            ran = await end_of(process)
    assert ran.status == 143, ran.err
    assert len(upstream.asked.all) == 1
    assert [line["status"] for line in log_lines(tmp_path) if line["model"]] == [503, 503]


async def in_line(process: Process) -> None:
    """Wait until a request stands in line, as the metrics tell."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with wire(process.port) as line:
                await line.send(request("GET", "/metrics", [("host", "localhost")]))
                body = (await line.answer()).body
            if b'penstock_waiting_requests{model="gpt-5-mini"} 1.0' in body:
                return


async def test_a_third_signal_leaves_whatever_still_holds_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a step of post-processing that does not come to its end."""
    (tmp_path / "stuck.py").write_text(
        "import time\ndef step(exchange):\n    open('begun', 'w').close()\n    time.sleep(600)\n"
    )
    monkeypatch.chdir(tmp_path)
    async with provider(holds()) as upstream:
        (tmp_path / "penstock.toml").write_text(
            f'[server]\ndata = "data"\nafter = ["stuck:step"]\n[models."openai/m"]\nendpoint = "e"\n'
            f'[endpoints.e]\nbase_url = "{upstream.base_url}"\n'
        )
        with serving_process() as process:
            async with wire(process.port) as line:
                await line.send(request("GET", "/v1/models", [("host", "localhost")]))
                assert (await line.answer()).status == 200
            await until(Path("begun").exists)
            for _ in range(2):
                process.process.send_signal(signal.SIGTERM)
                await nobody_is_let_in(process)
            began = time.monotonic()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while process.process.poll() is None:
                    process.process.send_signal(signal.SIGTERM)
                    await asyncio.sleep(0)
            took = time.monotonic() - began
    print(f"out after {took:.2f} s")  # noqa: T201 - for whoever reads with -s
    assert process.process.returncode == 143
    assert took < SLACK
