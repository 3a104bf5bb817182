"""The forecast's own arithmetic: what is supposed, what is learned, and how a part stands for the whole."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.records import Usage
from penstock.rules.forecast import (
    DAY,
    OUTPUT_TOKENS,
    SIDES,
    Answer,
    Range,
    Shape,
    censored_log_normal,
    days_for,
    learned,
    quantile,
    scale_of,
    steady_interval,
    supposed,
    variation,
    whole_time,
)

POSITIVE = st.floats(min_value=0.01, max_value=1e6)


def answer(
    tokens: int = 100, output: int = 50, latency_s: float = 2.0, attempts: int = 1, text_bytes: int = 400
) -> Answer:
    return Answer(text_bytes, 1, Usage(tokens, output), latency_s, attempts)


def drawn(count: int, seed: int) -> list[Answer]:
    """Answers of 200 tokens and 5 s in the mean, varying by a half."""
    chance = Random(seed)
    factors = [math.exp(0.5 * chance.gauss(0, 1) - 0.125) for _ in range(count)]
    return [answer(output=max(1, round(200 * factor)), latency_s=5 * factor) for factor in factors]


# -- ranges and quantiles


def test_a_range_grows_on_both_sides() -> None:
    """Multiplied, widened and capped, the likely figure stays between the others."""
    assert Range(1, 2, 4).times(3) == Range(3, 6, 12)
    assert Range(1, 2, 4).within(2) == Range(0.5, 2, 8)
    assert Range(1, 2, 4).at_most(3) == Range(1, 2, 3)


@given(st.lists(POSITIVE, min_size=1, max_size=30).map(sorted), st.floats(0, 1), st.floats(0, 1))
def test_a_quantile_lies_among_its_values_and_grows_with_its_share(
    values: list[float], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert values[0] <= quantile(values, low) <= quantile(values, high) * (1 + 1e-9) <= values[-1] * (1 + 1e-6)


# -- what is supposed


def test_what_is_supposed_covers_a_word_and_some_pages() -> None:
    """Answers of 5 to 1,500 tokens, of 0.2 s to a minute; the likely case lies between."""
    outlook = supposed(None)
    assert (outlook.output_tokens.low, outlook.output_tokens.high) == (5, 1_500)
    assert outlook.latency_s.low < 0.5
    assert outlook.latency_s.high >= 60
    assert outlook.answers == 0
    assert outlook.latency_s.low < outlook.latency_s.likely < outlook.latency_s.high


@pytest.mark.parametrize(("limit", "most"), [(None, 1_500), (4_096, 1_500), (1_000, 1_000), (100, 100), (1, 1)])
def test_no_answer_is_supposed_to_be_longer_than_its_limit(limit: int | None, most: int) -> None:
    outlook = supposed(limit)
    assert outlook.output_tokens.high == most
    assert outlook.output_tokens.likely <= most
    assert outlook.latency_s.likely <= supposed(None).latency_s.likely


def test_the_tokens_of_a_row_are_its_text_and_its_messages() -> None:
    scenario = supposed(None).scenario("likely")
    assert scenario.input_tokens(Shape(400, 2, "m")) == 100 + 2 * 4
    assert scenario.input_tokens(Shape(0, 0, "m")) == 1


@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=50), st.floats(0.3, 900))
def test_rounding_loses_no_output_tokens(limits: list[int], mean: float) -> None:
    """The sum over rows is that of their means, each cut at its own limit, within one token."""
    outlook = learned([answer(output=1)])
    scenario = outlook.scenario("likely").__class__(1, 0, mean, 1.0, 1.0, (1.0,), (1.0,))
    usages = list(scenario.usages(Shape(4, 1, "m", most) for most in limits))
    assert sum(usage.output_tokens for usage in usages) == pytest.approx(sum(min(mean, m) for m in limits), abs=1)


def test_the_length_of_an_answer_keeps_to_its_limit() -> None:
    scenario = supposed(None).scenario("likely")
    assert scenario.output_at(0.99, None) > OUTPUT_TOKENS.likely > scenario.output_at(0.1, None)
    assert scenario.output_at(0.99, 50) == 50


# -- what is learned


def test_bytes_a_token_are_the_ratio_of_sums() -> None:
    """A short row with many tokens does not count as much as a long one."""
    outlook = learned([answer(tokens=1_000, text_bytes=5_000), answer(tokens=100, text_bytes=100)])
    assert outlook.tokens_per_byte.likely == pytest.approx(1_100 / 5_100)


def test_cached_tokens_are_learned_as_a_share_of_the_input() -> None:
    outlook = learned([Answer(400, 1, Usage(100, 10, cached_tokens=80), 1.0), answer(tokens=100)])
    (usage,) = outlook.scenario("likely").usages([Shape(400, 1, "m")])
    assert usage.cached_tokens == 40


def test_a_row_that_was_sent_again_teaches_sends_and_not_latency() -> None:
    """Its time is that of all its sends."""
    outlook = learned([answer(latency_s=2.0), answer(latency_s=90.0, attempts=3)])
    assert outlook.latency_s.likely == 2.0
    assert outlook.sends_per_row.likely == 2.0


@pytest.mark.parametrize("seed", range(5))
def test_ranges_narrow_with_answers_and_hold_the_truth(seed: int) -> None:
    """The mean length that answers are drawn with lies in the range after 1, 10, 50 and 1,000 of them."""
    widths = []
    for count in (1, 10, 50, 1_000):
        told = learned(drawn(count, seed)).output_tokens
        assert told.low <= 200 <= told.high, f"seed {seed}, {count} answers: {told}"
        widths.append(told.high / told.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 1.15


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000), st.floats(0, 600)), min_size=1, max_size=20),
    st.lists(st.floats(0, 600), max_size=20),
)
def test_any_answers_make_an_outlook_in_order(answers: list[tuple[int, int, float]], waiting: list[float]) -> None:
    """Zero tokens, zero seconds, anything: each range is finite and goes from low to high."""
    outlook = learned([answer(tokens=t, output=o, latency_s=s) for t, o, s in answers], waiting)
    for figures in (outlook.tokens_per_byte, outlook.output_tokens, outlook.latency_s, outlook.sends_per_row):
        assert 0 <= figures.low <= figures.likely <= figures.high < math.inf
    for side in SIDES:
        assert outlook.scenario(side).output_at(0.5, 10) <= 10


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_were_given_up_count_by_how_long_they_had_waited(seed: int) -> None:
    """Of times drawn by one law and cut off at their median, the law is found again; the mean of what ended is far too short."""
    chance = Random(seed)
    times = [math.exp(1.5 + 0.6 * chance.gauss(0, 1)) for _ in range(400)]
    cut = math.exp(1.5)
    ended = [time for time in times if time <= cut]
    middle, sigma = censored_log_normal(ended, [cut] * (len(times) - len(ended)))
    assert middle == pytest.approx(1.5, abs=0.15)
    assert sigma == pytest.approx(0.6, abs=0.15)
    assert sum(ended) / len(ended) < 0.6 * math.exp(1.5 + 0.18)


def test_what_is_made_up_for_rows_given_up_is_told_as_less_sure() -> None:
    answers = drawn(60, seed=0)
    seen, cut_off = learned(answers), learned(answers, [9.0] * 40)
    assert cut_off.latency_s.likely > seen.latency_s.likely
    assert cut_off.output_tokens.likely > seen.output_tokens.likely
    assert cut_off.output_tokens.high / cut_off.output_tokens.low > seen.output_tokens.high / seen.output_tokens.low
    assert cut_off.given_up == 40


# -- a part for the whole


def test_the_steady_interval_does_not_see_the_start() -> None:
    """A burst at the beginning changes nothing; nor does it matter that rows go in waves."""
    assert steady_interval([0.0] * 100 + [k * 0.5 for k in range(300)]) == pytest.approx(0.5)
    assert steady_interval([k // 20 * 10.0 for k in range(400)]) == pytest.approx(0.5, rel=0.05)
    assert steady_interval([]) == steady_interval([3.0]) == 0.0


def test_the_whole_takes_the_rest_at_the_steady_rate() -> None:
    assert whole_time(100.0, sampled=50, rows=250, interval=2.0) == 500.0
    assert whole_time(100.0, sampled=50, rows=50, interval=2.0) == 100.0


@pytest.mark.parametrize(
    ("units", "per_day", "share", "days"),
    [(10, None, 1.0, 0), (900, 1_000, 1.0, 0), (3_000, 1_000, 1.0, 2), (3_000, 1_000, 0.5, 5)],
)
def test_a_days_limit_counts_from_the_second_day_on(
    units: float, per_day: float | None, share: float, days: float
) -> None:
    assert days_for(units, per_day, share) == pytest.approx(days * DAY)


@pytest.mark.parametrize(
    ("rows", "in_flight", "a_minute", "largest", "scale"),
    [
        (1_000, 100, math.inf, 0.0, 1.0),  # everything fits
        (10_000, 1_000, math.inf, 0.0, 0.15),  # all rows fit at that scale
        (1_000_000, 1_000, math.inf, 0.0, 0.02),  # no fewer than 20 in flight
        (1_000_000, 1_000, 1_000, 0.0, 0.15),  # ten waves
        (1_000_000, 1_000, 10_000, 0.0, 0.04),  # beyond a minute's burst
        (1_000_000, 100, 10_000, 0.0, 0.2),  # no fewer than 20 in flight
        (1_000_000, 1_000, 10_000, 0.1, 0.4),  # the largest row stays a quarter of the limit
    ],
)
def test_a_run_is_scaled_as_far_as_its_flow_stays_the_same(
    rows: int, in_flight: float, a_minute: float, largest: float, scale: float
) -> None:
    told = scale_of(rows, most=1_500, in_flight=in_flight, a_minute=a_minute, largest=largest)
    assert told == pytest.approx(scale)


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_variation_is_free_of_the_unit(values: list[float]) -> None:
    assert variation([10 * value for value in values]) == pytest.approx(variation(values), abs=1e-6)
