"""What a call costs, beside the bare floor, in one run against the simulator: CPU microseconds, calls a second, memory.

    python bench/calls.py [--calls 20000] [--in-flight 64] [--rounds 5]

The floor is a bare `asyncio.Protocol` fed to httptools on uvloop that encodes and decodes with msgspec and does nothing
else. Each contender is a process of its own and they take turns, so that a noisy machine is noisy for all; the figures
are medians, the ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httptools
import msgspec


class Message(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    message: Message


class Completion(msgspec.Struct):
    choices: list[Choice]


CONTENDERS = ("floor", "map", "map+ledger")


def prompts(calls: int) -> Iterator[str]:
    return (f"Summarise article {index} in one sentence, please." for index in range(calls))


async def floor(calls: int, in_flight: int, port: int) -> None:
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Completion).decode
    loop = asyncio.get_running_loop()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.parts = transport, []
            self.parser = httptools.HttpResponseParser(self)

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, body: bytes) -> None:
            self.parts.append(body)

        def on_message_complete(self) -> None:
            body, self.parts = b"".join(self.parts), []
            self.parser = httptools.HttpResponseParser(self)
            self.answer.set_result(body)

        def post(self, body: bytes) -> asyncio.Future[bytes]:
            self.answer = loop.create_future()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            self.transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))  # type: ignore[attr-defined]
            return self.answer

    texts = prompts(calls)

    async def worker() -> None:
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        for text in texts:
            body = encode({"model": "m", "messages": [{"role": "user", "content": text}]})
            assert decode(await connection.post(body)).choices
        connection.transport.close()

    await asyncio.gather(*(worker() for _ in range(in_flight)))


async def penstock_map(calls: int, in_flight: int, port: int, ledger: Path | None) -> None:
    from penstock import Client

    done = 0
    async with Client("custom/m", base_url=f"http://127.0.0.1:{port}/v1", max_concurrency=in_flight) as client:
        async for result in client.map(prompts(calls), ledger=ledger):
            done += result.ok
    assert done == calls


async def measured(work: Callable[[], Awaitable[None]], calls: int) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(cpu / calls * 1e6, calls / wall, after.ru_maxrss / 1024)


def contend(name: str, calls: int, in_flight: int, port: int) -> None:
    """One contender in this process; prints CPU us a call, calls a second, peak MB."""
    import uvloop

    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "x.ledger" if name == "map+ledger" else None
        works: dict[str, Callable[[], Awaitable[None]]] = {
            "floor": lambda: floor(calls, in_flight, port),
            "map": lambda: penstock_map(calls, in_flight, port, None),
            "map+ledger": lambda: penstock_map(calls, in_flight, port, ledger),
        }
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measured(works[name], calls))


def compare(calls: int, in_flight: int, rounds: int) -> None:
    """Take turns, print the table."""
    server = subprocess.Popen(
        [sys.executable, "-m", "penstock", "simulate", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    port = int(server.stdout.readline().split(":")[2].split("/")[0])
    figures: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    try:
        for _ in range(rounds):
            for name in CONTENDERS:
                one = [sys.executable, __file__, "--one", name, "--calls", str(calls), "--in-flight", str(in_flight)]
                told = subprocess.run([*one, "--port", str(port)], capture_output=True, text=True, check=True)
                figures[name].append([float(figure) for figure in told.stdout.split()])
    finally:
        server.terminate()
        server.communicate()
    print(f"{calls:,} calls, {in_flight} in flight, zero latency, medians of {rounds}")
    print(f"{'':12}{'CPU us/call':>12}{'calls/s':>10}{'peak MB':>9}{'x floor':>9}")
    for name, rows in figures.items():
        cpu, rate, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        ratio = statistics.median(own[0] / bare[0] for own, bare in zip(rows, figures["floor"], strict=True))
        print(f"{name:12}{cpu:12.0f}{rate:10,.0f}{memory:9.0f}{ratio:9.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--calls", type=int, default=20_000)
    options.add_argument("--in-flight", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        contend(given.one, given.calls, given.in_flight, given.port)
    else:
        compare(given.calls, given.in_flight, given.rounds)


if __name__ == "__main__":
    main()
