"""How the lag of a loop is counted."""

from __future__ import annotations

import asyncio
import time

import pytest

from bench.many_streams import TICK_SECONDS, Ticks, late_ticks, percentile


@pytest.mark.parametrize(
    ("now", "late_ms", "next_due"),
    [
        (99.999, [0.0], 100.01),  # a little early, as uvloop's may be
        (100.0, [0.0], 100.01),
        (100.004, [4.0], 100.01),
        (100.025, [25.0, 15.0, 5.0], 100.03),
    ],
)
def test_every_tick_that_fell_due_is_counted_and_the_next_keeps_the_beat(
    now: float, late_ms: list[float], next_due: float
) -> None:
    late, due = late_ticks(100.0, now)
    assert late == pytest.approx(late_ms, abs=1e-6)
    assert due == pytest.approx(next_due)


def test_a_loop_that_stood_still_for_two_of_a_hundred_seconds_shows_it_at_p99() -> None:
    """As one late tick among ten thousand it would not be seen."""
    still, _ = late_ticks(0.0, 2.0)
    assert len(still) == pytest.approx(200, abs=1)
    assert percentile([*still, *[0.0] * 9_800], 99) > 900


async def test_what_is_due_when_the_counting_ends_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that stands still up to the end has no tick of its own for that."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ticks = Ticks()
    now += 5 * TICK_SECONDS + 0.001
    ticks.stop()
    await asyncio.sleep(0)
    assert ticks.late_ms == pytest.approx([41, 31, 21, 11, 1])
