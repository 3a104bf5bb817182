"""Slots and their queue: never more at once, first come first served, and nobody's slot is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.simulator.engine import Engine


def test_beyond_the_slots_requests_queue_in_order() -> None:
    """And begin as slots become free."""
    engine: Engine[str] = Engine(2, None)
    assert [engine.enter(name) for name in "abcd"] == ["answered", "answered", "queued", "queued"]
    assert engine.leave("a", queued=False) == ["c"]
    assert engine.leave("c", queued=False) == ["d"]
    assert (engine.leave("b", queued=False), engine.busy) == ([], 1)


def test_a_full_queue_sheds() -> None:
    """Its length is what is allowed, and not one more."""
    engine: Engine[str] = Engine(1, 2)
    assert [engine.enter(name) for name in "abcd"] == ["answered", "queued", "queued", "shed"]


def test_without_slots_everybody_is_answered() -> None:
    """And counted."""
    engine: Engine[int] = Engine(None, None)
    assert {engine.enter(number) for number in range(100)} == {"answered"}
    assert engine.busy == 100


def test_who_gives_up_in_the_queue_leaves_no_hole() -> None:
    """The one behind goes first."""
    engine: Engine[str] = Engine(1, None)
    for name in "abc":
        engine.enter(name)
    assert engine.leave("b", queued=True) == []
    assert engine.leave("a", queued=False) == ["c"]


def test_fewer_slots_drain_and_more_begin_at_once() -> None:
    """Nobody loses a slot that he has; at least one is left."""
    engine: Engine[str] = Engine(2, None)
    for name in "abcd":
        engine.enter(name)
    assert engine.scale(0.1) == []
    assert (engine.leave("a", queued=False), engine.leave("b", queued=False)) == ([], ["c"])
    assert engine.scale(2.0) == ["d"]


@given(slots=st.integers(1, 4), moves=st.lists(st.integers(0, 9), max_size=60))
@settings(max_examples=60)
def test_no_more_than_the_slots_and_none_of_them_idle(slots: int, moves: list[int]) -> None:
    """Whatever comes and goes: a queue is only there while every slot is busy."""
    engine: Engine[int] = Engine(slots, None)
    running: list[int] = []
    waiting: list[int] = []
    for number, move in enumerate(moves):
        if move < 6:
            (running if engine.enter(number) == "answered" else waiting).append(number)
        elif running and move < 9:
            begun = engine.leave(running.pop(move % len(running)), queued=False)
            assert begun == waiting[: len(begun)]
            running, waiting = running + begun, waiting[len(begun) :]
        elif waiting:
            engine.leave(waiting.pop(), queued=True)
        assert engine.busy == len(running) <= slots
        assert not waiting or len(running) == slots
