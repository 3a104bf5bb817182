"""The ways to keep a limit: no window over it, no wait too short, and each forgets when it should."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.simulator.windows import DAY, FixedWindow, Limiter, SlidingWindow

MAKERS: list[Callable[[], Limiter]] = [
    lambda: FixedWindow(600, None),
    lambda: FixedWindow(600, -25.0),
    lambda: SlidingWindow(600),
]
ARRIVALS = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 300)), min_size=1, max_size=60)


def admitted(limiter: Limiter, arrivals: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Time and cost of those that fit."""
    now, made = 0.0, []
    for pause, cost in arrivals:
        now += pause
        if limiter.wait(now, cost) == 0:
            limiter.charge(now, cost)
            made.append((now, cost))
    return made


@given(arrivals=ARRIVALS)
@settings(max_examples=60)
def test_no_sixty_seconds_hold_more_than_a_sliding_window_allows(arrivals: list[tuple[float, int]]) -> None:
    """Whichever minute one looks at."""
    made = admitted(SlidingWindow(600), arrivals)
    for end, _ in made:
        assert sum(cost for at, cost in made if end - 60 + 1e-3 < at <= end) <= 600.001


@given(arrivals=ARRIVALS, offset=st.floats(-60, 60))
@settings(max_examples=60)
def test_no_fixed_window_holds_more_than_its_limit(arrivals: list[tuple[float, int]], offset: float) -> None:
    """Counted from the offset on."""
    used: dict[int, float] = {}
    for at, cost in admitted(FixedWindow(600, offset), arrivals):
        number = math.floor((at - offset + 1e-6) / 60)
        used[number] = used.get(number, 0) + cost
    assert max(used.values()) <= 600.001


@pytest.mark.parametrize("make", MAKERS)
@given(arrivals=ARRIVALS, cost=st.integers(1, 600))
@settings(max_examples=60)
def test_who_waits_as_told_is_admitted(
    make: Callable[[], Limiter], arrivals: list[tuple[float, int]], cost: int
) -> None:
    """The wait is enough, and half of it is not."""
    limiter = make()
    admitted(limiter, arrivals)
    now = sum(pause for pause, _ in arrivals)
    wait = limiter.wait(now, cost)
    if wait > 0.01:
        assert limiter.wait(now + wait / 2, cost) > 0
    assert limiter.wait(now + wait, cost) == 0


@pytest.mark.parametrize("make", MAKERS)
def test_more_than_the_limit_never_fits(make: Callable[[], Limiter]) -> None:
    """However long one waits."""
    assert math.isinf(make().wait(0, 601))
    assert make().wait(0, 600) == 0


def test_a_fixed_window_lets_twice_the_limit_pass_at_its_border() -> None:
    """Its known fault, which a client must be proof against."""
    window = FixedWindow(10, 0.0)
    window.charge(59.9, 10)
    assert window.wait(59.9, 1) == pytest.approx(0.1)
    assert window.wait(60.0, 10) == 0


def test_a_window_without_an_offset_begins_with_the_first_charge() -> None:
    """And goes on from there, minute by minute."""
    window = FixedWindow(10, None)
    assert window.reset(5.0) == 0
    window.charge(7.0, 10)
    assert (window.wait(20.0, 1), window.reset(20.0)) == (pytest.approx(47), pytest.approx(47))
    assert window.level(67.0) == 0


def test_a_day_is_a_window_too() -> None:
    """Of 86,400 seconds."""
    window = FixedWindow(10, 0.0, DAY)
    window.charge(1.0, 10)
    assert window.wait(3601.0, 1) == DAY - 3601


def test_a_sliding_window_waits_for_as_much_as_is_needed() -> None:
    """The oldest first, and `reset` for the youngest."""
    window = SlidingWindow(10)
    for at in (0.0, 10.0, 20.0):
        window.charge(at, 3)
    assert (window.wait(30, 1), window.wait(30, 2), window.wait(30, 5)) == (0, 30, 40)
    assert window.reset(30) == 50


@pytest.mark.parametrize("make", MAKERS)
def test_a_correction_counts_where_the_admission_counts(make: Callable[[], Limiter]) -> None:
    """What was given back of a minute gone by is no room in the present one."""
    limiter = make()
    limiter.charge(0.0, 100)
    limiter.charge(1.0, -40, since=0.0)
    assert limiter.level(1.0) == 60
    limiter.charge(100.0, 50)
    limiter.charge(101.0, -60, since=0.0)
    assert limiter.level(101.0) == 50


@pytest.mark.parametrize("make", MAKERS)
def test_a_limit_that_changes_keeps_what_is_used(make: Callable[[], Limiter]) -> None:
    """Half of the limit is half of the room, from now on."""
    limiter = make()
    limiter.charge(0.0, 200)
    limiter.scale(1.0, 300)
    assert (limiter.limit, limiter.room, limiter.level(1.0)) == (300, 300, 200)
    assert limiter.wait(1.0, 100) == 0
    assert limiter.wait(1.0, 101) > 0
