"""Whose turn it is in the benchmark, and who is left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import run
from bench.field import BY_NAME, Contender, Ended, Provider
from bench.points import CASES, FULL, QUICK, Case, Length, Point, Told

ZERO, SECOND, TOGETHER = CASES[0], CASES[1], CASES[3]
PROVIDERS = {case.name: Provider("http://127.0.0.1:9/v1") for case in CASES}
Asked = tuple[str, str, int, int]


def told(cost_us: float) -> Told:
    return Told(cost_us, 1_000.0, 30.0, [])


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Asked], Told]], list[Asked]]:
    """Puts a function in the place of every turn; gives the list of what was asked of whom: case, name, calls, in flight."""

    def play(answer: Callable[[Asked], Told]) -> list[Asked]:
        seen: list[Asked] = []

        def turn(contender: Contender, case: Case, _: Provider, calls: int, in_flight: int, __: float) -> Told:
            seen.append((case.name, contender.name, calls, in_flight))
            return answer(seen[-1])

        monkeypatch.setattr(run, "turn", turn)
        return seen

    return play


def course(*names: str, length: Length = QUICK) -> run.Course:
    return run.Course([BY_NAME[name] for name in names], PROVIDERS, length)


def test_contenders_begin_in_turn(turns) -> None:
    seen = turns(lambda _: told(100))
    one = course("floor", "penstock")
    one.add(ZERO, [1, 64])
    del seen[:]
    one.round()
    assert [(name, in_flight) for _, name, _, in_flight in seen] == [
        ("floor", 1),
        ("penstock", 1),
        ("penstock", 64),
        ("floor", 64),
    ]


def test_who_does_not_work_is_left_out_everywhere_and_only_of_that_case(turns) -> None:
    def answer(asked: Asked) -> Told:
        if asked[:2] == ("zero", "aiohttp"):
            raise Ended("it does not install")
        return told(100)

    turns(answer)
    one = course("penstock", "aiohttp")
    one.add(ZERO, [1, 64])
    one.add(TOGETHER, [64])
    one.round()
    assert one.skipped == {(Point("zero", level), "aiohttp"): "it does not install" for level in (1, 64)}
    assert set(one.rounds["zero", 64][0]) == {"penstock"}
    assert set(one.rounds["together", 64][0]) == {"penstock", "aiohttp"}


def test_who_breaks_at_a_place_is_asked_there_no_more_and_elsewhere_again(turns) -> None:
    def answer(asked: Asked) -> Told:
        if asked[3] == 64:
            raise Ended("not done after 45 s")
        return told(100)

    seen = turns(answer)
    one = course("penstock")
    one.add(ZERO, [1, 64])
    one.round()
    one.round()
    assert [in_flight for *_, in_flight in seen].count(64) == 1
    assert [set(done) for done in one.rounds["zero", 1]] == [{"penstock"}] * 2
    assert one.skipped == {(Point("zero", 64), "penstock"): "not done after 45 s"}


def test_calls_follow_from_what_a_place_cost_the_last_time(turns) -> None:
    seen = turns(lambda asked: told(100 if asked[3] == 1 else 1_000))
    one = course("penstock")
    one.add(ZERO, [1, 64])
    one.round()
    one.round()
    assert [calls for _, _, calls, in_flight in seen if in_flight == 64] == [8_000, 800]
    assert [calls for _, _, calls, in_flight in seen if in_flight == 1] == [400, 4_000]


def test_whoever_has_no_streams_is_not_asked_for_them(turns) -> None:
    seen = turns(lambda _: told(100))
    one = course("floor", "penstock")
    one.add(TOGETHER, [64])
    one.round()
    assert {name for _, name, _, _ in seen} == {"penstock"}
    assert one.skipped == {}


@pytest.mark.parametrize(
    ("case", "asked", "levels"), [(ZERO, [1, 64], [1, 64]), (TOGETHER, [1], [64]), (TOGETHER, None, [64])]
)
def test_a_case_of_one_level_keeps_it(case: Case, asked: list[int] | None, levels: list[int]) -> None:
    assert run.levels_of(case, asked) == levels


def test_slow_ones_have_fewer_rounds_and_places_and_it_is_told(turns) -> None:
    seen = turns(lambda _: told(100))
    one = course("penstock", "openai", length=FULL)
    one.add(SECOND, [8, 64])
    del seen[:]
    for _ in range(FULL.swift.rounds):
        one.round()
    asked = [(name, in_flight) for _, name, _, in_flight in seen]
    assert [asked.count(one) for one in (("penstock", 8), ("penstock", 64), ("openai", 8), ("openai", 64))] == [
        5,
        5,
        0,
        3,
    ]
    assert one.skipped == {(Point("second", 8), "openai"): "not measured, to spare time"}


def test_who_is_measured_somewhere_by_name_is_spared_nothing(turns) -> None:
    turns(lambda _: told(100))
    one = course("openai", length=FULL._replace(sparing=False))
    one.add(SECOND, [8])
    one.round()
    assert set(one.rounds["second", 8][0]) == {"openai"}


def test_a_target_that_names_its_calls_has_them(turns) -> None:
    seen = turns(lambda _: told(100))
    one = course("floor", "aiohttp", length=FULL)
    one.add(SECOND, [5_000])
    one.round()
    assert {name: calls for _, name, calls, in_flight in seen if in_flight == 5_000} == {
        "floor": 100_000,
        "aiohttp": 20_000,
    }


def test_what_is_left_is_told_and_comes_to_nothing(turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn takes ten seconds: at first two places of two contenders in three rounds are to come, less one place each time."""
    now, said = 0.0, list[str]()

    def answer(_: Asked) -> Told:
        nonlocal now
        now += 10
        return told(100)

    turns(answer)
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    monkeypatch.setattr(run, "say", said.append)
    one = course("floor", "penstock")
    one.add(ZERO, [1, 64])
    one.round()
    assert said[-1] == "round 1 of 3, zero at 64: 20 s; about 1.3 min of rounds left"
    one.round()
    one.round()
    assert one.left_seconds([]) == 0
    assert said[-1] == "round 3 of 3, zero at 64: 20 s; about 0.0 min of rounds left"


def test_what_was_never_measured_is_guessed_from_what_showed_that_it_works(
    turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns(lambda _: told(100))
    monkeypatch.setattr(run.time, "monotonic", lambda: 0.0)
    one = course("penstock")
    one.add(SECOND, [64])
    assert one.left_seconds([]) == pytest.approx(3 * 2.0)  # three rounds, two waves of a second each
