"""All budgets together: all or nothing, the binding one told, one pause for everybody."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.options import Limits
from penstock.records import Told
from penstock.rules.charges import BUDGETS, CHARGE_RULES, NOTHING, Charge
from penstock.rules.governor import Governor, Wait

SMALL = Charge(1, 20, 10, 10)
RPM, TPM = 120.0, 12_000.0
BOTH = Limits(requests_per_minute=RPM, tokens_per_minute=TPM, input_tokens_per_minute=0.8 * TPM)

charges = st.builds(
    lambda inputs, outputs: Charge(1, inputs + outputs, inputs, outputs), st.floats(1, TPM / 2), st.floats(0, TPM / 2)
)
arrivals = st.lists(st.tuples(st.floats(0, 5), charges), min_size=1, max_size=60)


def enter(governor: Governor, now: float, charge: Charge) -> float:
    """Send one as early as the governor allows; return when. Each told time is later than the one before."""
    for _ in range(100):
        wait = governor.admit(now, charge)
        if wait is None:
            return now
        assert wait.until > now
        now = wait.until
    raise AssertionError(f"still waiting at {now} s")


def fullest_minute(sent: list[float], units: list[float]) -> float:
    """The most units that any minute holds; `sent` is in order."""
    return max(sum(units[index : bisect_left(sent, at + 60.0)]) for index, at in enumerate(sent))


def admitted(governor: Governor, start: float, seconds: float, charge: Charge = SMALL) -> int:
    """How many of one charge go within a time."""
    now, count = start, 0
    while (now := enter(governor, now, charge)) < start + seconds:
        count += 1
    return count


def test_without_limits_everything_may_go() -> None:
    governor = Governor(Limits())
    assert all(governor.admit(0.0, SMALL) is None for _ in range(1_000))
    assert not governor.counts_tokens


def test_a_request_that_waits_for_tokens_has_not_spent_a_request() -> None:
    governor = Governor(Limits(requests_per_minute=6_000, tokens_per_minute=600))
    large = Charge(1, 300, 300, 0)
    assert governor.admit(0.0, large) is None
    before = governor.statistics(0.0)
    wait = governor.admit(0.0, large)
    assert isinstance(wait, Wait)
    assert wait.budget == "tokens_per_minute"
    assert governor.statistics(0.0) == before


def test_waiting_until_the_told_time_is_enough() -> None:
    governor = Governor(Limits(requests_per_minute=60, tokens_per_minute=1_000))
    now = 0.0
    for _ in range(20):
        wait = governor.admit(now, SMALL)
        if wait is not None:
            now = wait.until
            assert governor.admit(now, SMALL) is None


@settings(deadline=None)
@given(gaps=st.lists(st.floats(0, 3), min_size=1, max_size=300), rpm=st.floats(10, 600))
def test_no_minute_holds_more_requests_than_the_limit(gaps: list[float], rpm: float) -> None:
    governor, now, sent = Governor(Limits(requests_per_minute=rpm)), 0.0, []
    for gap in gaps:
        now = enter(governor, now + gap, Charge())
        sent.append(now)
    assert fullest_minute(sent, [1.0] * len(sent)) <= rpm


@settings(deadline=None)
@given(arrivals=arrivals)
def test_no_minute_holds_more_of_any_unit_than_its_limit(arrivals: list[tuple[float, Charge]]) -> None:
    governor, now, sent = Governor(BOTH), 0.0, []
    for gap, charge in arrivals:
        now = enter(governor, now + gap, charge)
        sent.append(now)
    went = [charge for _, charge in arrivals]
    assert fullest_minute(sent, [charge.requests for charge in went]) <= RPM
    assert fullest_minute(sent, [charge.tokens for charge in went]) <= TPM * (1 + 1e-9)
    assert fullest_minute(sent, [charge.input_tokens for charge in went]) <= 0.8 * TPM * (1 + 1e-9)


@settings(deadline=None)
@given(arrivals=arrivals)
def test_everybody_is_served_within_the_time_that_the_limits_need(arrivals: list[tuple[float, Charge]]) -> None:
    """No wait is longer than until everything before is worked off, and a window's worth where pace and window meet."""
    governor, now = Governor(BOTH), 0.0
    worked_off = 0.0
    for gap, charge in arrivals:
        arrived = now + gap
        now = enter(governor, arrived, charge)
        assert now <= max(arrived, worked_off) + 61.0
        longest = max(charge.requests / RPM, charge.tokens / TPM, charge.input_tokens / (0.8 * TPM))
        worked_off = max(worked_off, now) + 60.0 * longest


