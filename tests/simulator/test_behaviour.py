"""What the simulated provider does is decided by settings, seed and prompt, and its account balances."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from penstock.errors import UsageError
from penstock.simulator.behaviour import Faults, Plan, Settings, Simulator, Spread, expected_text, prompt_digest


def ask(prompt: str, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **more}).encode()


def one(prompt: str, settings: Settings | None = None, **more: Any) -> Plan:
    return Simulator(settings or Settings()).arrive(0.0, ask(prompt, **more))


def text_of(plan: Plan) -> str:
    return json.loads(plan.body)["choices"][0]["message"]["content"]


def outcomes(simulator: Simulator, prompts: list[str]) -> dict[str, tuple[str, float]]:
    plans = {prompt: simulator.arrive(0.0, ask(prompt)) for prompt in prompts}
    return {prompt: (plan.outcome, plan.delay) for prompt, plan in plans.items()}


@given(st.text(min_size=1))
def test_an_answer_is_the_expected_text_of_its_prompt(prompt: str) -> None:
    """Each row can be checked to have got its own answer."""
    assert text_of(one(prompt)) == expected_text(prompt)


def test_expected_texts_differ_where_prompts_differ_late() -> None:
    """The digest covers the whole prompt, not just the words shown."""
    long = "word " * 1000
    assert expected_text(long + "a") != expected_text(long + "b")
    assert expected_text("Explain rain") == f"echo {prompt_digest('Explain rain')[:8]}: Explain rain"


def test_answers_can_be_made_longer_and_are_cut_by_max_tokens() -> None:
    """`output_tokens` fills up; `max_tokens` cuts and says length."""
    plan = one("hi", Settings(output_tokens=50))
    assert plan.output_tokens == 50
    assert text_of(plan) == expected_text("hi", 50)
    for name in ("max_tokens", "max_completion_tokens"):
        cut = one("hi", Settings(output_tokens=50), **{name: 3})
        assert json.loads(cut.body)["choices"][0]["finish_reason"] == "length"
        assert cut.output_tokens == 3


def test_faults_and_times_do_not_depend_on_the_order_of_arrival() -> None:
    """Shuffled prompts meet the same fate, another seed another one."""
    chosen = Settings(faults=Faults(error_500=0.2, reset=0.2), latency=Spread(1.0, 0.5), seed=3)
    prompts = [f"prompt {i}" for i in range(200)]
    shuffled = random.Random(1).sample(prompts, len(prompts))
    assert outcomes(Simulator(chosen), prompts) == outcomes(Simulator(chosen), shuffled)
    other = Settings(faults=chosen.faults, latency=chosen.latency, seed=4)
    assert outcomes(Simulator(chosen), prompts) != outcomes(Simulator(other), prompts)


def test_a_refused_arrival_does_not_change_later_fates() -> None:
    """Only admitted arrivals count, so that throttles do not disturb a replay."""
    chosen = Settings(faults=Faults(error_500=0.5))
    tight = Settings(faults=Faults(error_500=0.5), requests_per_minute=1)
    free, limited = Simulator(chosen), Simulator(tight)
    fates = [free.arrive(0.0, ask("again")).outcome for _ in range(20)]
    seen = []
    for minute in range(20):
        seen.append(limited.arrive(minute * 60.0, ask("again")).outcome)
        assert limited.arrive(minute * 60.0, ask("again")).status == 429
    assert seen == fates
    assert set(fates) == {"answered", "error_500"}


def test_fault_rates_are_kept() -> None:
    """2,000 prompts at 10 % each: every fault is met between 7 % and 13 % (more than 4 sigmas)."""
    names = Faults.__struct_fields__
    simulator = Simulator(Settings(faults=Faults(**dict.fromkeys(names, 0.1))))
    for i in range(2000):
        simulator.leave(0.0, simulator.arrive(0.0, ask(f"prompt {i}")), whole=True)
    stats = simulator.stats(0.0)
    failed = {**stats.failed, "throttle+throttle_bare": stats.throttled / 2, "answered": stats.answered}
    assert set(failed) == {*names, "throttle+throttle_bare", "answered"} - {"throttle", "throttle_bare"}
    assert all(140 < count < 260 for count in failed.values()), failed


@pytest.mark.parametrize(
    ("marker", "status", "kind", "code"),
    [
        ("400", 400, "invalid_request_error", None),
        ("401", 401, "invalid_request_error", "invalid_api_key"),
        ("404", 404, "invalid_request_error", "model_not_found"),
        ("429", 429, "requests", "rate_limit_exceeded"),
        ("throttle-bare", 429, "requests", "rate_limit_exceeded"),
        ("no-credit", 429, "insufficient_quota", "insufficient_quota"),
        ("500", 500, "server_error", None),
        ("503", 503, "service_unavailable_error", "server_is_overloaded"),
        ("too-long", 400, "invalid_request_error", "context_length_exceeded"),
        ("content-filter", 400, "invalid_request_error", "content_filter"),
        ("error-in-200", 200, "server_error", None),
        ("no-such-marker", 400, "invalid_request_error", None),
    ],
)
def test_a_prompt_chooses_its_error(marker: str, status: int, kind: str, code: str | None) -> None:
    """Each marker gives its status and OpenAI's error shape, whole or streamed."""
    for stream in (False, True):
        plan = one(f"hello [[simulate:{marker}]] there", stream=stream)
        assert plan.status == status
        body = plan.body or plan.chunks[-1][1].removeprefix(b"data: ")
        error = json.loads(body)["error"]
        assert (error["type"], error["code"]) == (kind, code)
        assert {"message", "param"} <= set(error)


