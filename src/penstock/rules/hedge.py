"""When a second send of the same request is worth its price: it is slower than nearly all of its kind, and few are hedged.

Off unless asked for, because each hedge may be billed twice. The threshold is the 99th percentile of what answers lately took; at
most two in a hundred requests are hedged (FLOW-CONTROL A2). It never sends.
"""

from __future__ import annotations

import math

PERCENTILE = 0.99
SEEN_ENOUGH = 100
MOST_HEDGED = 0.02
CELLS_PER_DOUBLING = 8
SHORTEST = 0.001
FORGET_AT = 2_000
"""Counts are halved at so many answers, so that the percentile follows the provider's day."""


class Hedging:
    """The latencies of one kind of request, and the budget of second sends."""

    def __init__(self) -> None:
        self._cells: dict[int, float] = {}
        self._seen = 0.0
        self._credit = 0.0
        self.hedged = 0

    def answered(self, took_s: float) -> None:
        """An answer took so long."""
        cell = math.ceil(math.log2(max(took_s, SHORTEST) / SHORTEST) * CELLS_PER_DOUBLING)
        self._cells[cell] = self._cells.get(cell, 0.0) + 1.0
        self._seen += 1.0
        self._credit = min(self._credit + MOST_HEDGED, 1.0 + MOST_HEDGED * SEEN_ENOUGH)
        if self._seen >= FORGET_AT:
            self._cells = {key: count / 2 for key, count in self._cells.items()}
            self._seen /= 2

    def after(self) -> float | None:
        """Seconds after which a request counts as slow, rounded up by at most 9 %; None before enough was seen."""
        if self._seen < SEEN_ENOUGH:
            return None
        above = 0.0
        for cell in sorted(self._cells, reverse=True):
            above += self._cells[cell]
            if above > (1 - PERCENTILE) * self._seen:
                return float(SHORTEST * 2.0 ** (cell / CELLS_PER_DOUBLING))
        return None

    def spend(self) -> bool:
        """True if one more second send is within the budget; it is then spent."""
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        self.hedged += 1
        return True

    def give_back(self) -> None:
        """The second send was not needed: it never went out."""
        self._credit += 1.0
        self.hedged -= 1

    def statistics(self) -> dict[str, float]:
        """Requests hedged, and the threshold in seconds once it is known."""
        known = self.after()
        return {"hedged": float(self.hedged)} | ({} if known is None else {"hedge_after_s": known})
