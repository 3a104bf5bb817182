"""The simulated provider in memory: a `Transport` without a socket, for the virtual clock, over the same `Simulator`.

It waits on the clock that it is given and turns plans into answers and typed errors; it decides nothing else.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from penstock.errors import BadAnswer, NoAnswer
from penstock.options import Timeouts
from penstock.ports import Clock
from penstock.records import HttpAnswer, HttpCall
from penstock.simulator import answers
from penstock.simulator.behaviour import Plan, Settings, Simulator

_CHAT = "/chat/completions"


class LocalTransport:
    """`ports.Transport` over a simulator of its own; the account is `transport.simulator.stats(clock.now())`."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.simulator = Simulator(settings)
        self._clock = clock

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        """The whole answer to a call, streams joined.

        Raises `NoAnswer` (disconnected, timeout) and `BadAnswer` (truncated, malformed) as a real connection would.
        """
        if call.method != "POST" or not urlsplit(call.url).path.endswith(_CHAT):
            return HttpAnswer(404, [answers.JSON], answers.NOT_FOUND)
        plan = self.simulator.arrive(self._clock.now(), call.body, _key(call))
        whole = False
        try:
            answer = await self._deliver(plan, timeouts)
            whole = True
        finally:
            self.simulator.leave(self._clock.now(), plan, whole)
        return answer

    async def _deliver(self, plan: Plan, timeouts: Timeouts) -> HttpAnswer:
        pauses = [delay for delay, _ in plan.chunks or ()][1:]
        await self._wait(plan, pauses, timeouts)
        if plan.fault == "reset":
            raise NoAnswer("disconnected", "the connection was reset before an answer came", maybe_billed=True)
        if plan.fault == "garbage":
            raise BadAnswer("malformed", "what came is not HTTP", maybe_billed=True)
        if plan.fault == "truncate":
            raise BadAnswer("truncated", "the answer was cut off", status=plan.status, maybe_billed=True)
        body = plan.body if plan.chunks is None else b"".join(event for _, event in plan.chunks)
        return HttpAnswer(plan.status, plan.headers, body)

    async def _wait(self, plan: Plan, pauses: list[float], timeouts: Timeouts) -> None:
        """Pass the time of the answer, or that until the first time-out and raise it."""
        end, late = _end(plan, pauses, timeouts)
        await self._clock.sleep(end)
        if late:
            raise NoAnswer("timeout", f"no answer within the {late} time-out", maybe_billed=True)

    async def aclose(self) -> None:
        """Nothing is open."""


def _end(plan: Plan, pauses: list[float], timeouts: Timeouts) -> tuple[float, str]:
    """Seconds until the answer is whole, or until the time-out of that name ends it."""
    first = float("inf") if plan.fault == "stall" else plan.delay
    ends = [(first + sum(pauses), "")]
    if first > timeouts.first_byte:
        ends.append((timeouts.first_byte, "first-byte"))
    passed = first
    for pause in pauses:
        if pause > timeouts.between_bytes:
            ends.append((passed + timeouts.between_bytes, "between-bytes"))
            break
        passed += pause
    if timeouts.total is not None and ends[0][0] > timeouts.total:
        ends.append((timeouts.total, "total"))
    return min(ends)


def _key(call: HttpCall) -> str | None:
    for name, value in call.headers:
        scheme, _, key = value.partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "bearer":
            return key.strip()
    return None
