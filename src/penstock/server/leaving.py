"""Notices that a client has gone, and cancels what is under way for it, so that the provider stops generating.

A handler is never told by itself: it must listen. It listens only where an answer takes longer than a moment, because a task for
each request would cost more than the rest of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

LISTEN_AFTER = 0.05
"""Seconds; a client that leaves is noticed this much later at most, a quarter of what is promised."""


class WhileThere:
    """`async with WhileThere(receive) as client:` - leaves the block early, `client.gone` true, when the client goes.

    The body of the request must have been read before. A cancellation from elsewhere passes through.
    """

    __slots__ = ("_receive", "_task", "_timer", "_watcher", "gone")

    def __init__(self, receive: Callable[[], Awaitable[Any]]) -> None:
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self.gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(LISTEN_AFTER, self._listen)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if not self.gone:
            return False
        # Our own cancellation ends here; one from elsewhere that came with it goes on.
        return self._task.uncancel() == 0 and kind is asyncio.CancelledError

    def _listen(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.gone = True
        self._task.cancel()
