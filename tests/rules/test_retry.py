"""What an answer means, as a table; and when an origin counts as down."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import KINDS, Kind, RequestError, request_error
from penstock.rules.retry import (
    ADVICE,
    PATIENCE,
    STREAK_THAT_OPENS,
    TREATMENT,
    Breaker,
    Policy,
    Tries,
    Verdict,
    backoff,
    stopped,
)

RUN = Policy(max_retries=2)
CALL = Policy(max_retries=2, patient=False)


def judge(policy: Policy, kind: Kind, tries: Tries, breaker: Breaker, now: float = 0.0, **fields: object) -> Verdict:
    error = request_error(kind, "x", **fields)  # type: ignore[arg-type]
    return policy.judge(error, tries, breaker, now, 0.5, own_model=True)


def alive() -> Breaker:
    breaker = Breaker()
    breaker.answer()
    return breaker


def down(now: float = 0.0) -> Breaker:
    breaker = alive()
    for _ in range(STREAK_THAT_OPENS):
        breaker.failure(now, 0.5, connected=True)
    assert breaker.open
    return breaker


def test_every_kind_has_an_error_class_and_a_treatment() -> None:
    assert set(KINDS) == set(TREATMENT) == set(get_args(Kind))


@pytest.mark.parametrize(
    ("kind", "in_a_run", "in_a_call"),
    [
        ("rate_limited", "again", "again"),
        ("overloaded", "again", "again"),
        ("server_error", "again", "again"),
        ("connect", "again", "again"),
        ("timeout", "again", "again"),
        ("disconnected", "again", "again"),
        ("truncated", "again", "again"),
        ("malformed", "again", "again"),
        ("auth", "stop", "fail"),
        ("billing", "stop", "fail"),
        ("not_found", "stop", "fail"),
        ("invalid_request", "fail", "fail"),
        ("context_too_long", "fail", "fail"),
        ("content_blocked", "fail", "fail"),
        ("too_large", "fail", "fail"),
        ("never_fits", "fail", "fail"),
        ("input", "fail", "fail"),
        ("deadline", "fail", "fail"),
    ],
)
def test_the_first_failure_of_each_kind(kind: Kind, in_a_run: str, in_a_call: str) -> None:
    assert judge(RUN, kind, Tries(), alive()).action == in_a_run
    assert judge(CALL, kind, Tries(), alive()).action == in_a_call


def test_a_missing_model_dooms_the_run_only_where_it_is_its_own() -> None:
    error = request_error("not_found", "no such model")
    assert RUN.judge(error, Tries(), alive(), 0.0, 0.5, own_model=True) == Verdict("stop", reason="not_found")
    assert RUN.judge(error, Tries(), alive(), 0.0, 0.5, own_model=False).action == "fail"


@pytest.mark.parametrize("kind", ["timeout", "disconnected", "truncated", "malformed", "server_error", "overloaded"])
def test_what_costs_a_retry_fails_after_max_retries(kind: Kind) -> None:
    tries, breaker = Tries(), alive()
    assert [judge(RUN, kind, tries, breaker).action for _ in range(3)] == ["again", "again", "fail"]


@pytest.mark.parametrize("kind", ["rate_limited", "connect"])
def test_throttles_and_refused_connections_cost_a_run_no_retry(kind: Kind) -> None:
    tries, breaker = Tries(), alive()
    assert {judge(RUN, kind, tries, breaker).action for _ in range(50)} == {"again"}


def test_no_row_fails_for_an_outage_of_ten_minutes() -> None:
    tries, breaker = Tries(), down()
    for now in range(0, int(PATIENCE), 10):
        assert judge(RUN, "server_error", tries, breaker, float(now)).action == "again"
    assert tries.retries == 0


def test_a_row_that_is_poison_does_not_hold_the_end_of_a_run_for_ever() -> None:
    tries, breaker = Tries(), down()
    judge(RUN, "server_error", tries, breaker, 0.0)
    late = PATIENCE + 1
    assert [judge(RUN, "server_error", tries, breaker, late).action for _ in range(3)] == ["again", "again", "fail"]


def test_a_single_call_does_not_wait_for_an_origin_that_is_down() -> None:
    tries, breaker = Tries(), down()
    assert [judge(CALL, "server_error", tries, breaker).action for _ in range(3)] == ["again", "again", "fail"]


def never_reached(seconds: float) -> tuple[Breaker, float]:
    breaker = Breaker()
    for _ in range(STREAK_THAT_OPENS):
        breaker.failure(0.0, 0.5, connected=False)
    return breaker, seconds


@pytest.mark.parametrize(("seconds", "action"), [(29.0, "again"), (30.0, "stop")])
def test_an_origin_that_never_once_answered_dooms_the_run_after_thirty_seconds(seconds: float, action: str) -> None:
    breaker, now = never_reached(seconds)
    assert judge(RUN, "connect", Tries(), breaker, now).action == action


def test_an_origin_that_answered_once_is_waited_for() -> None:
    breaker = down()
    assert judge(RUN, "connect", Tries(), breaker, 10_000.0).action == "again"


def test_an_origin_that_gave_only_server_errors_from_the_start_dooms_the_run_after_ten_minutes() -> None:
    breaker = Breaker()
    for _ in range(STREAK_THAT_OPENS):
        breaker.failure(0.0, 0.5, connected=True)
    assert judge(RUN, "server_error", Tries(), breaker, 599.0).action == "again"
    assert judge(RUN, "server_error", Tries(), breaker, 600.0) == Verdict("stop", reason="unavailable")


def test_a_certificate_that_does_not_verify_dooms_the_run_at_once() -> None:
    assert judge(RUN, "connect", Tries(), Breaker(), code="tls") == Verdict("stop", reason="unreachable")


def test_a_5xx_that_names_its_wait_is_obeyed() -> None:
    assert judge(RUN, "overloaded", Tries(), alive(), 100.0, retry_after=20.0).at == 120.0
    assert judge(RUN, "overloaded", Tries(), alive(), 100.0, retry_after=1e9).at == 700.0


@given(
    failures=st.integers(0, 10_000), random=st.floats(0, 1, exclude_max=True), first=st.sampled_from([0.05, 0.5, 1.0])
)
def test_backoff_is_full_jitter_under_a_cap(failures: int, random: float, first: float) -> None:
    assert 0 <= backoff(first, failures, random) <= min(60.0, first * 2.0 ** min(failures, 20))


def test_while_open_one_probe_at_a_time_goes_out_by_growing_gaps() -> None:
    breaker, now, gaps = down(0.0), 0.0, []
    for _ in range(8):
        at = breaker.ready_at()
        gaps.append(at - now)
        now = at
        breaker.admit()
        assert breaker.ready_at() == float("inf")
        breaker.failure(now, 0.5, connected=True)
    assert gaps == sorted(gaps)
    assert gaps[0] < 1.1
    assert gaps[-1] > 50


def test_failures_of_requests_that_went_out_together_do_not_stretch_the_gap() -> None:
    few, many = down(0.0), down(0.0)
    for _ in range(100):
        many.failure(0.0, 0.5, connected=True)
    assert many.ready_at() == few.ready_at()


def test_an_answer_closes_the_breaker_and_a_lost_probe_lets_another_go() -> None:
    breaker = down(0.0)
    breaker.admit()
    breaker.lost(7.0)
    assert breaker.ready_at() == 8.0
    breaker.answer()
    assert not breaker.open
    assert breaker.ready_at() == 0.0


def test_probes_of_an_address_that_never_answered_are_close_enough_to_tell_within_forty_seconds() -> None:
    breaker, now = Breaker(), 0.0
    while not (breaker.open and breaker.failing_for(now) >= 30):
        breaker.admit()
        breaker.failure(now, 0.999, connected=False)
        now = max(now, breaker.ready_at())
    assert now < 35


@pytest.mark.parametrize("reason", sorted(ADVICE))
def test_what_stops_a_run_says_what_to_do_and_what_was_said(reason: str) -> None:
    error: RequestError = request_error("auth", "no such key", status=401)
    text = str(stopped(reason, error))
    assert "run the same command again" in text
    assert "401: no such key" in text
