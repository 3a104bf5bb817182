"""A turn: who may go at once never waits, nobody overtakes, nothing is lost when somebody gives up."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from penstock.engine.gate import Ask, Gate, Rules, Scope, Ticket
from penstock.errors import RunStopped
from penstock.options import Limits
from penstock.testing import ManualClock

ONE = Ask()
HERE = Scope()


def gate(clock: ManualClock, *, slots: int = 1, **limits: float) -> Gate:
    return Gate(clock, Rules(limits=Limits(**limits), max_concurrency=slots))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_handed_on_in_the_order_of_arrival() -> None:
    clock, order = ManualClock(), []
    door = gate(clock)
    queue = door.queue("m")

    async def enter(name: str) -> None:
        await door.wait(queue, ONE, Scope())
        order.append(name)

    assert door.enter_nowait(queue, ONE, HERE)
    tasks = [asyncio.create_task(enter(name)) for name in "abc"]
    await settle()
    assert order == []
    assert not door.enter_nowait(queue, ONE, HERE)
    for expected in ("a", "ab", "abc"):
        door.leave(queue, HERE)
        await settle()
        assert "".join(order) == expected
    await asyncio.gather(*tasks)
    assert door.statistics() == {"in_flight": 1, "free": 0, "ready": 0, "later": 0}


async def test_a_retry_goes_to_the_head_of_its_line() -> None:
    clock, order = ManualClock(), []
    door = gate(clock)
    queue = door.queue("m")

    async def enter(name: str, *, first: bool) -> None:
        await door.wait(queue, ONE, Scope(), first=first)
        order.append(name)
        door.leave(queue, HERE)

    assert door.enter_nowait(queue, ONE, HERE)
    tasks = [asyncio.create_task(enter(name, first=name == "retry")) for name in ("new", "retry")]
    await settle()
    door.leave(queue, HERE)
    await asyncio.gather(*tasks)
    assert order == ["retry", "new"]


async def test_a_large_request_at_the_head_is_not_overtaken_by_small_ones() -> None:
    clock, order = ManualClock(), []
    door = gate(clock, slots=100, tokens_per_minute=6_000)
    queue = door.queue("m")

    async def enter(tokens: int) -> None:
        await door.wait(queue, Ask(most_output=tokens), Scope())
        order.append(tokens)

    assert door.enter_nowait(queue, Ask(most_output=1_000), HERE)
    tasks = [asyncio.create_task(enter(tokens)) for tokens in (5_000, 1, 1)]
    await settle()
    clock.advance(9)
    await settle()
    assert order == []
    clock.advance(60)
    await settle()
    assert order == [5_000, 1, 1]
    await asyncio.gather(*tasks)


async def test_one_timer_wakes_the_line_when_the_budget_allows() -> None:
    clock = ManualClock()
    door = gate(clock, slots=100, requests_per_minute=60)
    queue, entered = door.queue("m"), []

    async def enter() -> None:
        await door.wait(queue, ONE, Scope())
        entered.append(clock.now())

    tasks = [asyncio.create_task(enter()) for _ in range(5)]
    for _ in range(60):
        await settle()
        clock.advance(0.1)
    await asyncio.gather(*tasks)
    gaps = [later - earlier for earlier, later in pairwise(entered)]
    assert all(0.99 <= gap <= 1.2 for gap in gaps), gaps


async def test_who_waits_for_its_time_does_not_hold_up_the_others() -> None:
    clock = ManualClock()
    door = gate(clock, slots=2)
    queue = door.queue("m")
    later = asyncio.create_task(door.wait(queue, ONE, Scope(), at=10.0, first=True))
    await settle()
    assert door.enter_nowait(queue, ONE, HERE)
    assert not later.done()
    clock.advance(10.1)
    await later
    assert door.in_flight == 2


async def test_giving_up_while_waiting_frees_nothing_that_was_not_held() -> None:
    clock = ManualClock()
    door = gate(clock)
    queue = door.queue("m")
    assert door.enter_nowait(queue, ONE, HERE)
    waiting = asyncio.create_task(door.wait(queue, ONE, Scope()))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    door.leave(queue, HERE)
    assert door.statistics() == {"in_flight": 0, "free": 1, "ready": 0, "later": 0}


async def test_giving_up_in_the_moment_of_being_admitted_gives_slot_and_charge_back() -> None:
    clock = ManualClock()
    door = gate(clock, requests_per_minute=60)
    queue = door.queue("m")
    assert door.enter_nowait(queue, ONE, HERE)
    clock.advance(5)
    waiting = asyncio.create_task(door.wait(queue, ONE, Scope()))
    await settle()
    door.leave(queue, HERE)  # admits the waiter, which has not run yet
    assert door.in_flight == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert door.in_flight == 0
    assert [isinstance(door.enter_nowait(queue, ONE, HERE), Ticket) for _ in range(2)] == [True, False]


async def test_dismissing_a_scope_ends_its_waiters_and_nobody_elses() -> None:
    clock = ManualClock()
    door = gate(clock)
    queue, mine, other = door.queue("m"), Scope(), Scope()
    assert door.enter_nowait(queue, ONE, HERE)
    waits = [asyncio.create_task(door.wait(queue, ONE, scope)) for scope in (mine, other, mine)]
    late = asyncio.create_task(door.wait(queue, ONE, mine, at=99.0))
    await settle()
    reason = RunStopped("auth", "no")
    door.dismiss(mine, reason)
    ended = await asyncio.gather(waits[0], waits[2], late, return_exceptions=True)
    assert ended == [reason] * 3
    assert mine.stopped is reason
    door.leave(queue, HERE)
    await waits[1]


async def test_while_the_origin_is_down_one_probe_at_a_time_goes_out() -> None:
    clock = ManualClock()
    door = gate(clock, slots=10)
    queue = door.queue("m")
    for _ in range(5):
        door.breaker.failure(clock.now(), 0.5, connected=True)
    waits = [asyncio.create_task(door.wait(queue, ONE, Scope())) for _ in range(3)]
    await settle()
    assert door.in_flight == 0
    assert door.waiting_for().startswith("the provider to recover, next in ")
    clock.advance(2)
    await settle()
    assert door.in_flight == 1
    clock.advance(100)
    await settle()
    assert door.in_flight == 1
    door.breaker.answer()
    door.leave(queue, HERE)
    await settle()
    assert door.in_flight == 2
    await asyncio.gather(*waits)


async def test_a_free_slot_is_not_worth_telling_but_a_binding_budget_is() -> None:
    clock = ManualClock()
    door = gate(clock, slots=10, requests_per_minute=1)
    queue = door.queue("m")
    assert door.enter_nowait(queue, ONE, HERE)
    waiting = asyncio.create_task(door.wait(queue, ONE, Scope()))
    await settle()
    assert door.waiting_for().startswith("requests a minute, next in 60.")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
