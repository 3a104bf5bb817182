"""The request log, a line of JSON for each exchange, and the post-processing of exchanges; no request waits for either.

Each has a bounded queue of its own, so that slow post-processing costs no line of the log. It decides what a line says.
What the disk refuses is counted, told and tried again; it never stops the server. A line is no receipt: it is not synced.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, TypeAlias

from penstock.edges.clock import SystemClock
from penstock.errors import UsageError
from penstock.ports import Clock
from penstock.server.backlog import Backlog, Warnings, Worker
from penstock.server.exchange import Exchange
from penstock.server.logs import iso_time, one_line

LOGGER = logging.getLogger("penstock.server")
CAPACITY = 10_000
"""Exchanges that may wait: a second or more of all that one process can handle."""

GATHER_SECONDS = 0.1
"""A line for each turn of the writer's thread took 80 us of CPU a request where requests come one by one; 20 so."""

GRACE_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds until a refused write is tried again: doubling."""

Step: TypeAlias = Callable[[Exchange], Awaitable[object]] | Callable[[Exchange], object]
"""One post-processing: a coroutine function runs on the loop, a plain function in a thread."""


def line_of(exchange: Exchange, *, content: bool) -> bytes:
    """What the log says of an exchange. `prompt` and `answer` are in it only with `content`."""
    usage = exchange.usage
    values: dict[str, Any] = {
        "time": iso_time(exchange.began_at),
        "request_id": exchange.request_id,
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "error_kind": exchange.error_kind or None,
        "model": exchange.model or None,
        "provider": exchange.provider or None,
        "key_name": exchange.key_name or None,
        "streamed": exchange.streamed,
        "duration_s": round(exchange.duration_s, 6),
        "queue_s": _rounded(exchange.queue_s),
        "first_token_s": _rounded(exchange.first_token_s),
        "input_tokens": usage.input_tokens if usage is not None else None,
        "output_tokens": usage.output_tokens if usage is not None else None,
        "cached_tokens": usage.cached_tokens if usage is not None else None,
        "reasoning_tokens": usage.reasoning_tokens if usage is not None else None,
        "cost": exchange.cost,
        "attempts": exchange.attempts,
        "finish_reason": exchange.finish_reason or None,
        "upstream_request_id": exchange.upstream_request_id or None,
    }
    if content:
        values["prompt"] = exchange.prompt.decode(errors="replace")
        values["answer"] = exchange.answer.decode(errors="replace")
    return one_line(values)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


class LogFile:
    """A file that only grows, mode 0600 if it is made here. Whoever renames or deletes it gets a new one at the next write.

    That is the way of `logging.handlers.WatchedFileHandler`: logrotate needs no signal, and `copytruncate` works too.
    Raises `UsageError` at the start for a path that cannot be a log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._torn = self._owed = b""
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise UsageError(
                f"{path} cannot be the request log: {error.strerror or error}; name another file"
            ) from error

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            _begin_a_line(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def append(self, lines: bytes) -> int:
        """How many of these bytes were written: fewer where the disk became full; the rest is to be given again, first.

        Raises `OSError` where none was.
        """
        if self._moved():
            descriptor = self._open()
            os.close(self._descriptor)
            self._descriptor = descriptor
            # The head of the line whose rest comes now went to the old file.
            self._owed, self._torn = self._torn + self._owed, b""
        while self._owed:
            self._owed = self._owed[self._write(self._owed) :]
        return self._write(lines)

    def _write(self, data: bytes) -> int:
        view, done = memoryview(data), 0
        while done < len(data):
            try:
                done += os.write(self._descriptor, view[done:])
            except OSError:
                if not done:
                    raise
                break
        ended = data.rfind(b"\n", 0, done) + 1
        self._torn = data[ended:done] if ended else self._torn + data[:done]
        return done

    def _moved(self) -> bool:
        ours = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        os.close(self._descriptor)


def _begin_a_line(descriptor: int) -> None:
    """Raises `OSError` for what is no regular file. Where a crash cut the last line, the next one stands on its own."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    if status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
        os.write(descriptor, b"\n")


class RequestLog:
    """Takes exchanges and writes a line for each. `record` never waits and never raises.

    `content` also writes prompts and answers. `start` and `aclose` belong to the application's lifespan.
    """

    def __init__(
        self, path: Path, *, content: bool = False, capacity: int = CAPACITY, clock: Clock | None = None
    ) -> None:
        clock = clock or SystemClock()
        self._path, self._content = path, content
        self._backlog: Backlog[Exchange] = Backlog(
            self._write, capacity=capacity, clock=clock, name="request log", gather_s=GATHER_SECONDS
        )
        self._refused = Warnings(clock, f"request log: %d writes to {path} failed and will be tried again%s")
        self.record = self._backlog.put
        self.written = self.failures = 0

    async def start(self) -> None:
        """Open the file and begin; raises `UsageError` where it cannot be one."""
        self._file = LogFile(self._path)
        self._worker = Worker("penstock-request-log")
        self._backlog.start()

    async def aclose(self, grace_s: float = GRACE_SECONDS) -> None:
        """Write what waits, for so many seconds at most; what is left then is counted as dropped, and told."""
        await self._backlog.aclose(grace_s)
        self._refused.tell()
        self._worker.stop(self._file.close)

    def statistics(self) -> dict[str, float]:
        """Lines written, exchanges dropped, writes that failed, exchanges that wait."""
        backlog = self._backlog
        return {
            "written": self.written,
            "dropped": backlog.dropped,
            "failures": self.failures,
            "waiting": len(backlog),
        }

    async def _write(self, batch: list[Exchange]) -> None:
        content, left = self._content, len(batch)
        try:
            rest = await self._worker.do(lambda: b"".join(line_of(exchange, content=content) for exchange in batch))
            pause = FIRST_PAUSE
            while rest:
                try:
                    done = await self._worker.do(partial(self._file.append, rest))
                except OSError as error:
                    self._refuse(error)
                    if self._backlog.closing:
                        break
                    await self._backlog.pause(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                else:
                    whole = rest.count(b"\n", 0, done)
                    self.written += whole
                    left -= whole
                    rest, pause = rest[done:], FIRST_PAUSE
        finally:
            if left:
                self._backlog.lose(left, "the server stopped before they were written")

    def _refuse(self, error: OSError) -> None:
        self.failures += 1
        self._refused.count(1, error.strerror or error)


class PostProcessing:
    """Gives every exchange to each of `steps`, in order, while no caller waits. One that raises is told and skips no other."""

    def __init__(self, steps: Sequence[Step], *, capacity: int = CAPACITY, clock: Clock | None = None) -> None:
        self._steps = tuple(steps)
        self._backlog: Backlog[Exchange] = Backlog(
            self._run, capacity=capacity, clock=clock or SystemClock(), name="post-processing"
        )
        self.record = self._backlog.put
        self.done = self.failures = 0

    async def start(self) -> None:
        """Begin, on the running loop."""
        self._worker = Worker("penstock-post-processing")
        self._backlog.start()

    async def aclose(self, grace_s: float = GRACE_SECONDS) -> None:
        """Let the steps finish, for so many seconds at most; what is left then is counted as dropped, and told."""
        await self._backlog.aclose(grace_s)
        self._worker.stop(lambda: None)

    def statistics(self) -> dict[str, float]:
        """Exchanges done and dropped, exceptions out of steps, exchanges that wait."""
        backlog = self._backlog
        return {"done": self.done, "dropped": backlog.dropped, "failures": self.failures, "waiting": len(backlog)}

    async def _run(self, batch: list[Exchange]) -> None:
        left = len(batch)
        try:
            for exchange in batch:
                for step in self._steps:
                    await self._step(step, exchange)
                self.done += 1
                left -= 1
        finally:
            if left:
                self._backlog.lose(left, "the server stopped before their turn")

    async def _step(self, step: Step, exchange: Exchange) -> None:
        try:
            if iscoroutinefunction(step):
                await step(exchange)
            else:
                await self._worker.do(partial(step, exchange))
        except Exception:
            self.failures += 1
            name = getattr(step, "__qualname__", type(step).__qualname__)
            LOGGER.exception("post-processing: %s failed", name, extra={"request_id": exchange.request_id})
