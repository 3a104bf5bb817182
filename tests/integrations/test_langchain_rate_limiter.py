"""The rate limiter for chat models of others: exact, in order, for threads and tasks alike."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest
from langchain_core.language_models import GenericFakeChatModel

from penstock.errors import UsageError
from penstock.integrations.langchain import PenstockRateLimiter, rate_limiter
from penstock.simulator.clock import run

RPM = 600
BURST = 6
"""0.6 seconds' worth of 10 a second."""


class HandClock:
    """`time` as the limiter sees it: whoever sleeps lets the time pass for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 100.0
        self.slept = 0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        with self._lock:
            self._now += seconds
            self.slept += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    clock = HandClock()
    monkeypatch.setattr(rate_limiter, "time", clock)
    return clock


def test_requests_go_at_the_pace_of_the_limit(clock: HandClock) -> None:
    """After the burst each waits for its turn, once, and no longer than that."""
    limiter = PenstockRateLimiter(requests_per_minute=RPM)
    times = []
    for _ in range(100):
        assert limiter.acquire()
        times.append(clock.monotonic() - 100.0)
    assert times[:BURST] == [0.0] * BURST
    assert times[-1] == pytest.approx((100 - BURST) / (RPM / 60))
    assert clock.slept == 100 - BURST


def test_no_minute_has_more_than_the_limit(clock: HandClock) -> None:
    """Whichever minute is looked at, however the requests come."""
    limiter = PenstockRateLimiter(requests_per_minute=60, share=0.5)
    times = []
    for _ in range(200):
        limiter.acquire()
        times.append(clock.monotonic())
    assert all(later - earlier > 60 for earlier, later in zip(times, times[30:], strict=False))


def test_who_does_not_wait_is_told(clock: HandClock) -> None:
    """Without blocking it is True or False at once, and a False costs nothing."""
    limiter = PenstockRateLimiter(requests_per_minute=RPM)
    assert [limiter.acquire(blocking=False) for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    clock.sleep(0.1001)
    assert limiter.acquire(blocking=False)
    assert not limiter.acquire(blocking=False)


def test_who_does_not_wait_overtakes_nobody(clock: HandClock) -> None:
    """While somebody stands in the line, the next free place is theirs."""
    limiter = PenstockRateLimiter(requests_per_minute=RPM)
    with limiter._place():
        assert not limiter.acquire(blocking=False)
    assert limiter.acquire(blocking=False)


def test_threads_share_one_limit(clock: HandClock) -> None:
    """Twenty threads together are no faster than one."""
    limiter = PenstockRateLimiter(requests_per_minute=RPM)
    threads = [threading.Thread(target=lambda: [limiter.acquire() for _ in range(10)], daemon=True) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert clock.monotonic() - 100.0 == pytest.approx((200 - BURST) / (RPM / 60))


def on_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limiter's time is that of the running loop."""
    monkeypatch.setattr(
        rate_limiter, "time", SimpleNamespace(monotonic=lambda: 100.0 + asyncio.get_running_loop().time())
    )


def test_tasks_are_served_in_order_and_nobody_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand wait: each goes at its exact time, in the order in which they came, and is woken twice at most."""
    on_virtual_time(monkeypatch)
    served: list[tuple[int, float]] = []
    sleeps = 0
    real_sleep = asyncio.sleep

    async def counted_sleep(seconds: float) -> None:
        nonlocal sleeps
        sleeps += 1
        await real_sleep(seconds)

    async def one(limiter: PenstockRateLimiter, index: int) -> None:
        await limiter.aacquire()
        served.append((index, asyncio.get_running_loop().time()))

    async def main() -> None:
        limiter = PenstockRateLimiter(requests_per_minute=RPM)
        await asyncio.gather(*(one(limiter, index) for index in range(1_000)))

    monkeypatch.setattr(rate_limiter.asyncio, "sleep", counted_sleep)
    run(main())
    assert [index for index, _ in served] == list(range(1_000))
    assert served[500][1] == pytest.approx((501 - BURST) / (RPM / 60), abs=0.5)
    assert served[-1][1] >= (1_000 - BURST) / (RPM / 60)
    assert sleeps <= 2_000


def test_who_gives_up_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled in the line or at its head, a task leaves it; the next goes when it would have gone without them."""
    on_virtual_time(monkeypatch)

    async def main() -> float:
        limiter = PenstockRateLimiter(requests_per_minute=60)
        assert await limiter.aacquire()
        waiting = [asyncio.create_task(limiter.aacquire()) for _ in range(50)]
        await asyncio.sleep(0.1)
        assert not await limiter.aacquire(blocking=False)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert await limiter.aacquire()
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(1.0)


def test_a_chat_model_of_others_waits_for_it(clock: HandClock) -> None:
    """It is what LangChain takes as `rate_limiter`."""
    model = GenericFakeChatModel(messages=iter(["a"] * 20), rate_limiter=PenstockRateLimiter(requests_per_minute=RPM))
    for _ in range(20):
        assert model.invoke("Hello").text == "a"
    assert clock.monotonic() - 100.0 == pytest.approx((20 - BURST) / (RPM / 60))


@pytest.mark.parametrize("wrong", [{"requests_per_minute": 0}, {"requests_per_minute": 60, "share": 1.5}])
def test_figures_that_cannot_be_right_are_refused(wrong: dict[str, float]) -> None:
    """At once, and by name."""
    with pytest.raises(UsageError, match=[*wrong][-1]):
        PenstockRateLimiter(**wrong)
