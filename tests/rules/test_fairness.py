"""F8: lanes share by weight, nobody starves, silence saves nothing up, order holds within a lane."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.options import Lane
from penstock.rules.fairness import FairQueue

weights = st.floats(0.1, 10.0)
sizes = st.lists(st.floats(0.1, 100.0), min_size=1, max_size=50)


def serve(queue: FairQueue[tuple[str, float]], turns: int) -> Counter[str]:
    """What each lane got in so many turns, by cost; an item is (its lane, its cost)."""
    got: Counter[str] = Counter()
    for _ in range(turns):
        lane, cost = queue.head()
        queue.pop()
        got[lane] += cost
    return got


def fill(queue: FairQueue[tuple[str, float]], lane: Lane, costs: list[float]) -> None:
    for cost in costs:
        queue.push((lane.name, cost), lane, cost)


@settings(deadline=None)
@given(first=weights, second=weights, data=st.data())
def test_while_lanes_have_something_to_send_each_gets_its_weight_to_within_one_item(
    first: float, second: float, data: st.DataObject
) -> None:
    lanes = [Lane(name="a", weight=first), Lane(name="b", weight=second)]
    queue: FairQueue[tuple[str, float]] = FairQueue()
    costs = {lane.name: data.draw(sizes) for lane in lanes}
    for lane in lanes:
        fill(queue, lane, costs[lane.name])
    got, left = Counter[str](), {name: len(own) for name, own in costs.items()}
    while all(left.values()):
        name, cost = queue.head()
        queue.pop()
        got[name] += cost
        left[name] -= 1
        a, b = (got[lane.name] / lane.weight for lane in lanes)
        # Whoever is ahead has ended before the other's next item would.
        assert -max(costs["a"]) / first - 1e-6 <= a - b <= max(costs["b"]) / second + 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (1.0, 3.0), (8.0, 1.0)])
def test_the_length_of_a_line_gives_no_more_than_the_weight(first: float, second: float, seed: int) -> None:
    """One lane has a hundred times the backlog: shares by weight within 3 %, whatever the costs."""
    chance = random.Random(seed)
    queue: FairQueue[tuple[str, float]] = FairQueue()
    fill(queue, Lane(name="long", weight=first), [chance.lognormvariate(7, 0.8) for _ in range(40_000)])
    fill(queue, Lane(name="short", weight=second), [chance.lognormvariate(7, 0.8) for _ in range(400)])
    got = serve(queue, 400)
    assert got["long"] / got.total() == pytest.approx(first / (first + second), abs=0.03), f"seed {seed}"


def test_a_lane_of_small_weight_and_large_items_is_served_though_others_never_stop() -> None:
    queue: FairQueue[str] = FairQueue()
    small, large = Lane(name="small", weight=10.0), Lane(name="large", weight=0.1)
    queue.push("large", large, 100.0)
    turns, item = 0, ""
    while item != "large":
        while len(queue) < 5:
            queue.push("small", small, 1.0)
        item = queue.head()
        queue.pop()
        turns += 1
    # Its end is at 100 / 0.1 of virtual time, when the others have had ten times as much.
    assert turns <= 10_001


@settings(deadline=None)
@given(silent_for=st.integers(1, 300), weight=weights)
def test_a_lane_that_was_silent_has_saved_nothing_up(silent_for: int, weight: float) -> None:
    queue: FairQueue[tuple[str, float]] = FairQueue()
    busy, quiet = Lane(name="busy"), Lane(name="quiet", weight=weight)
    fill(queue, quiet, [1.0])
    fill(queue, busy, [1.0] * 1_000)
    serve(queue, silent_for)
    fill(queue, quiet, [1.0] * 1_000)
    got = serve(queue, 200)
    assert got["quiet"] <= 200 * weight / (weight + 1) + weight + 2


@settings(deadline=None)
@given(silent_for=st.integers(1, 300))
def test_a_lane_that_was_silent_does_not_pay_for_it(silent_for: int) -> None:
    """Nor for what it got alone, before the others came."""
    queue: FairQueue[tuple[str, float]] = FairQueue()
    first, second = Lane(name="first"), Lane(name="second")
    fill(queue, first, [1.0] * silent_for)
    serve(queue, silent_for)
    for lane in (first, second):
        fill(queue, lane, [1.0] * 100)
    assert abs(serve(queue, 100)["first"] - 50) <= 1


@settings(deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 50), st.booleans()), max_size=100))
def test_within_a_lane_all_go_in_the_order_of_arrival_and_nothing_is_lost(
    moves: list[tuple[str, float, bool]],
) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    lanes = {"a": Lane(name="a"), "b": Lane(name="b", weight=3.0), "c": Lane(name="c", weight=0.1)}
    pushed, gone = [], []
    for turn, (name, cost, pop) in enumerate(moves):
        queue.push((name, turn), lanes[name], cost)
        pushed.append((name, turn))
        if pop:
            gone.append(queue.head())
            queue.pop()
        assert len(queue) == len(list(queue)) == len(pushed) - len(gone)
    while len(queue):
        gone.append(queue.head())
        queue.pop()
    assert sorted(gone) == sorted(pushed)
    for name in lanes:
        own = [turn for lane, turn in gone if lane == name]
        assert own == sorted(own)


def test_who_comes_back_goes_to_the_head_of_its_own_lane_only() -> None:
    queue: FairQueue[str] = FairQueue()
    mine, other = Lane(name="mine"), Lane(name="other")
    queue.push("other", other, 1.0)
    queue.push("mine", mine, 2.0)
    queue.push("again", mine, 2.0, first=True)
    order = []
    while len(queue):
        order.append(queue.head())
        queue.pop()
    assert order == ["other", "again", "mine"]


def test_who_goes_away_without_a_turn_costs_its_lane_nothing() -> None:
    queue: FairQueue[tuple[str, float]] = FairQueue()
    one, other = Lane(name="one"), Lane(name="other")
    fill(queue, one, [1.0] * 200)
    for _ in range(100):
        queue.drop()
    fill(queue, other, [1.0] * 100)
    assert abs(serve(queue, 100)["one"] - 50) <= 1


def test_how_many_wait_in_each_lane_can_be_told() -> None:
    queue: FairQueue[tuple[str, float]] = FairQueue()
    fill(queue, Lane(name="one"), [1.0] * 3)
    fill(queue, Lane(name="other"), [1.0] * 2)
    serve(queue, 1)
    assert sum(queue.statistics().values()) == len(queue) == 4
    assert set(queue.statistics()) == {"one", "other"}
