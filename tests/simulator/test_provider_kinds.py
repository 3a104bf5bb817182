"""A provider can be of many kinds: how it charges, keeps, tells and changes its limits, and how many it serves at once."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

import pytest

from penstock.simulator.behaviour import Phase, Plan, Settings, Simulator
from penstock.simulator.chance import Scatter


def ask(prompt: str, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **more}).encode()


def told(plan: Plan, name: str) -> bytes | None:
    return dict(plan.headers).get(b"x-ratelimit-" + name.encode())


# -- limits


def test_input_and_output_tokens_are_limited_apart() -> None:
    """Whichever is used up refuses, and is named."""
    simulator = Simulator(Settings(input_tokens_per_minute=1000, output_tokens_per_minute=100))
    first = simulator.arrive(0, ask("x", max_tokens=80))
    assert (first.status, told(first, "remaining-output-tokens")) == (200, b"20")
    second = simulator.arrive(0, ask("x", max_tokens=80))
    assert second.status == 429
    assert "output tokens per min (OTPM): Limit 100" in json.loads(second.body)["error"]["message"]
    third = simulator.arrive(0, ask("x" * 4000, max_tokens=1))
    assert "input tokens per min (ITPM)" in json.loads(third.body)["error"]["message"]


def test_a_days_requests_are_limited_too() -> None:
    """Until the day is over, whatever the minute allows."""
    simulator = Simulator(Settings(requests_per_day=2, requests_per_minute=100))
    assert [simulator.arrive(60.0 * k, ask("x")).status for k in range(3)] == [200, 200, 429]
    refused = simulator.arrive(3600.0, ask("x"))
    assert "requests per day (RPD): Limit 2" in json.loads(refused.body)["error"]["message"]
    assert dict(refused.headers)[b"retry-after"] == b"82800"
    assert simulator.arrive(86_401.0, ask("x")).status == 200


@pytest.mark.parametrize(
    ("chosen", "times"),
    [
        ({"burst_seconds": 1.0}, [0.0, 1.0, 2.0]),
        ({"window": "fixed"}, [0.0, 0.0, 60.0]),
        ({"window": "fixed", "window_offset": -50.0}, [0.0, 0.0, 10.0]),
        ({"window": "sliding"}, [0.0, 30.0, 60.0]),
    ],
)
def test_each_kind_of_window_admits_at_its_times(chosen: dict[str, Any], times: list[float]) -> None:
    """Two requests a minute (sixty for the bucket): at these times and not a little earlier."""
    simulator = Simulator(Settings(requests_per_minute=60 if "burst_seconds" in chosen else 2, **chosen))
    statuses = []
    for at in times:
        if at == times[-1]:
            statuses.append(simulator.arrive(at - 0.01, ask("x")).status)
        statuses.append(simulator.arrive(at, ask("x")).status)
    assert statuses == [200, 200, 429, 200]


# -- charges


@pytest.mark.parametrize(
    ("charge", "reserved"),
    [("reserved", lambda body: len(body) // 4 + 900), ("unset", lambda body: len(body) // 4 + 30), ("actual", None)],
)
def test_the_charge_rule_decides_what_admission_takes(charge: Any, reserved: Any) -> None:
    """`max_tokens`, what answers have, or what this answer really uses."""
    body = ask("x " * 200, max_tokens=900)
    plan = Simulator(Settings(charge=charge, output_tokens=30)).arrive(0, body)
    expected = plan.input_tokens + plan.output_tokens if reserved is None else reserved(body)
    assert plan.reserved_tokens == pytest.approx(expected, abs=1)
    assert (plan.input_tokens, plan.output_tokens) == (100, 30)


@pytest.mark.parametrize("settled", [True, False])
def test_a_charge_is_put_right_where_it_is_settled(settled: bool) -> None:
    """What was reserved and not used comes back, or does not."""
    simulator = Simulator(Settings(tokens_per_minute=1000, charge="reserved", settled=settled, output_tokens=30))
    body = ask("x" * 20, max_tokens=105)
    first = simulator.arrive(0, body)
    simulator.leave(0, first, whole=True)
    used = first.input_tokens + first.output_tokens if settled else first.reserved_tokens
    second = simulator.arrive(0, body)
    assert told(second, "remaining-tokens") == b"%d" % (1000 - used - second.reserved_tokens)


def test_tokens_scatter_shows_in_usage_and_charge() -> None:
    """A prompt has 30 % more tokens than a quarter of its bytes, by about 20 %; the same one always as many."""
    simulator = Simulator(Settings(charge="actual", tokens_scatter=Scatter(1.3, 0.2)))
    plans = [simulator.arrive(0, ask(f"{k:4d}" * 100)) for k in range(1000)]
    assert fmean(plan.input_tokens / 100 for plan in plans) == pytest.approx(1.3, rel=0.03)
    assert len({plan.input_tokens for plan in plans}) > 50
    assert all(plan.reserved_input == plan.input_tokens for plan in plans)
    assert simulator.arrive(0, ask("   1" * 100)).input_tokens == plans[1].input_tokens


def test_charge_scatter_is_on_the_charge_alone() -> None:
    """What is charged is off, what the answer tells is not; drawn from the seed."""

    def plans(seed: int) -> list[Plan]:
        simulator = Simulator(Settings(charge="actual", charge_scatter=Scatter(0.5, 0.2), seed=seed))
        return [simulator.arrive(0, ask(f"{k:4d}" * 100)) for k in range(500)]

    factors = [plan.reserved_input / plan.input_tokens for plan in plans(1)]
    assert fmean(factors) == pytest.approx(0.5, rel=0.05)
    assert factors == [plan.reserved_input / plan.input_tokens for plan in plans(1)]
    assert factors != [plan.reserved_input / plan.input_tokens for plan in plans(2)]


# -- what the headers tell


@pytest.mark.parametrize(
    ("headers", "limit", "remaining"),
    [
        ("right", b"100", b"99"),
        ("tenfold", b"1000", b"990"),
        ("tenth", b"10", b"9"),
        ("spent", b"100", b"0"),
        ("garbage", b"lots", b"-NaN"),
        ("none", None, None),
    ],
)
def test_headers_tell_what_is_chosen(headers: Any, limit: bytes | None, remaining: bytes | None) -> None:
    """The limit itself stays what it is."""
    simulator = Simulator(Settings(requests_per_minute=100, headers=headers))
    plan = simulator.arrive(0, ask("x"))
    assert (told(plan, "limit-requests"), told(plan, "remaining-requests")) == (limit, remaining)
    assert [simulator.arrive(0, ask("x")).status for _ in range(100)] == [200] * 99 + [429]


def test_without_headers_a_429_names_no_wait_at_all() -> None:
    """Neither in a header nor in its text."""
    simulator = Simulator(Settings(requests_per_minute=1, headers="none"))
    simulator.arrive(0, ask("x"))
    plan = simulator.arrive(0, ask("x"))
    assert (plan.status, plan.outcome, len(plan.headers)) == (429, "throttled", 1)
    assert b"try again" not in plan.body


# -- how many at once


@pytest.mark.parametrize(("status", "outcome"), [(429, "throttled"), (503, "error_503")])
def test_above_the_concurrency_limit_requests_are_refused(status: Any, outcome: str) -> None:
    """Without a wait, and until one has left; a refused one takes no place."""
    simulator = Simulator(Settings(max_in_flight=2, full_status=status, latency=1.0))
    plans = [simulator.arrive(0, ask(f"{k}")) for k in range(4)]
    assert [(plan.status, plan.outcome) for plan in plans[2:]] == [(status, outcome)] * 2
    assert all(b"retry-after" not in dict(plan.headers) for plan in plans)
    for plan in plans[1:]:
        simulator.leave(1.0, plan, whole=True)
    assert simulator.arrive(1.0, ask("x")).status == 200
    assert simulator.stats(1.0).in_flight == 2


def test_an_engine_queues_what_its_slots_do_not_hold() -> None:
    """A queued plan is not due; it begins when a slot is free, in order, also where a client goes away."""
    simulator = Simulator(Settings(slots=1, shed_above=2, latency=1.0))
    plans = [simulator.arrive(0, ask(f"{k}")) for k in range(4)]
    assert [plan.queued for plan in plans] == [False, True, True, False]
    assert (plans[3].status, plans[3].outcome) == (503, "error_503")
    begun: list[int] = []
    for number in (1, 2):
        plans[number].begin = lambda number=number: begun.append(number)
    simulator.leave(0.5, plans[0], whole=False)
    assert (begun, plans[1].queued) == ([1], False)
    simulator.leave(1.5, plans[1], whole=True)
    assert begun == [1, 2]


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_take_longer_the_more_are_answered_at_once(stream: bool) -> None:
    """A tenth for each other one; the time to the first token stays."""
    simulator = Simulator(Settings(latency=1.0, token_latency=0.1, output_tokens=20, batch_slowdown=0.1))
    plans = [simulator.arrive(0, ask("x", stream=stream)) for _ in range(3)]
    seconds = [plan.delay + sum(pause for pause, _ in plan.chunks or ()) for plan in plans]
    assert [(took - 1) / (seconds[0] - 1) for took in seconds] == pytest.approx([1.0, 1.1, 1.2])
    assert seconds[0] >= 3.0


# -- what changes


def test_a_limit_changes_by_schedule_and_comes_back() -> None:
    """Counted from the first arrival; what was admitted before stays used."""
    schedule = (Phase(at=60.0, limit_share=0.5), Phase(at=120.0))
    simulator = Simulator(Settings(requests_per_minute=4, window="fixed", schedule=schedule))
    began = 1000.0
    statuses = [[simulator.arrive(began + at, ask("x")).status for _ in range(5)] for at in (0, 60, 120)]
    assert [row.count(200) for row in statuses] == [4, 2, 4]
    assert told(simulator.arrive(began + 121, ask("x")), "limit-requests") == b"4"


@pytest.mark.parametrize(
    ("outage", "outcome", "fault"),
    [("error_503", "error_503", None), ("refused", "refused", "refused"), ("reset", "reset", "reset")],
)
def test_an_outage_meets_everybody_while_it_lasts(outage: Any, outcome: str, fault: str | None) -> None:
    """Nothing is charged for it, and it ends."""
    schedule = (Phase(at=10.0, outage=outage), Phase(at=610.0))
    simulator = Simulator(Settings(requests_per_minute=1, burst_seconds=1, schedule=schedule))
    assert simulator.arrive(0, ask("x")).status == 200
    struck = [simulator.arrive(at, ask("x")) for at in (10.0, 10.1, 609.9)]
    assert {(plan.outcome, plan.fault) for plan in struck} == {(outcome, fault)}
    assert simulator.arrive(610.0, ask("x")).status == 200
    assert simulator.stats(610.0).failed == {outcome: 3}


def test_the_slots_follow_the_schedule() -> None:
    """An engine that loses half of them keeps who is in, and admits fewer."""
    simulator = Simulator(Settings(slots=4, latency=1.0, schedule=(Phase(at=1.0, limit_share=0.5),)))
    first = [simulator.arrive(0, ask(f"{k}")) for k in range(4)]
    second = [simulator.arrive(1.0, ask(f"again {k}")) for k in range(2)]
    for plan in first[:2]:
        simulator.leave(1.0, plan, whole=True)
    assert [plan.queued for plan in second] == [True, True]
    simulator.leave(1.0, first[2], whole=True)
    assert [plan.queued for plan in second] == [False, True]


def test_others_on_the_same_key_take_their_share_and_it_shows() -> None:
    """Nearly a third of a minute's limit is gone without us, by seed; their tokens go with their requests."""
    limits = {"requests_per_minute": 1000, "tokens_per_minute": 100_000}
    schedule = (Phase(at=0.0, foreign_share=0.3),)

    def left(seed: int) -> tuple[int, int]:
        simulator = Simulator(Settings(window="fixed", schedule=schedule, seed=seed, **limits))
        simulator.arrive(0, ask("x"))
        plan = simulator.arrive(59.9, ask("x"))
        assert simulator.foreign["requests"] == 998 - int(told(plan, "remaining-requests") or 0)
        return int(told(plan, "remaining-requests") or 0), int(told(plan, "remaining-tokens") or 0)

    requests, tokens = left(1)
    assert requests == pytest.approx(700, abs=60)
    assert tokens == pytest.approx(70_000, abs=6_500)
    assert left(1) == (requests, tokens)
    assert left(2) != (requests, tokens)


def test_others_are_refused_where_their_requests_do_not_fit() -> None:
    """They never take more than there is."""
    simulator = Simulator(
        Settings(requests_per_minute=60, burst_seconds=10, schedule=(Phase(at=0.0, foreign_share=5.0),))
    )
    plans = [simulator.arrive(7.0 * k, ask("x")) for k in range(15)]
    ours = sum(plan.status == 200 for plan in plans)
    assert 80 < simulator.foreign["requests"] <= 10 + 98 + 1 - ours
