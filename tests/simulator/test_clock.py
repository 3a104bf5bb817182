"""The virtual loop: time jumps, order holds, runs replay, and a hang is an error."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.simulator.clock import EPOCH, DeadlockError, VirtualClock, VirtualLoop, run


def test_an_hour_passes_at_once_and_to_the_second() -> None:
    """Sleeping moves the virtual time by exactly what was asked."""

    async def main() -> tuple[float, float]:
        clock = VirtualClock()
        await clock.sleep(3600.0)
        return clock.now(), clock.wall()

    assert run(main()) == (3600.0, EPOCH + 3600.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
@settings(max_examples=50)
def test_timers_fire_at_their_time_and_in_order(delays: list[float]) -> None:
    """Each timer sees its own due time on the clock (to a nanosecond), the earlier ones first."""

    async def main() -> list[tuple[float, float]]:
        clock, fired = VirtualClock(), []
        for delay in delays:
            clock.call_at(delay, lambda due=delay: fired.append((due, clock.now())))
        await clock.sleep(max(delays) + 1)
        return fired

    fired = run(main())
    assert [due for due, _ in fired] == sorted(delays)
    assert all(abs(at - due) <= 1e-9 for due, at in fired)


def test_chance_replays_from_the_seed() -> None:
    """The same seed gives the same numbers; clocks of one run share them; another seed gives others."""

    async def main() -> list[float]:
        first, second = VirtualClock(), VirtualClock()
        return [first.random(), second.random(), first.random()]

    assert run(main(), seed=7) == run(main(), seed=7) != run(main(), seed=8)
    assert len(set(run(main(), seed=7))) == 3


def test_a_cancelled_timer_never_fires_nor_moves_time() -> None:
    """Time goes to live timers only."""

    async def main() -> float:
        clock = VirtualClock()
        clock.call_at(50.0, lambda: pytest.fail("cancelled")).cancel()
        await clock.sleep(1.0)
        return clock.now()

    assert run(main()) == 1.0


def test_timeouts_run_on_virtual_time() -> None:
    """asyncio's own time-outs use the loop's time, so they need no patching."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(120):
                await asyncio.Event().wait()
        return VirtualClock().now()

    assert run(main()) == 120.0


def test_a_hang_is_told_with_the_tasks_that_wait() -> None:
    """Nothing ready and no timer is an error that names each waiting task and where it waits."""
    cancelled = []

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        await asyncio.create_task(stuck(), name="the-stuck-one")

    with pytest.raises(DeadlockError, match=r"the-stuck-one in .*stuck, line \d+"):
        run(main())
    assert cancelled == [True]


def test_threads_and_sockets_are_refused() -> None:
    """What would wait for the outside raises instead of hanging."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="no threads"):
            await asyncio.to_thread(len, "x")
        with pytest.raises(RuntimeError, match="no threads"):
            await asyncio.open_connection("localhost", 1)

    run(main())


async def test_the_clock_refuses_another_loop() -> None:
    """Outside run() the virtual clock says where it belongs."""
    with pytest.raises(TypeError, match="inside simulator"):
        VirtualClock()


def test_the_loop_is_closed_and_errors_pass_through() -> None:
    """run() closes its loop also where main raises."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(main())
    assert isinstance(loops[0], VirtualLoop)
    assert loops[0].is_closed()