def test_a_content_filter_refusal_has_the_shape_of_azure() -> None:
    """The inner error names the policy and the category."""
    error = json.loads(one("[[simulate:content-filter]]").body)["error"]
    assert error["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    assert error["innererror"]["content_filter_result"]["violence"]["filtered"] is True


@pytest.mark.parametrize(("marker", "finish"), [("length", "length"), ("filtered", "content_filter")])
def test_a_prompt_chooses_how_its_answer_ends(marker: str, finish: str) -> None:
    """Such an answer is a 200 with less text and its own finish reason."""
    plan = one(f"Explain the weather [[simulate:{marker}]]")
    choice = json.loads(plan.body)["choices"][0]
    assert (plan.status, plan.outcome, choice["finish_reason"]) == (200, "answered", finish)
    assert len(choice["message"]["content"]) < len(expected_text(f"Explain the weather [[simulate:{marker}]]"))


def test_empty_choices_and_html_are_as_proxies_send_them() -> None:
    """A 200 without choices; a 502 page that is no JSON; a stream that brings nothing but [DONE]."""
    assert json.loads(one("[[simulate:empty-choices]]").body)["choices"] == []
    assert [event for _, event in one("[[simulate:empty-choices]]", stream=True).chunks] == [b"data: [DONE]\n\n"]
    page = one("[[simulate:502]]")
    assert (page.status, page.body[:6], page.headers[0]) == (502, b"<html>", (b"content-type", b"text/html"))


@pytest.mark.parametrize("fault", ["reset", "stall", "truncate", "garbage"])
def test_a_prompt_chooses_a_broken_connection(fault: str) -> None:
    """The plan names the fault for those who deliver it."""
    plan = one(f"[[simulate:{fault}]]")
    assert (plan.fault, plan.outcome) == (fault, fault)


def test_a_marker_may_hold_for_the_first_times_only() -> None:
    """`*2`: two failures, then the answer."""
    simulator = Simulator(Settings())
    assert [simulator.arrive(0.0, ask("x [[simulate:500*2]]")).status for _ in range(4)] == [500, 500, 200, 200]


def test_throttles_name_a_wait_and_bare_ones_do_not() -> None:
    """Both are 429s; only one has retry-after."""
    chosen = Settings(retry_after=1.84)
    named, bare = (dict(one(f"[[simulate:{name}]]", chosen).headers) for name in ("throttle", "throttle-bare"))
    assert (named[b"retry-after"], named[b"retry-after-ms"]) == (b"2", b"1840")
    assert b"retry-after" not in bare
    assert b"retry-after-ms" not in bare


def test_keys_models_and_switches_refuse() -> None:
    """Wrong key 401; unknown model 404; after n requests the key is bad or the money gone, for everybody."""
    closed = Simulator(Settings(api_key="right", models=("known",)))
    assert closed.arrive(0, ask("x"), "wrong").status == 401
    assert closed.arrive(0, ask("x"), None).status == 401
    unknown = closed.arrive(0, ask("x"), "right")
    assert (unknown.status, json.loads(unknown.body)["error"]["code"]) == (404, "model_not_found")
    assert closed.arrive(0, ask("x", model="known"), "right").status == 200
    key, credit = Simulator(Settings(key_refused_after=2)), Simulator(Settings(credit_gone_after=0))
    assert [key.arrive(0, ask("x")).status for _ in range(4)] == [200, 200, 401, 401]
    assert json.loads(credit.arrive(0, ask("x")).body)["error"]["code"] == "insufficient_quota"


def test_limits_are_charged_by_estimate_and_corrected() -> None:
    """Admission reserves body/4 + max_tokens; an answer then counts as used, a failure as estimated."""
    simulator = Simulator(Settings(tokens_per_minute=10_000))
    body = ask("hello", max_tokens=1000)
    plan = simulator.arrive(0.0, body)
    assert plan.reserved_tokens == (len(body) + 3) // 4 + 1000
    assert int(dict(plan.headers)[b"x-ratelimit-remaining-tokens"]) == 10_000 - plan.reserved_tokens
    simulator.leave(0.0, plan, whole=True)
    failed = simulator.arrive(0.0, ask("[[simulate:500]]", max_tokens=500))
    simulator.leave(0.0, failed, whole=True)
    used = plan.input_tokens + plan.output_tokens + failed.reserved_tokens
    last = simulator.arrive(0.0, ask("x", max_tokens=1))
    assert int(dict(last.headers)[b"x-ratelimit-remaining-tokens"]) == 10_000 - used - last.reserved_tokens


def test_each_model_has_limits_of_its_own() -> None:
    """One model's traffic leaves another's budget alone."""
    simulator = Simulator(Settings(requests_per_minute=1))
    assert [simulator.arrive(0, ask("x", model=name)).status for name in "aabb"] == [200, 429, 200, 429]


def test_answers_to_a_prompt_beyond_the_first_are_duplicates() -> None:
    """Only whole answers count, and the account names the prompt."""
    simulator = Simulator(Settings())
    for prompt, whole in [("a", False), ("a", True), ("b", True), ("a", True), ("a", True)]:
        simulator.leave(1.0, simulator.arrive(1.0, ask(prompt)), whole)
    stats = simulator.stats(3.0)
    assert (stats.answered, stats.prompts, stats.duplicates, stats.abandoned) == (4, 2, 2, 1)
    assert stats.duplicate_digests == [prompt_digest("a")] * 2
    assert stats.elapsed == 2.0


@given(
    seed=st.integers(-(2**70), 2**70),
    steps=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.floats(0, 30)), max_size=60),
)
@hypothesis_settings(max_examples=60)
def test_the_account_always_balances(seed: int, steps: list[tuple[int, bool, float]]) -> None:
    """Every arrival is answered, throttled, failed, abandoned or in flight, at every moment."""
    faults = Faults(error_500=0.1, throttle=0.1, truncate=0.1)
    simulator = Simulator(Settings(requests_per_minute=10, tokens_per_minute=1000, seed=seed, faults=faults))
    now, open_plans = 0.0, []
    for number, leaves, pause in steps:
        now += pause
        open_plans.append(simulator.arrive(now, ask(f"prompt {number}")))
        if leaves:
            simulator.leave(now, open_plans.pop(0), whole=number % 3 > 0)
        stats = simulator.stats(now)
        waiting = sum(plan.outcome == "answered" for plan in open_plans)
        told = stats.answered + stats.throttled + sum(stats.failed.values()) + stats.abandoned
        assert stats.arrived == told + waiting
        assert stats.in_flight == len(open_plans) <= stats.peak
        assert stats.answered == stats.prompts + stats.duplicates


