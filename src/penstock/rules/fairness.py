"""Whose turn it is: lanes share by weight, the requests of one lane go in the order of their arrival.

Weighted fair queueing by virtual finish time: each lane's next request is as if served at `weight` of the flow, and the
earliest end goes first. A lane that was empty starts at the present virtual time, so it neither pays for its silence nor
saves it up. It never decides whether a request may go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from penstock.options import Lane

T = TypeVar("T")


class _Line(Generic[T]):
    __slots__ = ("lane", "start", "waiting")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.start = 0.0
        self.waiting: deque[tuple[T, float]] = deque()

    def finish(self) -> float:
        return self.start + self.waiting[0][1] / self.lane.weight


class FairQueue(Generic[T]):
    """Items in lanes, each with a cost: what it takes of the flow, in any unit. `length` is how many wait."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line[T]] = {}
        self._virtual = 0.0
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[T]:
        return (item for line in self._lines.values() for item, _ in line.waiting)

    def statistics(self) -> dict[str, float]:
        """How many wait in each lane, by its name."""
        return {name: float(len(line.waiting)) for name, line in self._lines.items()}

    def push(self, item: T, lane: Lane, cost: float, *, first: bool = False) -> None:
        """Stand in line, at the head of its own lane if `first`."""
        line = self._lines.get(lane.name)
        if line is None:
            line = self._lines[lane.name] = _Line(lane)
        if not line.waiting:
            line.start = max(line.start, self._virtual)
        if first:
            line.waiting.appendleft((item, cost))
        else:
            line.waiting.append((item, cost))
        self.length += 1

    def head(self) -> T:
        """Whose turn it is."""
        return self._next().waiting[0][0]

    def pop(self) -> None:
        """The head has had its turn."""
        line = self._next()
        finish = line.finish()
        self._virtual, line.start = max(self._virtual, line.start), finish
        line.waiting.popleft()
        self.length -= 1

    def drop(self) -> None:
        """The head has gone away without a turn."""
        self._next().waiting.popleft()
        self.length -= 1

    def _next(self) -> _Line[T]:
        if len(self._lines) == 1:
            return next(iter(self._lines.values()))
        return min((line for line in self._lines.values() if line.waiting), key=_Line.finish)