@settings(max_examples=50, deadline=None)
@given(arrivals=arrivals)
def test_who_asks_often_goes_when_who_asks_once_does(arrivals: list[tuple[float, Charge]]) -> None:
    """All or nothing: asking spends nothing from any budget while the answer is to wait."""
    patient, often, patient_now, often_now = Governor(BOTH), Governor(BOTH), 0.0, 0.0
    for gap, charge in arrivals:
        patient_now = enter(patient, patient_now + gap, charge)
        often_now += gap
        while (wait := often.admit(often_now, charge)) is not None:
            for part in (0.1, 0.5, 0.9):
                assert often.admit(often_now + part * (wait.until - often_now), charge) is not None
            often_now = wait.until
        assert often_now == patient_now


@pytest.mark.parametrize(
    ("limits", "charge", "budget"),
    [
        (Limits(tokens_per_minute=100), Charge(1, 101, 60, 41), "tokens_per_minute"),
        (Limits(input_tokens_per_minute=100), Charge(1, 101, 101, 0), "input_tokens_per_minute"),
        (Limits(output_tokens_per_minute=100), Charge(1, 101, 0, 101), "output_tokens_per_minute"),
        (Limits(requests_per_minute=0.5), Charge(), None),
        (Limits(tokens_per_minute=100), Charge(1, 100, 60, 40), None),
    ],
)
def test_a_request_above_a_whole_limit_is_told_at_once(limits: Limits, charge: Charge, budget: str | None) -> None:
    assert Governor(limits).never_fits(charge) == budget


def test_usage_settles_what_was_reserved_and_nothing_is_owed_for_what_was_not_sent() -> None:
    governor = Governor(Limits(tokens_per_minute=6_000))
    charge = Charge(1, 6_000, 3_000, 3_000)
    assert governor.admit(0.0, charge) is None
    assert governor.admit(0.0, charge) is not None
    governor.settle(0.0, 0.0, charge, NOTHING)
    assert governor.admit(0.0, charge) is None


def test_a_named_wait_pauses_everybody() -> None:
    governor = Governor(Limits())
    assert governor.throttle(10.0, 5.0) == 15.0
    assert governor.throttle(11.0, 2.0) == 15.0  # a shorter wait of another answer does not shorten the pause
    assert governor.admit(14.9, SMALL) == Wait(15.0, "the end of a throttle")
    assert governor.admit(15.0, SMALL) is None


def test_without_a_named_wait_the_pause_doubles_by_episode_and_starts_again_after_an_answer() -> None:
    governor, now, pauses = Governor(Limits()), 0.0, []
    for _ in range(8):
        until = governor.throttle(now, None)
        assert governor.throttle(now + 0.1, None) == until  # under way when the pause began: the same episode
        pauses.append(until - now)
        now = until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    governor.answered(now)
    assert governor.throttle(now, None) - now == 1


@pytest.mark.parametrize("wait", [86_401.0, 1e9, float("inf")])
def test_an_absurd_wait_counts_as_none(wait: float) -> None:
    assert Governor(Limits()).throttle(0.0, wait) == 1.0


def limits_told(governor: Governor) -> dict[str, float]:
    """The limits that the governor's statistics name."""
    return {name: units for name, units in governor.statistics(0.0).items() if name in BUDGETS}


# -- settling