@given(st.floats(0.01, 10), st.floats(1, 20), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_spread_stays_between_its_ends(low: float, factor: float, first: float, second: float) -> None:
    """No draw is outside, whatever the numbers."""
    assert low <= Spread.between(low, low * factor).draw(first, second) <= low * factor


def test_a_spread_is_log_normal_around_its_median() -> None:
    """Half of the draws are below the median, and the quartiles are at exp(0.6745 sigma) of it."""
    chance = random.Random(5)
    draws = sorted(Spread(2.0, 0.5).draw(chance.random(), chance.random()) for _ in range(20_000))
    assert draws[10_000] == pytest.approx(2.0, rel=0.03)
    assert draws[15_000] == pytest.approx(2.0 * 1.401, rel=0.03)


def test_latency_counts_the_tokens_of_whole_answers_and_paces_streams() -> None:
    """A whole answer comes after first + n * each seconds; a stream spreads the same time over its words."""
    chosen = Settings(latency=0.5, token_latency=0.1)
    whole, streamed = one("hello there", chosen), one("hello there", chosen, stream=True)
    assert whole.delay == pytest.approx(0.5 + 0.1 * whole.output_tokens)
    assert streamed.delay == 0.5
    assert sum(delay for delay, _ in streamed.chunks) >= 0.1 * whole.output_tokens - 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Settings(requests_per_minute=0),
        lambda: Settings(tokens_per_minute=-5),
        lambda: Settings(burst_seconds=float("nan")),
        lambda: Settings(latency=-1),
        lambda: Settings(retry_after=float("inf")),
        lambda: Faults(reset=1.5),
        lambda: Faults(reset=0.6, stall=0.6),
        lambda: Spread(0, 1),
        lambda: Spread.between(2, 1),
    ],
)
def test_wrong_settings_are_told_at_once(wrong: Any) -> None:
    """A bad value is a UsageError before anything is served."""
    with pytest.raises(UsageError):
        wrong()


def test_settings_never_show_their_key() -> None:
    """A repr may end up in a log."""
    assert "secret" not in repr(Settings(api_key="secret-key"))
