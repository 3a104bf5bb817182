"""One limit: who binds it, what headers change of it and for how long, and that nothing told ever stops it for good."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.options import Limits
from penstock.records import Told
from penstock.rules.budget import Budget, budgets_of, minute_or_day
from penstock.rules.charges import DAY

RPM = 600.0
SLICE = 0.6


def budget(asked: float | None = None, *, name: str = "requests_per_minute", share: float = 1.0) -> Budget:
    return Budget(name, asked, share, SLICE)


def told_budget(limit: float = RPM, share: float = 1.0) -> Budget:
    """A budget whose limit the provider told when half of it was used, so that no burst shows."""
    made = budget(share=share)
    made.hear(0.0, 0.0, Told(limit, limit / 2, 30.0))
    return made


def flow(made: Budget, start: float, seconds: float, *, on_sent: Callable[[float], None] | None = None) -> list[float]:
    """The times at which one unit after the other goes, each as early as it may."""
    now, sent = start, []
    while now < start + seconds:
        if (ready := made.ready_at(now, 1.0)) > now:
            now = ready
            continue
        made.take(now, 1.0)
        sent.append(now)
        if on_sent is not None:
            on_sent(now)
    return sent


def most_in_a_minute(sent: list[float]) -> int:
    """How many the fullest minute holds."""
    return max((bisect_left(sent, at + 60.0) - index for index, at in enumerate(sent)), default=0)


# -- whose figure binds


def test_a_budget_of_which_nobody_told_a_limit_holds_nothing_up() -> None:
    made = budget()
    assert made.limit is None
    assert not made.paces
    for _ in range(1_000):
        assert made.ready_at(0.0, 100.0) <= 0.0
        made.take(0.0, 100.0)


@pytest.mark.parametrize(
    ("asked", "told", "limit"),
    [(600.0, None, 600.0), (None, 600.0, 600.0), (600.0, 6_000.0, 600.0), (600.0, 300.0, 300.0)],
)
def test_the_callers_figure_binds_from_above_and_what_is_told_below_it(
    asked: float | None, told: float | None, limit: float
) -> None:
    made = budget(asked)
    made.hear(0.0, 0.0, Told(told, told and told / 2, 30.0))
    assert made.limit == limit
    assert made.rate == limit / 60
    assert len(flow(made, 0.0, 120.0)) <= 2 * limit


def test_a_limit_that_rises_again_is_used_again() -> None:
    made = budget()
    for at, limit in ((0.0, 600.0), (1.0, 300.0), (2.0, 900.0)):
        made.hear(at, at, Told(limit, limit / 2, 30.0))
        assert made.limit == limit


def test_an_answer_that_is_older_than_one_heard_is_ignored_whatever_it_tells() -> None:
    made, twin = told_budget(), told_budget()
    for one in (made, twin):
        one.hear(6.0, 5.0, Told(RPM, 400.0, 20.0))
    made.hear(7.0, 4.9, Told(10.0, 0.0, 60.0))
    assert made.limit == RPM
    assert flow(made, 7.0, 30.0) == flow(twin, 7.0, 30.0)


def test_the_callers_budgets_are_those_that_have_a_figure() -> None:
    limits = Limits(requests_per_minute=60, tokens_per_day=1_000, share=0.5)
    assert [(made.name, made.limit, made.paces) for made in budgets_of(limits, SLICE)] == [
        ("requests_per_minute", 60, True),
        ("tokens_per_day", 1_000, False),
    ]


# -- how much may be used


@settings(max_examples=50, deadline=None)
@given(asked=st.floats(20, 300), share=st.floats(0.1, 1.0), gaps=st.lists(st.floats(0, 40), max_size=8))
def test_no_minute_holds_more_than_the_share_of_the_limit_whatever_the_pauses(
    asked: float, share: float, gaps: list[float]
) -> None:
    made, now, sent = budget(asked, share=share), 0.0, []
    for gap in gaps:
        times = flow(made, now + gap, 25.0)
        sent += times
        now += gap + 25.0
    assert most_in_a_minute(sent) <= max(1.0, asked * share) + 1e-6


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_the_share_is_filled_of_a_limit_that_was_set_and_of_one_that_was_told(share: float) -> None:
    for made in (budget(RPM, share=share), told_budget(share=share)):
        assert 0.985 * RPM * share * 10 <= len(flow(made, 60.0, 600.0)) <= RPM * share * 10 + RPM * share * 0.02


@pytest.mark.parametrize(
    ("limit", "cost", "never"), [(100.0, 100.0, False), (100.0, 100.1, True), (0.5, 1.0, False), (None, 1e9, False)]
)
def test_only_what_is_above_the_whole_limit_never_fits(limit: float | None, cost: float, never: bool) -> None:
    assert budget(limit, name="tokens_per_minute").never_fits(cost) is never
    assert budget(limit, name="tokens_per_minute", share=0.5).never_fits(cost) is never


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_what_just_fits_the_limit_goes_again_and_again(share: float) -> None:
    made, now = budget(100.0, name="tokens_per_minute", share=share), 0.0
    for _ in range(5):
        while (ready := made.ready_at(now, 100.0)) > now:
            now = ready
        made.take(now, 100.0)
    assert now <= 4 * (60.0 / share + 1.0)


def test_a_margin_that_is_kept_back_lowers_the_rate_by_as_much() -> None:
    made = budget(RPM)
    made.keep_back(0.0, 0.03)
    assert made.rate == pytest.approx(0.97 * RPM / 60)


def test_a_day_is_counted_down_at_once_and_not_paced() -> None:
    made = budget(50.0, name="requests_per_day")
    assert len(flow(made, 0.0, DAY / 2)) == 50
    assert DAY <= made.ready_at(DAY / 2, 1.0) <= DAY * 1.001
    assert len(flow(made, DAY / 2, DAY)) == 50


def test_what_others_have_used_of_the_day_is_not_used_again() -> None:
    made = budget(name="requests_per_day")
    made.hear(0.0, 0.0, Told(50.0, 20.0, DAY / 2))
    assert len(flow(made, 1.0, DAY / 2)) == 20


# -- bursts


def test_a_bucket_that_shows_itself_gives_its_burst_at_four_times_the_rate_at_most() -> None:
    made = budget()
    made.hear(0.0, 0.0, Told(RPM, RPM - 1, 0.1))
    sent = flow(made, 0.0, 10.0)
    assert 3.5 * 10 * RPM / 60 <= len(sent) <= 4.0 * 10 * RPM / 60 + 5
    assert len(sent) + len(flow(made, 10.0, 590.0)) <= RPM * 10 + 0.8 * RPM + 1


def test_the_first_throttle_takes_the_burst_back_for_good() -> None:
    made = budget()
    made.hear(0.0, 0.0, Told(RPM, RPM - 1, 0.1))
    flow(made, 0.0, 5.0)
    made.throttled(5.0, 7.0)
    assert made.ready_at(5.0, 1.0) >= 7.0
    made.hear(60.0, 59.0, Told(RPM, RPM - 1, 0.1))
    assert len(flow(made, 60.0, 10.0)) <= (10 + SLICE) * RPM / 60 + 1


@pytest.mark.parametrize("asked", [RPM / 2, 0.99 * RPM])
def test_a_caller_who_set_less_than_the_provider_tells_gets_no_burst(asked: float) -> None:
    made = budget(asked)
    made.hear(0.0, 0.0, Told(RPM, RPM - 1, 0.1))
    assert len(flow(made, 0.0, 10.0)) <= (10 + SLICE) * asked / 60 + 1


def test_a_clock_minute_gives_no_burst() -> None:
    """Its reset is the rest of the minute, whatever was used of it."""
    made = budget()
    made.hear(0.0, 0.0, Told(RPM, RPM - 1, 45.0))
    assert len(flow(made, 0.0, 10.0)) <= (10 + SLICE) * RPM / 60 + 1


# -- others on the same key


def test_others_traffic_in_a_bucket_lowers_the_rate_before_a_throttle() -> None:
    made = told_budget()
    made.hear(1.0, 0.5, Told(RPM, RPM / 20, 57.0))
    assert len(flow(made, 1.0, 20.0)) <= 2.0 * RPM / 20 / 57.0 * 20 + 2


@pytest.mark.parametrize("others", [0.1, 0.3, 0.6])
def test_others_traffic_in_a_clock_minute_leaves_us_the_rest(others: float) -> None:
    """The provider counts more than we have sent: what is too much is of others, and so is as much of the next minute."""
    made = budget()
    made.hear(0.0, 0.0, Told(RPM, RPM, 60.0))
    first = len(flow(made, 0.0, 30.0))
    made.hear(30.0, 29.9, Told(RPM, RPM - first - others * RPM, 30.0))
    assert len(flow(made, 31.0, 29.0)) == pytest.approx((1 - others) * RPM / 60 * 29, rel=0.05)


def test_what_was_told_for_a_time_lapses_when_it_is_over() -> None:
    made = told_budget()
    made.hear(1.0, 0.5, Told(RPM, RPM / 10, 10.0))
    flow(made, 1.0, 10.0)
    assert len(flow(made, 11.0, 30.0)) >= 0.98 * 30 * RPM / 60


def cut_budget(throttles: int = 1) -> Budget:
    """A budget that was throttled at 100 s, while little was told to remain of a limit known for long."""
    made = told_budget()
    made.hear(100.0, 99.5, Told(RPM, RPM / 10, 1.0))
    for _ in range(throttles):
        made.throttled(100.2, 100.5)
    return made


def test_a_throttle_while_little_is_told_to_remain_cuts_the_rate_which_grows_again() -> None:
    made, rates = cut_budget(), []
    for start in range(101, 161, 5):
        made.hear(start, start, Told(RPM, RPM / 2, 30.0))
        rates.append(len(flow(made, start, 5.0)) / 5 / (RPM / 60))
    assert 0.5 <= rates[0] <= 0.75
    assert all(later > earlier for earlier, later in pairwise(rates[:7]))
    assert min(rates[8:]) >= 0.98


def test_throttles_of_one_episode_cut_the_rate_once() -> None:
    assert flow(cut_budget(1), 101.0, 20.0) == flow(cut_budget(20), 101.0, 20.0)


def test_a_throttle_while_much_remains_is_the_providers_trouble_and_cuts_nothing() -> None:
    made = told_budget()
    made.throttled(1.0, 2.0)
    assert len(flow(made, 3.0, 30.0)) >= 0.98 * 30 * RPM / 60


@pytest.mark.parametrize("remaining", [0.0, 1.0, RPM / 100])
def test_a_provider_that_always_tells_that_nothing_remains_does_not_stop_the_flow_for_ever(remaining: float) -> None:
    made = told_budget()

    def hear(now: float) -> None:
        made.hear(now, now, Told(RPM, remaining, 60.0))

    hear(0.0)
    first = len(flow(made, 0.0, 5.0, on_sent=hear))
    assert 1 <= first <= 0.2 * 5 * RPM / 60
    flow(made, 5.0, 55.0, on_sent=hear)
    assert len(flow(made, 60.0, 60.0, on_sent=hear)) >= 0.95 * RPM


def test_a_throttle_makes_what_is_told_to_remain_be_believed_again() -> None:
    made = told_budget()

    def hear(now: float) -> None:
        made.hear(now, now, Told(RPM, 0.0, 60.0))

    hear(0.0)
    flow(made, 0.0, 15.0, on_sent=hear)
    before = len(flow(made, 15.0, 4.0, on_sent=hear))
    made.throttled(19.0, 20.0)
    after = len(flow(made, 20.0, 4.0, on_sent=hear))
    assert after <= 0.2 * 4 * RPM / 60 < 0.4 * 4 * RPM / 60 <= before


LOWEST, HIGHEST = 500.0, 1_500.0
answers = st.tuples(
    st.floats(0, 20),
    st.one_of(st.none(), st.floats(LOWEST, HIGHEST)),
    st.one_of(st.none(), st.floats(0, 10_000)),
    st.one_of(st.none(), st.floats(0, 1e9)),
    st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(asked=st.one_of(st.none(), st.floats(LOWEST, HIGHEST)), heard=st.lists(answers, max_size=30))
def test_whatever_headers_tell_the_next_one_goes_within_minutes(
    asked: float | None, heard: list[tuple[float, float | None, float | None, float | None, bool]]
) -> None:
    """And the caller's figure is never exceeded by more than what it allows at once."""
    made, now, sent = budget(asked), 0.0, []
    for gap, limit, remaining, reset_s, refused in heard:
        now += gap
        sent += flow(made, now, 1.0) if made.limit is not None else []
        now += 1.0
        made.hear(now, now - 0.5, Told(limit, remaining, reset_s))
        if refused:
            made.throttled(now, now + 1.0)
    start = now
    while (ready := made.ready_at(now, 1.0)) > now:
        now = ready
    # A minute in which others may have used all of it; then what a burst has borrowed at the highest limit, at the lowest.
    assert now - start <= 61.0 + 60.0 * HIGHEST / LOWEST
    if asked is not None:
        assert most_in_a_minute(sent) <= asked + 1


# -- which budget a header is of


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (Told(600.0, 599.0, 0.1), "requests_per_minute"),
        (Told(600.0, 0.0, 60.0), "requests_per_minute"),
        (Told(600.0, 599.0, 60.0), "requests_per_minute"),
        (Told(600.0, 599.0, None), "requests_per_minute"),
        (Told(600.0, None, 86_400.0), "requests_per_minute"),
        (Told(1_000.0, 999.0, 86.4), "requests_per_day"),
        (Told(14_400.0, 14_370.0, 179.56), "requests_per_day"),
        (Told(1_000.0, 0.0, 86_400.0), "requests_per_day"),
        (Told(1_000.0, 500.0, 3_600.0), "requests_per_minute"),
    ],
)
def test_a_limit_that_takes_a_day_to_be_whole_again_is_a_days(told: Told, name: str) -> None:
    assert minute_or_day("requests_per_minute", told) == name


def test_a_name_that_has_no_day_keeps_its_minute() -> None:
    told = Told(1_000.0, 0.0, 86_400.0)
    assert minute_or_day("tokens_per_minute", told) == "tokens_per_day"
    assert minute_or_day("input_tokens_per_minute", told) == "input_tokens_per_minute"
