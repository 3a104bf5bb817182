"""What a stream of 100 chunks costs the client, beside aiohttp reading lines, in one run: CPU of the client's process.

    python bench/streaming.py [--streams 1000] [--at-once 64] [--rounds 5] [--chunks 100]

The simulator is the server, in a process of its own. Both contenders ask it for the same streams and decode the data of each
event with msgspec; aiohttp does nothing else, while Penstock paces, retries, accounts and puts the whole answer together. Two
cases: the chunks of a stream sent together, as fast as the server can, and each for itself, a few milliseconds apart, as
models send them. The contenders take turns, each in a process of its own; the figures are medians, the ratios are taken
round by round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

CONTENDERS = ("aiohttp", "penstock")
CASES = {"sent together": 0.0, "one by one": 0.005}
WARM_UP = 64


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    completion_tokens: int


class Piece(msgspec.Struct):
    choices: list[Choice]
    usage: Usage | None = None


def prompts(streams: int) -> Iterator[str]:
    return (f"Tell a story about number {index}, please." for index in range(streams))


async def aiohttp_lines(port: int, streams: int, at_once: int) -> None:
    import aiohttp

    decode = msgspec.json.Decoder(Piece).decode
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    texts = prompts(streams)

    async def read(session: aiohttp.ClientSession, prompt: str) -> None:
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": True}
        body["stream_options"] = {"include_usage": True}
        parts, usage, done = [], None, False
        async with session.post(url, data=msgspec.json.encode(body)) as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    if line.startswith(b"data: [DONE]"):
                        done = True
                        continue
                    piece = decode(line[6:])
                    usage = piece.usage or usage
                    if piece.choices and piece.choices[0].delta.content:
                        parts.append(piece.choices[0].delta.content)
        assert done
        assert usage is not None
        assert parts

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def worker() -> None:
            for prompt in texts:
                await read(session, prompt)

        await asyncio.gather(*(worker() for _ in range(at_once)))


async def penstock_stream(port: int, streams: int, at_once: int) -> None:
    from penstock import Client

    texts = prompts(streams)
    async with Client("custom/m", base_url=f"http://127.0.0.1:{port}/v1", max_concurrency=at_once) as client:

        async def worker() -> None:
            for prompt in texts:
                stream = client.stream(prompt)
                async for _ in stream:
                    pass
                assert stream.response.usage is not None
                assert stream.text

        await asyncio.gather(*(worker() for _ in range(at_once)))


WORKS: dict[str, Callable[[int, int, int], Awaitable[None]]] = {
    "aiohttp": aiohttp_lines,
    "penstock": penstock_stream,
}


def contend(name: str, port: int, streams: int, at_once: int) -> None:
    """One contender in this process; prints CPU us a stream and streams a second."""
    import uvloop

    async def measured() -> None:
        await WORKS[name](port, WARM_UP, at_once)
        cpu, start = time.process_time(), time.perf_counter()
        await WORKS[name](port, streams, at_once)
        print((time.process_time() - cpu) / streams * 1e6, streams / (time.perf_counter() - start))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measured())


def compare(given: argparse.Namespace, token_latency: float) -> None:
    """Take turns, print the table."""
    simulate = [sys.executable, "-m", "penstock", "simulate", "--port", "0", "--output-tokens", str(given.chunks)]
    simulate += ["--token-latency", str(token_latency)] if token_latency else []
    server = subprocess.Popen(simulate, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = server.stdout.readline().split(":")[2].split("/")[0]
    figures: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    try:
        for _ in range(given.rounds):
            for name in CONTENDERS:
                one = [sys.executable, __file__, "--one", name, "--port", port, "--streams", str(given.streams)]
                told = subprocess.run(
                    [*one, "--at-once", str(given.at_once)], capture_output=True, text=True, check=True
                )
                figures[name].append([float(figure) for figure in told.stdout.split()])
    finally:
        server.terminate()
        server.communicate()
    print(f"{'':12}{'CPU us/stream':>14}{'streams/s':>11}{'x aiohttp':>11}")
    for name, rows in figures.items():
        cpu, rate = (statistics.median(column) for column in zip(*rows, strict=True))
        ratio = statistics.median(own[0] / bare[0] for own, bare in zip(rows, figures["aiohttp"], strict=True))
        print(f"{name:12}{cpu:14,.0f}{rate:11,.0f}{ratio:11.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--streams", type=int, default=1_000)
    options.add_argument("--at-once", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--chunks", type=int, default=100)
    options.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        contend(given.one, given.port, given.streams, given.at_once)
        return
    for name, token_latency in CASES.items():
        print(
            f"{given.streams:,} streams of {given.chunks} chunks, {given.at_once} at once, {name}, medians of {given.rounds}"
        )
        compare(given, token_latency)


if __name__ == "__main__":
    main()
