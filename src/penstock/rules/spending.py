"""Money reserved before it is spent: may one more request go without the sum ever being exceeded? Reads no price itself.

What is under way counts by the upper end of its estimate, what is over by its real cost; a send whose answer is lost
stays counted in full, because it may be billed.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.errors import RunStopped
from penstock.records import Usage

Price = Callable[[str, Usage], "float | None"]
"""US dollars of a model's usage, None where the price is unknown."""


class Spending:
    """A sum in US dollars that a run may spend, `spent` of it by earlier sessions.

    `unknown_sends` of theirs may have been billed without an answer; each counts as the next request at its upper end.
    """

    def __init__(self, most: float, price: Price, spent: float = 0.0, unknown_sends: int = 0) -> None:
        self.most = most
        self.spent = spent
        self.reserved = 0.0
        self.under_way = 0
        self._unknown_sends = unknown_sends
        self.price = price
        self.unpriced: str | None = None
        """A model that was asked for and whose price is unknown."""

    def reserve(self, model: str, upper: Usage) -> float | None:
        """Set aside what a request may cost at most and return it; None, and nothing set aside, where it does not fit.

        Without a known price nothing fits.
        """
        cost = self.price(model, upper)
        if cost is None:
            self.unpriced = model
            return None
        if self.spent + self.reserved + cost * (1 + self._unknown_sends) > self.most:
            return None
        self.reserved += cost
        self.under_way += 1
        return cost

    def settle(self, reserved: float, cost: float | None) -> None:
        """A request is over: it cost so much; None: it may have cost all that was reserved."""
        self.under_way -= 1
        # Sums of floats leave a residue; with nothing under way nothing is set aside.
        self.reserved = max(0.0, self.reserved - reserved) if self.under_way else 0.0
        self.spent += reserved if cost is None else cost

    def statistics(self) -> dict[str, float]:
        """Dollars spent, set aside, and allowed."""
        return {"spent_usd": self.spent, "reserved_usd": self.reserved, "most_usd": self.most}


def overspent(spending: Spending) -> RunStopped:
    """The error that ends a run whose money is used up."""
    if spending.unpriced is not None:
        return RunStopped(
            "cost",
            f"--max-cost cannot be kept: the price of {spending.unpriced!r}, which a row names, is not known. Take such rows "
            "out, or run the same command without --max-cost: it goes on where it stopped.",
        )
    return RunStopped(
        "cost",
        f"${spending.spent:.4f} of the ${spending.most:.4f} of --max-cost is spent, and the next request might exceed it. "
        "Raise --max-cost and run the same command again: it goes on where it stopped. (A request counts by the longest "
        "answer that it may have: --max-tokens makes that less.)",
    )
