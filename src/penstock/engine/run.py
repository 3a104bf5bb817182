"""Many rows: source -> call -> ledger -> caller, bounded, resumable, cancellable.

A fixed number of workers draw rows as they become free: never a task for each row, never a list of all rows. A worker is
free again as soon as its answer is settled; a recorder writes all that waits in one go, and only then is a result shown.
Results that nobody has taken yet are bounded, so a slow disk or a slow consumer slows the run and does not grow it.
What is done for one row is the `Work` of the run: one request (`engine.single`), or a function (`engine.workflow`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import msgspec

from penstock.engine.call import Caller
from penstock.engine.recorder import Recorder
from penstock.engine.source import Draw
from penstock.errors import InputError, LedgerFailed, RequestError, RunStopped, request_error
from penstock.ports import Ledger
from penstock.records import Calls, Entry, RawRow, Result, Row, Usage
from penstock.rules.entries import NO_REQUEST, to_result
from penstock.rules.identity import ANSWERED, FAILED

T = TypeVar("T")
WAITING_PER_WORKER = 4


class Room:
    """How many rows may be drawn and not yet taken by the consumer; waiting for room is how back-pressure reaches the source."""

    def __init__(self, rows: int) -> None:
        self._free = rows
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take_nowait(self) -> bool:
        """True where there is room, and then it is taken."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def take(self) -> None:
        while not self.take_nowait():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def give(self) -> None:
        self._free += 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class Task(msgspec.Struct, frozen=True):
    """A row that is ready, and whatever its work needs besides."""

    row: Row
    matter: Any


