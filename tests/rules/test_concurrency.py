"""How many at once in front of engines of unknown slots: near their best rate with a bounded queue, for answers of any length."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.rules.concurrency import Concurrency
from tests.kit.engine_model import Engine, Trial

MOST = 1_000
SEEDS = range(3)
SLOTS = [1, 4, 8, 64, 256]
LATENCIES_S = [0.1, 20.0]

RAMP_ANSWERS = 600
RAMP_ROUND_TRIPS = 12
"""The ramp, and the way down where the start was far above the slots, is over after either, whichever is later."""


def trial(engine: Engine, seed: int, until: float, *changes: tuple[float, str, float]) -> Trial:
    """A run over `until` seconds; each change is a time, the name of an engine's field and its new value."""
    acts = tuple((at, lambda e, name=name, value=value: setattr(e, name, value)) for at, name, value in changes)
    return Trial(Concurrency(MOST), engine, seed, acts).run(until)


def ramp_s(engine: Engine) -> float:
    return max(RAMP_ROUND_TRIPS, RAMP_ANSWERS / engine.slots) * engine.latency_s


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("latency_s", LATENCIES_S)
@pytest.mark.parametrize("slots", SLOTS)
def test_an_engine_runs_at_nine_tenths_of_its_best_rate_with_at_most_three_requests_a_slot(
    slots: int, latency_s: float, seed: int
) -> None:
    engine = Engine(slots=slots, latency_s=latency_s)
    ramp = ramp_s(engine)
    run = trial(engine, seed, 2.5 * ramp)
    assert run.share() >= 0.9, f"seed {seed}"
    assert run.peak(since=ramp) <= 3 * slots, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("growth", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("slots", [4, 64])
def test_tokens_that_come_slower_in_a_fuller_batch_are_no_queue(slots: int, growth: float, seed: int) -> None:
    engine = Engine(slots=slots, growth=growth)
    ramp = ramp_s(engine)
    run = trial(engine, seed, 2.5 * ramp)
    assert run.share() >= 0.9, f"seed {seed}"
    assert run.peak(since=ramp) <= 3 * slots, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slots", [1, 4, 8, 64])
def test_a_run_of_ten_round_trips_reaches_nine_tenths_with_its_ramp(slots: int, seed: int) -> None:
    assert trial(Engine(slots=slots), seed, 10.0).share() >= 0.9, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("streams", [False, True])
def test_without_usage_answers_a_second_stand_for_tokens(streams: bool, seed: int) -> None:
    run = trial(Engine(slots=64, usage=False, streams=streams), seed, 60.0)
    assert run.share() >= 0.85, f"seed {seed}"
    assert run.peak(since=20.0) <= 4 * 64, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_wait_for_first_tokens_ends_the_ramp_sooner(seed: int) -> None:
    told = trial(Engine(slots=64, streams=True), seed, 12.0)
    silent = trial(Engine(slots=64), seed, 12.0)
    assert told.peak() <= 1.1 * silent.peak()
    assert told.share() >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tokens", [50.0, 800.0])
@pytest.mark.parametrize("slots", [8, 64])
def test_answers_of_another_length_do_not_make_the_allowance_collapse(slots: int, tokens: float, seed: int) -> None:
    run = trial(Engine(slots=slots), seed, 90.0, (40.0, "answer_tokens", tokens))
    assert run.share() >= 0.9, f"seed {seed}"
    assert run.share(since=40.0) >= 0.8, f"seed {seed}"  # twelve of the longer answers in a row, a probe among them
    assert min(level for at, level in run.levels if at > 40.0) >= slots / 2, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slots", [8, 64])
def test_an_engine_of_twice_the_slots_is_filled_within_a_minute(slots: int, seed: int) -> None:
    run = trial(Engine(slots=slots), seed, 130.0, (40.0, "slots", 2 * slots))
    assert run.share(since=100.0) >= 0.9, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slots", [8, 64])
def test_an_engine_that_lost_half_its_slots_has_its_queue_cut_within_a_minute(slots: int, seed: int) -> None:
    run = trial(Engine(slots=slots), seed, 130.0, (40.0, "slots", slots // 2))
    assert run.peak(since=100.0) <= 3 * slots // 2, f"seed {seed}"
    assert run.share(since=40.0) >= 0.9, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("queue", [0, 16])
def test_a_server_that_sheds_is_filled_to_just_below_where_it_sheds(queue: int, seed: int) -> None:
    run = trial(Engine(slots=64, shed_above=queue), seed, 120.0)
    assert run.share() >= 0.85, f"seed {seed}"
    assert run.sheds <= 0.02 * run.answers, f"seed {seed}"


def saturate(rule: Concurrency, answers: int, took_s: float = 1.0, now: float = 0.0) -> None:
    for _ in range(answers):
        rule.answered(now, rule.allowed, took_s, 100)


def test_the_ramp_doubles_each_round_trip_while_tokens_come_as_fast() -> None:
    rule = Concurrency(MOST)
    for doubled in (40, 80, 160):
        saturate(rule, rule.allowed)
        assert rule.allowed == doubled


def test_unused_headroom_teaches_nothing() -> None:
    rule = Concurrency(MOST)
    for _ in range(1_000):
        rule.answered(0.0, 15, 1.0, 100)
    assert rule.allowed == 20


def test_a_storm_of_refusals_is_one_cut_and_the_next_episode_another() -> None:
    rule = Concurrency(MOST, start=100)
    for _ in range(50):
        rule.shed(10.0)
    assert rule.allowed == 70
    rule.shed(24.9)
    assert rule.allowed == 70
    rule.shed(25.0)
    assert rule.allowed == 49


def test_an_episode_is_no_longer_than_a_round_trip() -> None:
    rule = Concurrency(MOST, start=100)
    rule.answered(0.0, 10, 2.0, 100)
    rule.shed(10.0)
    rule.shed(11.9)
    assert rule.allowed == 70
    rule.shed(12.0)
    assert rule.allowed == 49


def test_it_grows_again_after_a_cut() -> None:
    rule = Concurrency(MOST, start=100)
    rule.shed(0.0)
    saturate(rule, 1_000, now=20.0)
    assert rule.allowed > 90


@pytest.mark.parametrize(("most", "start", "allowed"), [(1, 20, 1), (0, 20, 1), (7, 20, 7), (50, 20, 20), (50, 0, 1)])
def test_the_start_stays_within_what_is_allowed_at_most(most: int, start: int, allowed: int) -> None:
    assert Concurrency(most, start=start).allowed == allowed


def test_statistics_tell_the_allowance_its_bound_and_the_cuts() -> None:
    rule = Concurrency(MOST, start=100)
    rule.shed(0.0)
    assert rule.statistics() == {"allowed": 70, "at_most": 95.0, "token_s": 0.0, "round_trip_s": 0.0, "cuts": 1}


ANY_TIME = st.floats(allow_nan=True, allow_infinity=True)
ANSWER = st.tuples(
    ANY_TIME,
    st.one_of(st.integers(-5, 1_500), st.integers(-(10**15), 10**15)),
    st.one_of(st.floats(1e-7, 100), ANY_TIME),
    st.one_of(st.none(), st.integers(1, 5_000), st.integers(-(10**15), 10**15)),
    st.one_of(st.none(), st.floats(0, 100), ANY_TIME),
)


@settings(max_examples=60)
@given(
    most=st.integers(-1, 1_500),
    start=st.integers(-5, 2_000),
    steps=st.lists(st.tuples(ANSWER, st.integers(1, 300), st.booleans()), max_size=40),
)
def test_whatever_it_is_told_the_allowance_stays_between_one_and_the_most(
    most: int, start: int, steps: list[tuple[tuple[float, int, float, int | None, float | None], int, bool]]
) -> None:
    rule = Concurrency(most, start=start)
    for answer, repeats, refused in steps:
        for _ in range(repeats):
            rule.answered(*answer)
            assert 1 <= rule.allowed <= max(1, most)
        if refused:
            rule.shed(answer[0])
        assert 1 <= rule.allowed <= max(1, most)


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.floats(1e-6, 86_400), st.one_of(st.none(), st.integers(1, 10**9)), st.floats(0.1, 1.5)),
        min_size=1,
        max_size=60,
    )
)
def test_a_saturated_run_of_any_times_stays_within_its_bounds(steps: list[tuple[float, int | None, float]]) -> None:
    rule, now = Concurrency(MOST), 0.0
    for took_s, tokens, use in steps:
        for _ in range(100):
            now += took_s
            rule.answered(now, max(1, math.ceil(use * rule.allowed)), took_s, tokens)
            assert 1 <= rule.allowed <= MOST
