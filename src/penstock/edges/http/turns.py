"""How many connections are begun in one turn of the event loop. It bounds what a turn does, never how many are under way:
a host that does not answer holds nobody else back.
"""

from __future__ import annotations

import asyncio
from collections import deque

# With the steps that follow, one connection costs 0.2 to 0.4 ms; thousands at once would stop the loop for seconds.
BEGUN_IN_ONE_TURN = 32


class Turns:
    """Lets `BEGUN_IN_ONE_TURN` go on at once, and as many again in each turn that follows, in the order they came."""

    def __init__(self) -> None:
        self._left = BEGUN_IN_ONE_TURN
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn. Whoever is cancelled meanwhile leaves the line."""
        loop = asyncio.get_running_loop()
        if self._left == BEGUN_IN_ONE_TURN:
            loop.call_soon(self._next, loop)
        if self._left:
            self._left -= 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """A new turn: those who wait go first."""
        self._left = BEGUN_IN_ONE_TURN
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._left < BEGUN_IN_ONE_TURN:
            loop.call_soon(self._next, loop)