@settings(deadline=None)
@given(arrivals=arrivals, used=st.lists(st.floats(0, 1), min_size=60, max_size=60), later=st.integers(0, 5))
def test_what_was_really_used_never_exceeds_the_limit_however_much_comes_back(
    arrivals: list[tuple[float, Charge]], used: list[float], later: int
) -> None:
    """Each request uses a share of what it reserved, and is settled some requests later."""
    governor, now, sent, really = Governor(BOTH), 0.0, [], []
    for turn, ((gap, charge), share) in enumerate(zip(arrivals, used, strict=False)):
        now = enter(governor, now + gap, charge)
        sent.append(now)
        really.append(share_of(charge, share))
        if (due := turn - later) >= 0:
            governor.settle(now, sent[due], arrivals[due][1], really[due])
    assert fullest_minute(sent, [charge.tokens for charge in really]) <= TPM * (1 + 1e-9)
    assert fullest_minute(sent, [charge.requests for charge in really]) <= RPM


def share_of(charge: Charge, share: float) -> Charge:
    return Charge(1, charge.tokens * share, charge.input_tokens * share, charge.output_tokens * share)


def test_what_comes_back_is_used() -> None:
    """Three times what is used is reserved: the flow is that of what is used, but for 3 % and the room of one reservation."""
    governor, now, went = Governor(Limits(tokens_per_minute=TPM)), 0.0, 0
    reserved, actual = Charge(1, 300, 150, 150), Charge(1, 100, 50, 50)
    while now < 600.0:
        now = enter(governor, now, reserved)
        governor.settle(now, now, reserved, actual)
        went += 1
    assert 0.94 * TPM * 10 <= went * 100 <= 1.01 * TPM * 10


def test_where_charges_are_known_roughly_three_percent_are_kept_back_and_nothing_where_exactly() -> None:
    flows = []
    for error in (0.0, 0.5):
        governor, reserved = Governor(Limits(tokens_per_minute=TPM)), Charge(1, 10, 10, 0)
        for turn in range(200):
            now = enter(governor, float(turn), reserved)
            actual = 10 * (1 + error * (-1) ** turn)
            governor.settle(now, now, reserved, Charge(1, actual, actual, 0))
        flows.append(admitted(governor, 300.0, 600.0, Charge(1, 10, 10, 0)) * 10 / (TPM * 10))
    assert flows[0] == pytest.approx(1.0, abs=0.01)
    assert flows[1] == pytest.approx(0.97, abs=0.01)


# -- which budget binds, and how much of it


@pytest.mark.parametrize(
    ("limits", "charge", "binding"),
    [
        (Limits(requests_per_minute=60, tokens_per_minute=1e6), SMALL, "requests_per_minute"),
        (Limits(requests_per_minute=6_000, tokens_per_minute=600), SMALL, "tokens_per_minute"),
        (Limits(input_tokens_per_minute=6e5, output_tokens_per_minute=600), SMALL, "output_tokens_per_minute"),
        (Limits(input_tokens_per_minute=600, output_tokens_per_minute=6e5), SMALL, "input_tokens_per_minute"),
        (Limits(requests_per_minute=6_000, requests_per_day=10), SMALL, "requests_per_day"),
        (Limits(tokens_per_minute=1e6, tokens_per_day=200), SMALL, "tokens_per_day"),
    ],
)
def test_the_budget_that_binds_is_told_with_the_wait(limits: Limits, charge: Charge, binding: str) -> None:
    governor = Governor(limits)
    waits = [governor.admit(0.0, charge) for _ in range(200)]
    assert {wait.budget for wait in waits if wait is not None} == {binding}


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_a_share_is_of_every_limit_set_or_told(share: float) -> None:
    known = Governor(Limits(requests_per_minute=RPM, share=share))
    learned = Governor(Limits(share=share))
    learned.hear(0.0, 0.0, {"requests_per_minute": Told(RPM, RPM / 2, 30.0)})
    for governor in (known, learned):
        assert admitted(governor, 0.0, 600.0) == pytest.approx(10 * RPM * share, rel=0.02)


