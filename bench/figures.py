"""Figures into words: medians, ratios, Markdown tables, targets, the machine they were taken on. It measures nothing."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple


def median(values: Iterable[float | None]) -> float:
    """NaN where there is none."""
    told = [value for value in values if value is not None and not math.isnan(value)]
    return statistics.median(told) if told else math.nan


def ratio(own: Iterable[float | None], theirs: Iterable[float | None]) -> float:
    """The median of the ratios taken pair by pair, each pair of one round; NaN where no pair is whole.

    What slows the machine for a moment slows both of a pair, while a ratio of two medians mixes moments.
    """
    return median(one / other for one, other in zip(own, theirs, strict=True) if one is not None and other)


def number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2f}"


def share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def markdown(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> Iterator[str]:
    """The lines of a table, the first row its headings, padded so that it reads as plain text too.

    Columns stand to the right, like figures; those numbered in `left`, to the left.
    """
    widths = [
        max(2, *map(len, column)) for column in zip(*rows, strict=True)
    ]  # a rule is a hyphen and a colon at least
    rule = ["-" * width if at in left else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    for cells in (rows[0], rule, *rows[1:]):
        padded = [
            text.ljust(width) if at in left else text.rjust(width)
            for at, (text, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield f"| {' | '.join(padded)} |"


class Target(NamedTuple):
    """What shall be reached; `at_least` or else at most."""

    text: str
    value: float
    bound: float
    at_least: bool = True

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"* not measured: {self.text}"
        reached = self.value >= self.bound if self.at_least else self.value <= self.bound
        # As many digits as it takes to see on which side of the bound it lies.
        told = number(self.value) if number(self.value) != number(self.bound) else f"{self.value:.4g}"
        return f"* {'reached' if reached else 'MISSED'}: {self.text}: {told}"


def machine() -> str:
    """What it runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return (
        f"{os.cpu_count()} x {models[0] if models else platform.machine()}, {memory:.0f} GB, {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d};"
        f" load average before the start {os.getloadavg()[0]:.1f}"
    )
