"""Rounds of the benchmark into a page."""

from __future__ import annotations

import math

import pytest

from bench.field import CONTENDERS
from bench.figures import Target
from bench.points import CASES, Point, Told
from bench.speed_report import CPU, ORDER, Measured, by_levels, drawn, of_one_level, page, ratios_by_levels, targets

ZERO, _, TLS, TOGETHER, _ = CASES
MIDDLE = Point("zero", 64)


def told(cpu_us: float, rate: float = 1_000.0, peak_mb: float = 30.0) -> Told:
    return Told(cpu_us, rate, peak_mb, ["made 1.0"], 100)


def measured(*rounds: dict[str, Told], point: Point = MIDDLE) -> Measured:
    return Measured({point: list(rounds)}, {})


def by_text(all_targets: Measured, start: str) -> Target:
    (found,) = [target for target in targets(all_targets) if target.text.startswith(start)]
    return found


def test_every_contender_has_its_place_in_the_tables() -> None:
    assert sorted(ORDER) == sorted(contender.name for contender in CONTENDERS)


def test_ratios_are_those_of_rounds_and_missing_turns_spoil_none() -> None:
    one = measured(
        {"floor": told(10), "penstock": told(20)},
        {"floor": told(100), "penstock": told(300)},
        {"floor": told(50)},
    )
    assert one.times(MIDDLE, "penstock", "floor") == pytest.approx(2.5)
    assert one.median(MIDDLE, "floor", CPU) == 50


def test_a_place_that_nobody_was_at_is_nan_and_no_error() -> None:
    assert math.isnan(measured().times(Point("second", 8), "penstock", "floor"))


def test_levels_are_columns_and_contenders_rows_with_a_dash_where_one_was_not() -> None:
    one = Measured(
        {Point("zero", 1): [{"penstock": told(80), "floor": told(40)}], Point("zero", 64): [{"floor": told(25)}]}, {}
    )
    assert list(by_levels(one, ZERO, CPU)) == [
        "| CPU us a call, in flight: |  1 | 64 |",
        "| ------------------------- | -: | -: |",
        "| floor                     | 40 | 25 |",
        "| penstock                  | 80 |  - |",
    ]
    assert list(ratios_by_levels(one, ZERO))[2:] == ["| penstock                             | 2.00 |  - |"]


def test_a_case_of_one_level_has_all_figures_in_one_table() -> None:
    one = measured({"aiohttp on uvloop": told(1_000), "penstock": told(600)}, point=Point("together", 64))
    head, _, ours, theirs = of_one_level(one, TOGETHER)
    assert "CPU us a stream" in head
    assert ours.endswith(" 0.60 |")
    assert theirs.replace(" ", "").endswith("|100||")


@pytest.mark.parametrize(
    ("start", "rounds", "value"),
    [
        ("CPU of map, times the floor", {"penstock": told(60), "floor": told(30)}, 2.0),
        ("CPU of map with a ledger", {"penstock, ledger": told(90), "floor": told(30)}, 3.0),
        ("calls a second of map with", {"penstock, ledger": told(90, rate=11_000)}, 11_000),
        ("CPU of the OpenAI SDK", {"penstock": told(60), "openai": told(6_000)}, 100.0),
        ("CPU of bare aiohttp", {"penstock": told(60), "aiohttp": told(240)}, 4.0),
        ("CPU of penstock run", {"penstock run": told(100), "penstock run, 2 processes": told(110)}, 1.1),
    ],
)
def test_targets_compare_who_they_name(start: str, rounds: dict[str, Told], value: float) -> None:
    assert by_text(measured(rounds), start).value == pytest.approx(value)


def test_targets_at_many_in_flight_are_taken_there() -> None:
    rounds = {"penstock": told(50, rate=950, peak_mb=150), "floor": told(30, rate=1_000)}
    one = measured(rounds, point=Point("second", 5_000))
    assert by_text(one, "rate of map at 5,000").value == pytest.approx(0.95)
    assert by_text(one, "MB of map at 5,000").value == 150
    assert math.isnan(by_text(one, "CPU of map, times the floor").value)


def test_the_page_names_machine_versions_and_who_was_left_out_with_all_its_places() -> None:
    why = "5,000 calls would take 40 s"
    rounds = {Point("zero", level): [{"floor": told(30)}] for level in (1, 64)}
    one = Measured(rounds, {(Point("zero", level), "openai"): why for level in (1_000, 5_000)})
    text = page(one, "2 x a machine", "python bench/run.py", "benchmarks", ["## Start-up"])
    assert "Machine: 2 x a machine." in text
    assert text.endswith("## Start-up")
    assert "* floor: made 1.0" in text
    assert f"* openai, 1,000, 5,000 in flight: {why}" in text
    assert "(benchmarks/zero-cpu.svg)" in text
    assert TLS.title not in text


def test_the_page_says_how_many_rounds_there_were_and_who_had_fewer() -> None:
    one = measured({"floor": told(30), "openai": told(3_000)}, {"floor": told(30)}, {"floor": told(30)})
    text = page(one, "a machine", "a command", "benchmarks")
    assert "Figures are medians of 3 rounds (openai 1); ratios" in text


def test_plots_are_drawn_of_several_levels_only() -> None:
    rounds = {Point("zero", level): [{"floor": told(30)}] for level in (1, 64)} | {
        Point("tls", 64): [{"floor": told(50)}]
    }
    one = Measured(rounds, {})
    assert [name for name, _ in drawn(one, ZERO)] == ["zero-cpu.svg", "zero-rate.svg", "zero-memory.svg"]
    assert list(drawn(one, TLS)) == []
