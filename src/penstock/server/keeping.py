"""The store of files and batches as handlers use it: on a thread of its own, errors of the disk as what a client is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from penstock.edges.batches import BatchStore
from penstock.edges.ledger.lock import refuse_network_disk
from penstock.errors import RunStopped
from penstock.ports import Clock
from penstock.server.backlog import Worker
from penstock.server.replies import Turned, error_reply

T = TypeVar("T")

DISK_REFUSES = error_reply(
    507, "the server's disk does not take or give back files now: ask again later", code="insufficient_storage"
)


class Keeping:
    """`store` is there while it is open. `do` runs a job of the store's on its thread, in order."""

    def __init__(self, data: Path, clock: Clock) -> None:
        self._data, self._clock = data, clock
        self.store: BatchStore

    @property
    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock.wall())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Raises `UsageError` or `RunStopped` where the folder cannot be had."""
        self._worker = Worker("penstock-batches")
        try:
            self.store = await self._worker.do(self._opened)
        except BaseException:
            self._worker.stop(lambda: None)
            raise
        try:
            await self._worker.do(self.store.remove_strays)
            await self.sweep()
            yield
        finally:
            await self._worker.do(self.store.close)  # waited for: the next server may be at the door
            self._worker.stop(lambda: None)

    def _opened(self) -> BatchStore:
        store = BatchStore(self._data)
        try:
            refuse_network_disk(self._data)
        except BaseException:
            store.close()
            raise
        return store

    async def do(self, job: Callable[[], T]) -> T:
        """What the job returns; raises what it raises, and does it whether or not anybody waits for it to the end."""
        return await self._worker.do(job)

    async def answer(self, job: Callable[[], T]) -> T:
        """The same for a client: where the disk refuses, `Turned` is raised."""
        try:
            return await self._worker.do(job)
        except RunStopped as stopped:
            raise Turned(DISK_REFUSES) from stopped

    async def sweep(self) -> None:
        """Remove what has expired."""
        now = self.now
        await self._worker.do(lambda: self.store.sweep(now))


async def in_thread(job: Callable[[], T]) -> T:
    """What takes long and touches no record: contents in and out, an input's checks."""
    return await asyncio.get_running_loop().run_in_executor(None, job)
