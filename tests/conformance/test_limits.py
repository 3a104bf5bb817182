"""Limits over real HTTP: what the provider allows is used, and nobody is throttled who could have known.

Providers, prompts and the client's program are those of `bench/limits.py`. Client and provider are processes of their own,
and every figure is of the provider's account, which is read again and again while the client is at work.
"""

from __future__ import annotations

import json
import select
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench.limit_scenarios import IN_FLIGHT, LATENCY, SLOTS, Scenario, admitted, scenarios
from penstock.simulator.behaviour import Stats
from tests.kit.command import json_lines
from tests.kit.environment import ROOT
from tests.kit.journey import command, note, penstock
from tests.kit.simulated import Simulated, simulated

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

Note = Callable[[str, object], None]

SCENARIOS = {scenario.name: scenario for scenario in scenarios()}
PROGRAM = ROOT / "bench" / "peers" / "penstock_map.py"
SAMPLE_SECONDS = 0.02
MEAN_LATENCY = statistics.fmean(LATENCY)
"""Seconds: the middle of what answers take."""

TOKENS_ROWS = 1_000
"""Over a minute at the limit."""

SILENT_ROWS = 4_500
LATE_SECONDS = 30
"""A minute and a half at the limit, of which the first half minute is for finding out."""


class Seen:
    """The provider's accounts while a client was at work, in the order of time; seconds count from the first arrival."""

    def __init__(self, accounts: list[Stats]) -> None:
        self.accounts = accounts
        self.stats = accounts[-1]

    def wall_s(self) -> float:
        """Until the last answer."""
        return next(one.elapsed for one in self.accounts if one.answered == self.stats.answered)

    def last_admission_s(self) -> float:
        """Until the last request was let in."""
        return next(one.elapsed for one in self.accounts if admitted(one) == admitted(self.stats))

    def late_throttles(self) -> float:
        """The share that was throttled of what arrived after `LATE_SECONDS`."""
        early = next(one for one in self.accounts if one.elapsed >= LATE_SECONDS)
        return (self.stats.throttled - early.throttled) / (self.stats.arrived - early.arrived)


def watch(process: subprocess.Popen[str], provider: Simulated) -> Seen:
    """The provider's accounts until a client says something, or ends."""
    accounts: list[Stats] = []
    done = False
    while not done:
        done = bool(select.select([process.stdout], [], [], SAMPLE_SECONDS)[0])
        accounts.append(msgspec.json.decode(provider.fetch("GET", "/stats")[1], type=Stats))
    return Seen(accounts)


