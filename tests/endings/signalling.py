"""A recording provider that sends its client signals, each in the moment in which it has sent a drawn number of answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from types import MappingProxyType

from penstock.simulator.behaviour import Plan, Settings
from tests.journeys.recording import RecordingProvider, RecordingSimulator, recording
from tests.kit.journey import PATIENCE_SECONDS

NONE: Mapping[int, signal.Signals] = MappingProxyType({})


class SignallingSimulator(RecordingSimulator):
    """Sends the signals of `after` by the number of answers before each, and notes how many requests had come by then."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.after = NONE
        self.arrived_at_signal: list[int] = []
        self._process: SimpleQueue[int] = SimpleQueue()
        self._known: int | None = None

    def begin_signalling(self, after: Mapping[int, signal.Signals] = NONE) -> None:
        """Begin a new record, with these signals."""
        self.begin()
        self.after, self.arrived_at_signal, self._known = after, [], None

    def client_is(self, process: int) -> None:
        self._process.put(process)

    def leave(self, now: float, plan: Plan, whole: bool) -> None:
        super().leave(now, plan, whole)
        number = self.after.get(len(self.answered)) if whole and plan.outcome == "answered" else None
        if number is not None:
            self._known = self._known or self._process.get(timeout=PATIENCE_SECONDS)
            self.arrived_at_signal.append(len(self.arrived))
            os.kill(self._known, number)


@contextmanager
def signalling(settings: Settings) -> Iterator[tuple[RecordingProvider, SignallingSimulator]]:
    """A `recording` provider whose simulator signals."""
    with recording(settings) as provider:
        simulator = SignallingSimulator(settings)
        provider.simulator = provider._server.simulator = simulator
        yield provider, simulator
