"""The test kit: time that stands still, answers by script, a ledger in memory, and a switch that keeps tests off the network.

    transport = ScriptedTransport([completion("Hello"), error("server_error", "down"), completion("Hello again")])
    client = Client("openai/gpt-5-mini", transport=transport)

Nothing here is needed in production, and nothing of it touches disk or network.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from random import Random

import msgspec

from penstock.edges.http import forbid_network
from penstock.errors import Kind, RequestError, request_error
from penstock.options import Timeouts
from penstock.ports import Timer
from penstock.records import Call, Entry, HttpAnswer, HttpCall
from penstock.rules.identity import ABSENT, ANSWERED

__all__ = ["ManualClock", "MemoryLedger", "ScriptedTransport", "completion", "error", "no_network"]

Scripted = HttpAnswer | RequestError
"""One step of a script: an answer, or an error to raise."""


class _ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """The `Clock` port whose time moves only by `advance`; `random` repeats with the seed."""

    def __init__(self, now: float = 0.0, seed: int = 0) -> None:
        self._now = now
        self._chance = Random(seed)
        self._timers: list[tuple[float, int, _ManualTimer]] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return 1_767_225_600.0 + self._now

    def random(self) -> float:
        return self._chance.random()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        """Time passes at once for whoever sleeps."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass and every timer fire that falls due, in order and at its own time."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            if timer.callback is not None:
                timer.callback()
        self._now = end


class ScriptedTransport:
    """The `Transport` port that answers by script, in order, or by a function of the call. `calls` keeps what was sent."""

    def __init__(self, script: Iterable[Scripted] | Callable[[HttpCall], Scripted]) -> None:
        steps = iter(()) if callable(script) else iter(script)
        self._answer = script if callable(script) else lambda _: next(steps)
        self.calls: list[HttpCall] = []
        self.closed = False

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:  # noqa: ARG002  a script keeps no time
        self.calls.append(call)
        answer = self._answer(call)
        if isinstance(answer, RequestError):
            raise answer
        return answer

    @asynccontextmanager
    async def stream(self, call: HttpCall, timeouts: Timeouts) -> AsyncIterator[ScriptedStream]:
        """The same script, its answers in one piece each."""
        answer = await self.send(call, timeouts)
        yield ScriptedStream(answer)

    async def aclose(self) -> None:
        self.closed = True


class ScriptedStream:
    """`ports.AnswerStream` of an answer that is there already."""

    def __init__(self, answer: HttpAnswer) -> None:
        self.status, self.headers, self._body = answer.status, answer.headers, answer.body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


def completion(text: str, *, input_tokens: int = 1, output_tokens: int = 1, finish_reason: str = "stop") -> HttpAnswer:
    """A whole chat completion, as OpenAI sends one."""
    body = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "model": "scripted",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": input_tokens, "completion_tokens": output_tokens},
    }
    return HttpAnswer(200, [(b"content-type", b"application/json")], msgspec.json.encode(body))


def error(
    kind: Kind, message: str = "scripted", *, retry_after: float | None = None, maybe_billed: bool = False
) -> RequestError:
    """An error for a script; the kinds are those of `penstock.errors`."""
    return request_error(kind, message, retry_after=retry_after, maybe_billed=maybe_billed)


class MemoryLedger:
    """The `Ledger` port in memory. `entries` is what is recorded, `marked` how many sends of a row may be billed.

    `called` has the calls of workflows, by row, request and occurrence.
    """

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.called: dict[tuple[int, bytes, int], Call] = {}
        self.marked: dict[int, int] = {}
        self.commits = 0
        self._unclaimed: list[Entry] = []

    def state(self, index: int) -> int:
        entry = self.entries.get(index)
        return ABSENT if entry is None else entry.state

    def sending(self, index: int) -> None:
        self.marked[index] = self.marked.get(index, 0) + 1

    def not_sent(self, index: int) -> None:
        self.marked[index] -= 1
        if not self.marked[index]:
            del self.marked[index]

    async def commit(self, entries: Sequence[Entry], calls: Sequence[Call] = ()) -> None:
        self.commits += 1
        for call in calls:
            self.called[call.entry.index, call.entry.request, call.occurrence] = call
        for entry in entries:
            self.entries[entry.index] = entry
            self.marked.pop(entry.index, None)

    async def find(self, index: int, request: bytes) -> Entry | None:
        here = self.entries.get(index)
        if here is not None and here.request == request:
            return here
        if here is not None:
            self._unclaimed.append(self.entries.pop(index))
        for entry in self._unclaimed:
            if entry.request == request and entry.state == ANSWERED:
                self._unclaimed.remove(entry)
                self.entries[index] = msgspec.structs.replace(entry, index=index)
                return self.entries[index]
        return None

    async def read(self, index: int) -> Entry | None:
        return self.entries.get(index)

    async def calls(self, index: int) -> Sequence[Call]:
        return [call for (row, _, _), call in self.called.items() if row == index]

    async def claim(self, index: int, request: bytes, occurrence: int) -> Call | None:  # noqa: ARG002  it has one run only
        return None


@contextmanager
def no_network() -> Iterator[None]:
    """While it lasts, connecting to anything but this machine raises `NotSent`."""
    restore = forbid_network()
    try:
        yield
    finally:
        restore()
