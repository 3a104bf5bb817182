"""INPUT from standard input: JSON Lines, once, through one reader thread.

It decides how much may lie between the thread and the event loop, so that neither a slow consumer nor a slow pipe
holds up more than itself. What a line means is decided by `formats`, on the loop, where `skip` may be called.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Literal, TypeAlias

from penstock.edges.files.formats import Skip, json_row
from penstock.edges.files.lines import numbered_lines
from penstock.errors import InputError
from penstock.records import RawRow

Line: TypeAlias = tuple[int, bytes]

_MAX_WAITING_LINES = 256
_MAX_WAITING_BYTES = 4 << 20
_READ_BYTES = 1 << 16


class HandOver:
    """Lines from one thread to one event loop, bounded by count and bytes. `put` and `end` are the thread's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = threading.Condition()
        self._lines: list[Line] = []
        self._bytes = 0
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._arrived = asyncio.Event()

    def put(self, line: Line) -> bool:
        """Hand over a line, waiting while there is no room; false once nobody wants any."""
        with self._room:
            self._room.wait_for(lambda: self._closed or self._has_room())
            if self._closed:
                return False
            self._lines.append(line)
            self._bytes += len(line[1])
            first = len(self._lines) == 1
        return self._wake() if first else True

    def end(self, error: BaseException | None) -> None:
        """No more lines will come; `error` is raised after those that are waiting."""
        with self._room:
            self._ended, self._error = True, error
        self._wake()

    async def take(self) -> list[Line]:
        """All lines that are waiting, at least one; an empty list at the end."""
        while True:
            with self._room:
                taken, self._lines, self._bytes = self._lines, [], 0
                ended, error = self._ended, self._error
                self._arrived.clear()
                self._room.notify()
            if error is not None and not taken:
                raise error
            if taken or ended:
                return taken
            await self._arrived.wait()

    def close(self) -> None:
        """Nobody will take any more: a thread that waits for room goes home."""
        with self._room:
            self._closed = True
            self._room.notify()

    def _has_room(self) -> bool:
        return len(self._lines) < _MAX_WAITING_LINES and self._bytes < _MAX_WAITING_BYTES

    def _wake(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed: the program has gone on without us
            return False
        return True


class StandardInput:
    """Rows of JSON Lines from a file descriptor, which can be had once. `where` counts its lines as `-:LINE`."""

    repeatable: Literal[False] = False
    name = "-"

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor

    def rows(self, skip: Skip) -> AsyncIterator[RawRow]:
        """The rows in order, but for those whose index `skip` is true of. Raises `InputError` where reading fails.

        The reader is a daemon thread: one that hangs in `read` on a silent pipe never keeps the process from ending.
        """
        return self._rows(skip)

    async def _rows(self, skip: Skip) -> AsyncGenerator[RawRow, None]:
        hand_over = HandOver()
        threading.Thread(target=self._read, args=(hand_over,), name="penstock-standard-input", daemon=True).start()
        index = 0
        try:
            while taken := await hand_over.take():
                for number, line in taken:
                    if not skip(index):
                        yield json_row(index, f"{self.name}:{number}", line)
                    index += 1
        finally:
            hand_over.close()

    def _read(self, hand_over: HandOver) -> None:
        error: BaseException | None = None
        try:
            for line in numbered_lines(self._chunks(), self.name):
                if not hand_over.put(line):
                    return
        except BaseException as fault:  # noqa: BLE001 - raised again on the loop, which would wait for ever otherwise
            error = fault
        hand_over.end(error)

    def _chunks(self) -> Iterator[bytes]:
        # Not sys.stdin: a thread that is reading it holds its lock, and the interpreter aborts at exit for want of it.
        try:
            while chunk := os.read(self._descriptor, _READ_BYTES):
                yield chunk
        except OSError as error:
            raise InputError(self.name, f"standard input cannot be read: {error.strerror}") from error
