"""The simulated provider in memory: a `Transport` without a socket, for the virtual clock, over the same `Simulator`.

It waits on the clock that it is given and turns plans into answers and typed errors; it decides nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from penstock.errors import BadAnswer, NoAnswer, NotSent
from penstock.options import Timeouts
from penstock.ports import AnswerStream, Clock
from penstock.records import HttpAnswer, HttpCall
from penstock.simulator import answers
from penstock.simulator.behaviour import Plan, Seconds, Settings, Simulator
from penstock.simulator.chance import seconds

_CHAT = "/chat/completions"


class LocalTransport:
    """`ports.Transport` over a simulator of its own; the account is `transport.simulator.stats(clock.now())`.

    `arrival_delay` passes on the way to the provider. It differs from one request to the next, so that what is sent
    evenly does not arrive evenly.
    """

    def __init__(self, settings: Settings, clock: Clock, arrival_delay: Seconds = 0.0) -> None:
        self.simulator = Simulator(settings)
        self._clock = clock
        self._arrival_delay = arrival_delay

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        """The whole answer to a call, streams joined.

        Raises `NotSent` (refused), `NoAnswer` (disconnected, timeout) and `BadAnswer` (truncated, malformed) as a real
        connection would. The time-outs run from the arrival.
        """
        if call.method != "POST" or not urlsplit(call.url).path.endswith(_CHAT):
            return HttpAnswer(404, [answers.JSON], answers.NOT_FOUND)
        if self._arrival_delay:
            await self._clock.sleep(seconds(self._arrival_delay, self._clock.random(), self._clock.random()))
        plan = self.simulator.arrive(self._clock.now(), call.body, _key(call))
        whole = False
        try:
            answer = await self._deliver(plan, timeouts)
            whole = True
        finally:
            self.simulator.leave(self._clock.now(), plan, whole)
        return answer

    @asynccontextmanager
    async def stream(self, call: HttpCall, timeouts: Timeouts) -> AsyncIterator[AnswerStream]:
        """The answer event by event, each at its time. Raises what `send` raises, on entering or while iterating."""
        if call.method != "POST" or not urlsplit(call.url).path.endswith(_CHAT):
            yield LocalStream(404, [answers.JSON], _pieces([(0.0, answers.NOT_FOUND)], self._clock))
            return
        plan = self.simulator.arrive(self._clock.now(), call.body, _key(call))
        whole = False
        try:
            if plan.chunks is None or plan.fault not in (None, "truncate"):
                answer = await self._deliver(plan, timeouts)
                yield LocalStream(answer.status, answer.headers, _pieces([(0.0, answer.body)], self._clock))
            else:
                await self._clock.sleep(plan.delay)
                events = [(0.0, plan.chunks[0][1]), *plan.chunks[1:]]
                cut = events if plan.fault is None else events[: len(events) // 2]
                yield LocalStream(plan.status, plan.headers, _pieces(cut, self._clock, cut_off=plan.fault is not None))
            whole = True
        finally:
            self.simulator.leave(self._clock.now(), plan, whole)

    async def _deliver(self, plan: Plan, timeouts: Timeouts) -> HttpAnswer:
        if plan.fault == "refused":
            raise NotSent("connect", "the connection was refused")
        queued = await self._stand_in_line(plan, timeouts) if plan.queued else 0.0
        pauses = [delay for delay, _ in plan.chunks or ()][1:]
        await self._wait(plan, pauses, timeouts, queued)
        if plan.fault == "reset":
            raise NoAnswer("disconnected", "the connection was reset before an answer came", maybe_billed=True)
        if plan.fault == "garbage":
            raise BadAnswer("malformed", "what came is not HTTP", maybe_billed=True)
        if plan.fault == "truncate":
            raise BadAnswer("truncated", "the answer was cut off", status=plan.status, maybe_billed=True)
        body = plan.body if plan.chunks is None else b"".join(event for _, event in plan.chunks)
        return HttpAnswer(plan.status, plan.headers, body)

    async def _stand_in_line(self, plan: Plan, timeouts: Timeouts) -> float:
        """Wait for a slot of the engine; returns the seconds that it took."""
        arrived, begun = self._clock.now(), asyncio.Event()
        plan.begin = begun.set
        late = min((timeouts.first_byte, "first-byte"), (_or_never(timeouts.total), "total"))
        timer = self._clock.call_at(arrived + late[0], begun.set) if late[0] < float("inf") else None
        await begun.wait()
        if timer is not None:
            timer.cancel()
        if plan.queued:
            raise _too_late(late[1])
        return self._clock.now() - arrived

    async def _wait(self, plan: Plan, pauses: list[float], timeouts: Timeouts, queued: float) -> None:
        """Pass the time of the answer, or that until the first time-out and raise it."""
        end, late = _end(plan, pauses, timeouts, queued)
        await self._clock.sleep(end)
        if late:
            raise _too_late(late)

    async def aclose(self) -> None:
        """Nothing is open."""


def _too_late(name: str) -> NoAnswer:
    return NoAnswer("timeout", f"no answer within the {name} time-out", maybe_billed=True)


def _or_never(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


class LocalStream(NamedTuple):
    """`ports.AnswerStream` of a plan."""

    status: int
    headers: list[tuple[bytes, bytes]]
    pieces: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.pieces


async def _pieces(events: list[tuple[float, bytes]], clock: Clock, *, cut_off: bool = False) -> AsyncIterator[bytes]:
    for pause, event in events:
        if pause:
            await clock.sleep(pause)
        yield event
    if cut_off:
        raise BadAnswer("truncated", "the answer was cut off", maybe_billed=True)


def _end(plan: Plan, pauses: list[float], timeouts: Timeouts, queued: float) -> tuple[float, str]:
    """Seconds until the answer is whole, or until the time-out of that name ends it; `queued` have passed already."""
    first = float("inf") if plan.fault == "stall" else plan.delay
    ends = [(first + sum(pauses), "")]
    if first > timeouts.first_byte - queued:
        ends.append((timeouts.first_byte - queued, "first-byte"))
    passed = first
    for pause in pauses:
        if pause > timeouts.between_bytes:
            ends.append((passed + timeouts.between_bytes, "between-bytes"))
            break
        passed += pause
    if ends[0][0] > _or_never(timeouts.total) - queued:
        ends.append((_or_never(timeouts.total) - queued, "total"))
    return min(ends)


def _key(call: HttpCall) -> str | None:
    for name, value in call.headers:
        scheme, _, key = value.partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "bearer":
            return key.strip()
    return None
