"""A self-hosted engine: so many requests are answered at once, the others queue in the order of their arrival.

Pure: it decides who has a slot and who is turned away, never how long anything takes. Who queues is told to begin by a
call of its own, because nobody knows beforehand who will give up.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


class Engine(Generic[T]):
    """Slots and a queue. `None` slots are endless, and so is a queue without `shed_above`."""

    def __init__(self, slots: int | None, shed_above: int | None) -> None:
        self._all_slots, self._slots, self._shed_above = slots, slots, shed_above
        self._queue: deque[T] = deque()
        self.busy = 0

    def enter(self, request: T) -> Literal["answered", "queued", "shed"]:
        """What becomes of one that arrives."""
        if self._slots is None or self.busy < self._slots:
            self.busy += 1
            return "answered"
        if self._shed_above is not None and len(self._queue) >= self._shed_above:
            return "shed"
        self._queue.append(request)
        return "queued"

    def leave(self, request: T, queued: bool) -> list[T]:
        """One is over, or gave up while it queued; returns those that are answered from now on."""
        if queued:
            self._queue.remove(request)
        else:
            self.busy -= 1
        return self._begin()

    def scale(self, share: float) -> list[T]:
        """From now on there are that share of the slots, at least one; returns those that are answered from now on."""
        if self._all_slots is not None:
            self._slots = max(1, round(self._all_slots * share))
        return self._begin()

    def _begin(self) -> list[T]:
        begun = []
        while self._queue and self._slots is not None and self.busy < self._slots:
            self.busy += 1
            begun.append(self._queue.popleft())
        return begun