def test_a_days_limit_in_the_header_of_a_minutes_is_kept_as_a_days() -> None:
    governor = Governor(Limits())
    governor.hear(0.0, 0.0, {"requests_per_minute": Told(1_000, 995, 432.0)})
    assert limits_told(governor) == {"requests_per_day": 1_000}
    assert not governor.knows_rate
    assert all(governor.admit(1.0, SMALL) is None for _ in range(995))
    wait = governor.admit(1.0, SMALL)
    assert wait is not None
    assert wait.budget == "requests_per_day"


def test_limits_that_are_told_are_kept_from_then_on() -> None:
    governor = Governor(Limits())
    assert not governor.counts_tokens
    governor.hear(
        0.0, 0.0, {"requests_per_minute": Told(RPM, RPM / 2, 30.0), "tokens_per_minute": Told(TPM, TPM / 2, 30.0)}
    )
    assert governor.counts_tokens
    assert governor.knows_rate
    assert limits_told(governor) == {"requests_per_minute": RPM, "tokens_per_minute": TPM}
    assert admitted(governor, 0.0, 60.0, Charge(1, 400, 200, 200)) == pytest.approx(TPM / 400, abs=1)


def test_headers_without_a_limit_change_nothing() -> None:
    governor = Governor(Limits())
    governor.hear(0.0, 0.0, {"requests_per_minute": Told(None, 0.0, 60.0), "tokens_per_minute": Told()})
    assert limits_told(governor) == {}
    assert all(governor.admit(0.0, SMALL) is None for _ in range(1_000))


def test_headers_are_read_twenty_times_a_second_at_most() -> None:
    governor = Governor(Limits())
    assert governor.listens(0.0)
    governor.hear(1.0, 0.5, {})
    assert [governor.listens(now) for now in (1.0, 1.04, 1.06)] == [False, False, True]


# -- from cold, and after a throttle


def test_where_nothing_is_known_the_first_word_of_the_provider_is_waited_for_in_small_steps() -> None:
    governor = Governor(Limits(), feels_its_way=True)
    assert sum(governor.admit(0.0, SMALL) is None for _ in range(100)) == 5
    wait = governor.admit(0.0, SMALL)
    assert wait is not None
    assert wait.until == pytest.approx(0.1)
    assert admitted(governor, 0.0, 10.0) == pytest.approx(100, abs=1)
    governor.answered(10.0)
    assert all(governor.admit(10.0, SMALL) is None for _ in range(1_000))


def test_a_provider_that_refuses_a_sharp_rise_sees_an_eighth_first_and_twice_as_much_each_minute() -> None:
    limits, rule = Limits(requests_per_minute=600), CHARGE_RULES["anthropic"]
    governor = Governor(limits, rule)
    flows = [admitted(governor, 60.0 * minute, 60.0) / 600 for minute in range(6)]
    for minute, flow in enumerate(flows):
        assert min(1.0, 2**minute / 8) * 0.95 <= flow <= min(1.0, 2 ** (minute + 1) / 8) * 1.02, flows
    assert admitted(governor, 361.0, 5.0) >= 0.95 * 50
    # After more than a minute of silence it is cold again.
    assert admitted(governor, 430.0, 5.0) <= 0.2 * 50


def test_after_a_throttle_waiters_leave_by_pace() -> None:
    governor = Governor(Limits(requests_per_minute=600))
    governor.throttle(0.0, 5.0)
    assert admitted(governor, 5.0, 1.0) <= 10
    assert admitted(governor, 6.0, 60.0) >= 0.95 * 600


def test_the_rest_of_a_pause_can_be_told() -> None:
    governor = Governor(Limits())
    governor.throttle(10.0, 5.0)
    assert governor.statistics(12.0)["throttled_s"] == 3.0
    assert governor.statistics(20.0)["throttled_s"] == 0.0