class Work(Protocol):
    """What is done for one row."""

    def prepare(self, raw: RawRow) -> Task:
        """The row, ready. Raises `InputError` or `RequestError` where it can never be."""
        ...

    def digest(self, task: Task) -> bytes:
        """The identity of what it asks: by it an answer is found again."""
        ...

    async def carry_out(self, task: Task, recorder: Recorder | None) -> Result:
        """What becomes of it; raises `RunStopped` where the run ends before. What comes on the way is the `recorder`'s."""
        ...

    def close(self) -> None:
        """Whoever is cancelled from now on is cancelled because the run is closed."""
        ...


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made of.

    `look_up` asks the ledger about every row by content (otherwise the source skips what is recorded); `dedupe` sends rows
    of equal content once, `originals` says which rows stand for which content already.
    """

    caller: Caller
    work: Work
    workers: int
    ledger: Ledger | None = None
    look_up: bool = False
    retry_failed: bool = False
    ordered: bool = False
    dedupe: bool = False
    originals: dict[bytes, int] = {}


class Run:
    """One pass over the rows. Iterate `results()` once; it raises `RunStopped` after everything recorded has been shown."""

    def __init__(self, plan: Plan, rows: Iterator[RawRow] | AsyncIterator[RawRow]) -> None:
        self._plan = plan
        self._caller = plan.caller
        self._scope = plan.caller.scope
        self._needs_identity = plan.ledger is not None or plan.dedupe
        self._looks_first = plan.look_up or plan.dedupe
        self._draw = Draw(rows)
        self._room = Room(plan.workers * (1 + WAITING_PER_WORKER))
        self._tasks: set[asyncio.Task[None]] = set()
        self._certain: deque[Result] = deque()
        self._news: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._originals: dict[bytes, asyncio.Future[Result | None] | int] = dict(plan.originals)
        self._recorder: Recorder | None = None
        self.over = False
        """True once every row has been shown: nothing is left that could be stopped."""

    # -- the consumer's side

    async def results(self) -> AsyncGenerator[Result, None]:
        """Results as they become certain. Leaving early cancels what is under way and waits until it is gone."""
        if self._plan.ledger is not None:
            self._recorder = Recorder(self._plan.ledger, self._caller.account.clock.wall, self._recorded, self._fail)
        self._scope.when_away = self._call_in
        self._add_worker()
        try:
            if self._plan.ordered:
                async with aclosing(self._in_order()) as results:
                    async for result in results:
                        yield result
            else:
                while await self._some_certain():
                    while self._certain and self._failure is None:
                        yield self._certain.popleft()
                        self._room.give()
        finally:
            await self.aclose()
        if self._failure is not None:
            raise self._failure
        if self._scope.stopped is not None:
            raise self._scope.stopped
        self.over = True

    async def aclose(self) -> None:
        """Give up what is under way; what came back before is still recorded. Calling it twice does no harm.

        A cancellation meanwhile is let through once this is done: half closed, it would lose what came back.
        """
        await to_its_end(asyncio.create_task(self._close()))

    async def _close(self) -> None:
        if self._tasks:
            self._fail(RunStopped("closed", "the run was closed before its end: run it again to go on"))
        self._plan.work.close()
        await gone(self._tasks)
        if self._recorder is not None:
            await self._recorder.aclose()

    def stop(self, reason: RunStopped) -> None:
        """Send nothing more; what is under way may finish and is recorded. `results()` then raises `reason`."""
        self._draw.stop()
        self._caller.account.gate.dismiss(self._scope, reason)

    async def _in_order(self) -> AsyncGenerator[Result, None]:
        """Input order. With a ledger, what waits for its turn lies there; without one it keeps its room, so the source waits."""
        early: dict[int, Result | None] = {}
        turn = 0
        while await self._some_certain():
            result = self._certain.popleft()
            kept = self._plan.ledger is None or result.index == turn
            early[result.index] = result if kept else None
            if not kept:
                self._room.give()
            while turn in early:
                waited = early.pop(turn)
                yield waited or await self._read_again(turn)
                if waited is not None:
                    self._room.give()
                turn += 1

    async def _some_certain(self) -> bool:
        """True once there is a result to show, in the order of their ends; false when there will be no more."""
        while self._failure is None:
            if self._certain:
                return True
            if not (self._tasks or (self._recorder is not None and self._recorder.busy)):
                return False
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return False

    def _tell(self) -> None:
        """Something has happened: the consumer looks again."""
        if (news := self._news) is not None:
            self._news = None
            if not news.done():
                news.set_result(None)

    async def _read_again(self, index: int) -> Result:
        assert self._plan.ledger is not None
        entry = await self._plan.ledger.read(index)
        if entry is None:
            raise LedgerFailed(f"row {index} was recorded and cannot be read again: run the same command once more")
        return to_result(entry, self._caller.account.provider.revive)

    # -- the workers' side

    def _add_worker(self) -> None:
        task = asyncio.create_task(self._work())
        self._tasks.add(task)
        task.add_done_callback(self._worker_gone)

    def _call_in(self) -> None:
        """One more worker, if there is need: a row that waits to be tried again must not hold back the others."""
        if not self._draw.over and len(self._tasks) < self._plan.workers + self._scope.away:
            self._add_worker()

    def _worker_gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if error is self._scope.stopped:
                self._draw.stop()
            else:
                self._fail(error)
        self._tell()

    def _fail(self, error: BaseException) -> None:
        self._draw.stop()
        self._failure = self._failure or error
        self._tell()

    async def _work(self) -> None:
        """Rows, one after the other, until there are none or too many work. A worker's first row calls in the next worker."""
        room, draw, work, first = self._room, self._draw, self._plan.work, True
        while len(self._tasks) <= self._plan.workers + self._scope.away:
            if not room.take_nowait():
                await room.take()
            raw = await draw.in_turn() if draw.waits else draw.at_once()
            if raw is None:
                room.give()
                return
            if first:
                self._call_in()
                first = False
            try:
                task = work.prepare(raw)
            except (InputError, RequestError) as error:
                reason = request_error("input", str(error))
                self._finish(Result(raw.index, raw.index, error=reason), NO_REQUEST)
                continue
            try:
                # Before it is carried out: what a row holds may be changed by the function that it is given to.
                digest = work.digest(task) if self._needs_identity else NO_REQUEST
                if self._looks_first:
                    await self._unless_known(task, digest)
                else:
                    self._finish(await work.carry_out(task, self._recorder), digest)
            except asyncio.CancelledError:
                self._fail(RunStopped("closed", "a row was cancelled before its end: run it again to go on"))
                raise

    async def _unless_known(self, task: Task, digest: bytes) -> None:
        """Carry out a row whose answer neither the ledger nor another row has."""
        if self._plan.look_up and await self._known(task.row, digest):
            return
        if self._plan.dedupe:
            await self._once(task, digest)
        else:
            self._finish(await self._plan.work.carry_out(task, self._recorder), digest)

    async def _known(self, row: Row, digest: bytes) -> bool:
        """Show the recorded answer of a row, if there is one."""
        ledger = self._plan.ledger
        entry = await ledger.find(row.index, digest) if ledger is not None else None
        if entry is None or entry.state == FAILED or (entry.state != ANSWERED and self._plan.retry_failed):
            return False
        recorded = to_result(entry, self._caller.account.provider.revive)
        result = msgspec.structs.replace(recorded, id=row.id, columns=row.columns, batch=row.batch)
        if (recorded.id, recorded.columns, recorded.batch) == (row.id, row.columns, row.batch):
            self._show(result)
        else:
            self._finish(result, digest)
        return True

    async def _once(self, task: Task, digest: bytes) -> None:
        """Carry out the first row of its content; the others take its answer at no cost."""
        row = task.row
        original = self._originals.get(digest)
        if original is None:
            mine = self._originals[digest] = asyncio.get_running_loop().create_future()
            result = None
            try:
                result = await self._plan.work.carry_out(task, self._recorder)
            finally:
                if result is None:
                    del self._originals[digest]
                mine.set_result(result)
            self._finish(result, digest)
        elif (first := await self._answer_of(original)) is None:
            await self._once(task, digest)
        else:
            own = {"index": row.index, "id": row.id, "columns": row.columns, "batch": row.batch}
            free: dict[str, Any] = {"attempts": 0, "ambiguous": 0, "latency_s": 0.0, "cost": 0.0, "reused": True}
            if first.calls is not None:
                free["calls"] = Calls(usage=Usage())
            self._finish(msgspec.structs.replace(first, **own, **free), digest)

    async def _answer_of(self, original: asyncio.Future[Result | None] | int) -> Result | None:
        if isinstance(original, int):
            return await self._read_again(original)
        await asyncio.wait([original])  # not awaited itself: our cancellation must not be the original's
        return original.result()

    # -- recording

    def _finish(self, result: Result, digest: bytes) -> None:
        """A row is over; it is shown at once, or once it is recorded where there is a ledger."""
        if self._recorder is None:
            self._show(result)
        else:
            self._recorder.finish(result, digest)

    def _recorded(self, rows: list[tuple[Result, Entry]]) -> None:
        """These rows are on the disk."""
        for result, entry in rows:
            self._show(result)
            if self._plan.dedupe and result.ok:
                self._originals[entry.request] = result.index

    def _show(self, result: Result) -> None:
        self._caller.observer.finished(result)
        self._certain.append(result)
        if self._news is not None:
            self._tell()


async def to_its_end(work: asyncio.Future[T], undo: Callable[[T], None] | None = None) -> T:
    """The result of work that must not be left half done: a cancellation of the caller is let through once it is over.

    `undo` then gets the result that nobody waits for any more.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return work.result()
    failed = work.cancelled() or work.exception() is not None
    if undo is not None and not failed:
        undo(work.result())
    raise cancelled


async def gone(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they are over."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
