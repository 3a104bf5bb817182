"""Time and chance as they are. The engine gets them from here and from nowhere else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class SystemClock:
    """The `Clock` port over the running loop. `now` is `time.monotonic`: a loop's own time may move in ticks (uvloop)."""

    # As they are, not wrapped: each is asked several times a call.
    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    @staticmethod
    def random() -> float:
        # Asked for after a failure only.
        from random import random

        return random()

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, when - time.monotonic()), callback)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
