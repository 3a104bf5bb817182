"""The load: so many connections that ask the same question again and again, each as soon as it is answered.

It is the same for every gateway, runs in a process of its own, and is as light as it can be: callbacks of an
`asyncio.Protocol` on uvloop, httptools, one request that is encoded once. It times and checks every answer, and decides
nothing about them. Reads a `Load` as JSON from standard input, prints a `Measured`.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections import Counter
from typing import cast

import httptools
import msgspec

DATA, DONE = b"data:", b"data: [DONE]"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask of whom. After `seconds` nothing more is asked; after `patience` more, what is still out has failed."""

    port: int
    path: str
    headers: dict[str, str]
    body: str
    connections: int
    seconds: float
    patience: float
    events: int = 0
    """How many server-sent events make a whole stream; 0 asks for whole answers."""

    expected: str
    """What an answer must contain."""


class Measured(msgspec.Struct, frozen=True):
    """What came of it; times in milliseconds, NaN where nothing was answered. `first` is the first byte of a body."""

    answered: int
    seconds: float
    p50: float | None
    p99: float | None
    first_p50: float | None
    failures: dict[str, int]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


class Account:
    """What all connections saw."""

    def __init__(self, load: Load) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        body = load.body.encode()
        self.request = (
            f"POST {load.path} HTTP/1.1\r\nhost: 127.0.0.1:{load.port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{head}\r\n"
        ).encode() + body
        self.events, self.expected = load.events, load.expected.encode()
        self.until = 0.0
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.failures: Counter[str] = Counter()
        self.last = 0.0

    def fault(self, status: int, body: bytes) -> str | None:
        """Why this is not the answer that was asked for."""
        if status != 200:
            return f"{status}: {body[:160].decode(errors='replace')}"
        if self.expected not in body:
            return "another answer"
        if self.events and (body.count(DATA) < self.events or DONE not in body[-64:]):
            return "a stream that is not whole"
        return None


class Connection(asyncio.Protocol):
    """One request after another; `over` is set when it asks no more."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._asked = self._first = 0.0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self) -> None:
        self._asked, self._first = time.perf_counter(), 0.0
        self._transport.write(self._account.request)

    def data_received(self, data: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        account, now = self._account, time.perf_counter()
        body, self._parts = b"".join(self._parts), []
        account.last = now
        if fault := account.fault(self._parser.get_status_code(), body):
            account.failures[fault] += 1
        else:
            account.latencies.append(now - self._asked)
            account.firsts.append(self._first - self._asked)
        if now < account.until and self._parser.should_keep_alive():
            self.ask()
        else:
            self._asked = 0.0
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._asked:
            self._account.failures[f"connection lost: {error or 'closed'}"] += 1
        if not self.over.done():
            self.over.set_result(None)


async def opened(load: Load, account: Account) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(account), "127.0.0.1", load.port)
    return connection


async def keep_asking(load: Load, account: Account, connection: Connection) -> None:
    """Ask by this connection and, where the other side closes it, by the next."""
    while True:
        connection.ask()
        await connection.over
        if time.perf_counter() >= account.until:
            return
        connection = await opened(load, account)


async def loaded(load: Load) -> Measured:
    account = Account(load)
    connections = [await opened(load, account) for _ in range(load.connections)]
    start = time.perf_counter()
    account.until = start + load.seconds
    tasks = [asyncio.create_task(keep_asking(load, account, connection)) for connection in connections]
    done, late = await asyncio.wait(tasks, timeout=load.seconds + load.patience)
    for task in late:
        task.cancel()
    for task in done:
        task.result()
    if late:
        account.failures[f"not answered within {load.patience:.0f} s"] += len(late)
        account.last = time.perf_counter()
    return measured(account, start)


def measured(account: Account, start: float) -> Measured:
    def of(times: list[float], percent: int) -> float | None:
        if not times:
            return None
        return 1000 * (statistics.quantiles(times, n=100, method="inclusive")[percent - 1] if times[1:] else times[0])

    return Measured(
        answered=len(account.latencies),
        seconds=account.last - start,
        p50=of(account.latencies, 50),
        p99=of(account.latencies, 99),
        first_p50=of(account.firsts, 50),
        failures=dict(account.failures),
    )


if __name__ == "__main__":
    import uvloop

    told = uvloop.run(loaded(msgspec.json.decode(sys.stdin.buffer.read(), type=Load)))
    print(msgspec.json.encode(told).decode())
