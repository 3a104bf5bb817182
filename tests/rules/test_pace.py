"""A rate nobody told: free until the provider throttles, then just below what it lets through, and growing again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.rules.pace import Pace


def drive(pace: Pace, *, limit: float, seconds: float, start: float = 0.0) -> tuple[int, int]:
    """A provider that lets `limit` requests a second through and answers at once; returns answers and throttles."""
    now, allowed_at, answers, throttles = start, start, 0, 0
    while now < start + seconds:
        now = max(now, pace.ready_at()) + 1e-4
        pace.take(now)
        if allowed_at <= now:
            allowed_at = max(allowed_at, now - 1.0) + 1 / limit
            pace.answered(now)
            answers += 1
        else:
            throttles += 1
            pace.throttled(now, now + 0.5, named=True)
            now += 0.5
    return answers, throttles


def test_nothing_is_paced_before_a_throttle() -> None:
    pace = Pace()
    for step in range(1_000):
        assert pace.ready_at() <= step / 1_000
        pace.take(step / 1_000)
        pace.answered(step / 1_000)
    assert pace.rate is None


def test_rare_throttles_are_the_providers_passing_trouble_and_change_nothing() -> None:
    pace = Pace()
    for step in range(10_000):
        if step % 200 == 199:
            pace.throttled(step / 100, step / 100 + 1, named=False)
        else:
            pace.answered(step / 100)
    assert pace.rate is None


def test_the_rate_settles_near_the_limit_with_few_throttles() -> None:
    for limit in (10.0, 50.0, 200.0):
        pace = Pace()
        drive(pace, limit=limit, seconds=30)
        answers, throttles = drive(pace, limit=limit, seconds=300, start=1_000)
        assert 0.8 * limit <= (pace.rate or 0) <= 2.5 * limit, limit
        assert answers >= 0.75 * limit * 300
        assert throttles <= 0.05 * answers


def test_a_limit_that_rises_is_found_again() -> None:
    pace = Pace()
    drive(pace, limit=10, seconds=60)
    drive(pace, limit=100, seconds=180, start=1_000)
    assert (pace.rate or 0) > 60


def test_waiters_leave_by_pace_after_a_pause() -> None:
    pace = Pace()
    drive(pace, limit=10, seconds=60)
    pace.throttled(2_000, 2_005, named=True)
    first = pace.ready_at()
    assert first >= 2_005
    pace.take(first)
    assert pace.ready_at() >= first + 0.9 / (pace.rate or 1)


steps = st.lists(
    st.tuples(st.floats(0, 5), st.sampled_from(["answer", "named", "bare"]), st.floats(0, 30)), min_size=1, max_size=150
)


@settings(deadline=None)
@given(steps)
def test_whatever_comes_back_the_next_one_goes_within_the_slowest_pace_after_the_pause(
    happened: list[tuple[float, str, float]],
) -> None:
    """One request in fifty seconds is the least: no storm of throttles stops the flow for ever."""
    pace, now, paused_until = Pace(), 0.0, 0.0
    for gap, what, wait in happened:
        now = max(now + gap, pace.ready_at())
        pace.take(now)
        if what == "answer":
            pace.answered(now)
        else:
            paused_until = max(paused_until, now + wait)
            pace.throttled(now, now + wait, named=what == "named")
        assert pace.rate is None or pace.rate >= 0.02
        assert pace.ready_at() <= max(now, paused_until) + 51.0


def test_cut_after_cut_the_pace_is_never_below_one_in_fifty_seconds() -> None:
    pace = Pace()
    for now in range(0, 20_000, 1_000):
        pace.take(now)
        pace.answered(now + 50)
        pace.throttled(now + 900, now + 901, named=True)
    assert pace.rate == 0.02