def mapped(scenario: Scenario, prompts: list[str], provider: Simulated, *, told: bool) -> Seen:
    """`Client.map` over prompts in a process of its own, told the limits or not; it must have every answer in the end."""
    limits = {"requests_per_minute": None, "tokens_per_minute": None, **(scenario.limits if told else {})}
    work = {"base_url": provider.base_url, "prompts": prompts, "in_flight": IN_FLIGHT, **limits}
    with subprocess.Popen(
        [sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin as stream:
                json.dump(work, stream)
            seen = watch(process, provider)
            assert json.loads(process.stdout.readline())["answered"] == len(prompts)
        finally:
            process.kill()
    return seen


def observed(name: str, rows: int, record: Note, *, told: bool) -> tuple[Scenario, Seen]:
    """A scenario of so many rows by `Client.map`: every row is answered once, and its figures are noted."""
    scenario = SCENARIOS[name]
    prompts = scenario.prompts(rows)
    with simulated(*scenario.options) as provider:
        seen = mapped(scenario, prompts, provider, told=told)
    check_and_note(scenario, prompts, seen, record)
    return scenario, seen


def check_and_note(scenario: Scenario, prompts: list[str], seen: Seen, record: Note) -> None:
    """No row failed or was answered twice; the figures that tell how well the limit was used."""
    stats = seen.stats
    share = scenario.share(stats, seen.last_admission_s())
    figures = {"wall_s": seen.wall_s(), "ideal_s": ideal_s(scenario, prompts), "share": share}
    note(record, **{name: round(value, 4) for name, value in figures.items()})
    note(record, throttled=stats.throttled, arrived=stats.arrived, peak=stats.peak)
    assert (stats.prompts, stats.duplicates, stats.abandoned, stats.failed) == (len(prompts), 0, 0, {})


def ideal_s(scenario: Scenario, prompts: list[str]) -> float:
    """From the first arrival to the last answer, of whoever uses all that there is: (work - burst) / rate + latency."""
    work = sum(map(scenario.unit.of_prompt, prompts))
    return work / scenario.rate - scenario.burst_seconds + MEAN_LATENCY


def test_a_limit_of_requests_that_is_told_is_filled_without_a_throttle(record_property: Note) -> None:
    """1,200 requests at 3,000 a minute: no throttle, and within 3 % of (1,200 - burst) / 50 s + latency."""
    scenario, seen = observed("requests", 1_200, record_property, told=True)
    assert seen.stats.throttled == 0
    assert seen.wall_s() <= 1.03 * ideal_s(scenario, scenario.prompts(1_200))


def test_the_command_fills_it_as_well(tmp_path: Path, record_property: Note) -> None:
    """`penstock run --rpm 3000`, with its ledger: the same figures, and an account that balances."""
    scenario, output = SCENARIOS["requests"], tmp_path / "out.jsonl"
    prompts = scenario.prompts(1_200)
    (tmp_path / "in.jsonl").write_bytes(json_lines({"prompt": prompt} for prompt in prompts))
    run = command("run", tmp_path / "in.jsonl", "-o", output, "-m", "custom/m", "--rpm", 3_000, "--no-progress")
    with simulated(*scenario.options) as provider:
        run += ["--base-url", provider.base_url]
        with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as process:
            try:
                seen = watch(process, provider)
                assert process.wait() == 0
            finally:
                process.kill()
    check_and_note(scenario, prompts, seen, record_property)
    assert penstock("verify", output).returncode == 0
    assert seen.stats.throttled == 0
    assert seen.wall_s() <= 1.03 * ideal_s(scenario, prompts)


def test_a_limit_of_tokens_that_is_told_is_filled_without_a_throttle(record_property: Note) -> None:
    """600,000 tokens a minute, prompts of 20 to 4,000: no throttle, at least 97 % of what the charge rule allows.

    The provider charges a prompt and what its answer may take at admission, and puts that right when the answer is sent; in
    the end every token that was used is charged, and no other. It allows its burst, of one second, and its rate from the
    first arrival to the last admission.
    """
    _, seen = observed("tokens", TOKENS_ROWS, record_property, told=True)
    assert seen.stats.throttled == 0
    scenario = SCENARIOS["tokens"]
    assert scenario.share(seen.stats, seen.last_admission_s()) >= 0.97


@pytest.mark.parametrize(("name", "rows"), [("requests", 1_200), ("tokens", TOKENS_ROWS)])
def test_a_limit_that_only_the_headers_tell_is_filled(name: str, rows: int, record_property: Note) -> None:
    """Within 8 % of the ideal time, and at most 5 throttles."""
    scenario, seen = observed(name, rows, record_property, told=False)
    assert seen.stats.throttled <= 5
    assert seen.wall_s() <= 1.08 * ideal_s(scenario, scenario.prompts(rows))


def test_a_limit_that_nobody_tells_is_found_with_few_throttles(record_property: Note) -> None:
    """Of what arrives after the first 30 s, at most 3 % is throttled."""
    _, seen = observed("silent", SILENT_ROWS, record_property, told=False)
    note(record_property, late_throttles=round(seen.late_throttles(), 4))
    assert seen.late_throttles() <= 0.03


def test_an_engine_without_limits_is_kept_busy_and_not_flooded(record_property: Note) -> None:
    """64 slots: at least 90 % of what they can give, and never more than three times as many requests at once."""
    scenario, seen = observed("slots", 3_000, record_property, told=False)
    assert scenario.share(seen.stats, seen.last_admission_s()) >= 0.9
    assert seen.stats.peak <= 3 * SLOTS
