"""One batch on its way, from its input to its files: `rules.batches.LIFE` says what follows, here it is done.

Its rows go through the client of its model like any other request, in the lane `batch`; the ledger keeps what came back. What
dooms a run dooms no batch: it is told in `errors` and tried again every minute until the window is over. A restart goes on
where the records stand. It sends nothing by itself and decides no state.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from penstock.client import Client
from penstock.edges.batches import New
from penstock.edges.ledger import LedgerFile
from penstock.engine.run import Run, to_its_end
from penstock.errors import InputError, PenstockError, RequestError, RunStopped
from penstock.ports import Clock
from penstock.records import Result
from penstock.rules.asking import Asking
from penstock.rules.batch_lines import InputCheck, Reason
from penstock.rules.batches import (
    ENDED,
    ENDPOINT,
    LIFE,
    Batch,
    BatchError,
    BatchErrors,
    Event,
    Kept,
    RequestCounts,
    Status,
)
from penstock.server.batch_files import Papers, Written, check_input, open_ledger, rows_to_send, write_files
from penstock.server.keeping import Keeping, in_thread
from penstock.server.models import Model
from penstock.server.serving import Serving
from penstock.server.settings import MIB

AGAIN_SECONDS = 60.0
"""After what stopped a batch, until it is tried again."""

SAVE_SECONDS = 5.0
"""How old the counts of rows may be on the disk; the ledger knows them better, and is asked at a restart."""

MOST_AT_ONCE = 4
"""Batches of one model that send at the same time. Each has a thousand rows in hand; more would only hold more memory."""

CANCELLED, EXPIRED = "cancelled", "expired"
NOT_SERVED = "model_not_served"
_REASONS: dict[str, Reason] = {"cancelling": "batch_cancelled", "in_progress": "batch_expired"}
LOGGER = logging.getLogger("penstock.server")


class Workshop:
    """What all batches share."""

    def __init__(self, serving: Serving, keeping: Keeping, clock: Clock) -> None:
        self.serving, self.keeping, self.clock = serving, keeping, clock
        self.turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(MOST_AT_ONCE))
        self.checks = asyncio.Semaphore(1)
        self.stopping = False

    @property
    def most_line_bytes(self) -> int:
        """How long a line of an input may be: as long as a request that comes by itself."""
        return int(self.serving.settings.server.max_body_mib * MIB)


class BatchRunner:
    """Carries one batch to its end. `batch` is how it stands, with live counts."""

    def __init__(self, shop: Workshop, kept: Kept) -> None:
        self._shop, self._kept = shop, kept
        self._saving = asyncio.Lock()
        self._counts = kept.batch.request_counts
        self._saved_at = shop.clock.now()
        self._run: Run | None = None
        self._work: asyncio.Task[None] | None = None
        self._halted: RunStopped | None = None
        self._rows_are_over = False
        self._wake = asyncio.Event()

    @property
    def batch(self) -> Batch:
        """As it is told."""
        return msgspec.structs.replace(self._kept.batch, request_counts=self._counts)

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self._kept.owner

    # -- from outside

    async def to_its_end(self) -> None:
        """Go on until it has ended, or the server stops."""
        while self.batch.status not in ENDED and not self._shop.stopping:
            self._halted = None
            try:
                await _STEPS[self.batch.status](self)
            except (PenstockError, OSError) as error:
                await self._wait_after(error)
            except Exception as error:
                LOGGER.exception("batch %s failed", self.batch.id)
                await self._wait_after(error)

    async def cancel(self) -> bool:
        """End it before its time; false where it has ended already."""
        if self.batch.status != "cancelling":
            if not await self._move("cancel"):
                return False
            self.halt(CANCELLED)
        return True

    def halt(self, reason: str) -> None:
        """Send nothing more; what is under way may finish within the grace."""
        self._halted = self._halted or RunStopped(reason, f"the batch was halted: {reason}")
        self._wake.set()
        if self._run is None:
            self.give_up()
        else:
            self._run.stop(self._halted)
            clock, grace = self._shop.clock, self._shop.serving.settings.server.grace
            clock.call_at(clock.now() + grace, self.give_up)

    def give_up(self) -> None:
        """Give up what is under way."""
        self._wake.set()
        if self._work is not None:
            self._work.cancel()

    # -- the steps

    async def validate(self) -> None:
        """Is the input good?"""
        await self._while_not_halted(self._check_input())

    async def _check_input(self) -> None:
        shop, store = self._shop, self._shop.keeping.store
        names = {name: model.name for model in shop.serving.models for name in (model.name, *model.aliases)}
        check = InputCheck(ENDPOINT, names.get, shop.serving.settings.server.max_batch_lines)
        path = store.content_path(self.batch.input_file_id)
        async with shop.checks:
            try:
                await in_thread(
                    partial(check_input, path, check, shop.most_line_bytes, lambda: self._halted is not None)
                )
            except (InputError, FileNotFoundError) as error:
                check.errors.append(BatchError("invalid_file", f"the input cannot be read: {error}"))
        if self._halted is not None:
            return
        if check.errors:
            await self._move("bad input", errors=BatchErrors(check.errors))
            return
        client = shop.serving.models.find(check.model).client
        served_by = {"provider": client.provider.name, "upstream": client.model}
        await self._move("good input", counts=RequestCounts(check.rows), served_by=served_by, model=check.model)

    async def carry_on(self) -> None:
        """Rows, until all are over or the window is."""
        if not self._window_is_over:
            await self._send_rows()
        if self.batch.status != "in_progress" or self._shop.stopping:
            return
        if self._rows_are_over:
            await self._move("every row over", errors=None)
        elif self._window_is_over:
            await self._write("window over")

    async def finalize(self) -> None:
        """Every row is over: the files."""
        if not self._rows_are_over:
            # After a restart, or where a recorded row turned out damaged: nothing is sent if all are there.
            await self._send_rows()
        if self.batch.status == "finalizing" and not self._shop.stopping:
            self._rows_are_over = False
            await self._write("files written")

    async def wind_up(self) -> None:
        """It was cancelled: the files of what there is."""
        await self._write("files written")

    # -- sending

    @property
    def _window_is_over(self) -> bool:
        return self._shop.clock.wall() >= self.batch.expires_at

    async def _send_rows(self) -> None:
        clock = self._shop.clock
        left = self.batch.expires_at - clock.wall()
        window = clock.call_at(clock.now() + left, lambda: self.halt(EXPIRED)) if left > 0 else None
        try:
            await self._while_not_halted(self._send(self._model()))
        finally:
            if window is not None:
                window.cancel()

    async def _while_not_halted(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; returns as soon as it is over, halted or given up. Raises what else ends it."""
        self._work = task = asyncio.create_task(work)
        try:
            await asyncio.wait([task])
        finally:
            self._work = None
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and error is not self._halted:
            raise error

    async def _send(self, model: Model) -> None:
        """Every row of which nothing is recorded, once it is this batch's turn."""
        async with self._shop.turns[model.name]:
            store = await self._ledger()
            try:
                recorded = store.recorded
                self._counts = RequestCounts(self._counts.total, recorded.ok, recorded.failed)
                await self._send_all(model, store)
            finally:
                await store.aclose()
                await self._save()

    async def _ledger(self) -> LedgerFile:
        path = self._shop.keeping.store.ledger_path(self.batch.id)
        job = partial(open_ledger, path, self._kept.provider, self._kept.upstream)
        opening = asyncio.get_running_loop().run_in_executor(None, job)
        return await to_its_end(opening, undo=LedgerFile.close)

    async def _send_all(self, model: Model, store: LedgerFile) -> None:
        shop, client = self._shop, model.client
        rows = rows_to_send(shop.keeping.store.content_path(self.batch.input_file_id), store, shop.most_line_bytes)
        self._run = run = await self._started(client, model, rows, store)
        try:
            async with aclosing(run.results()) as results:
                async for result in results:
                    await self._count(model, result)
            self._rows_are_over = True
        finally:
            self._run = None

    async def _started(self, client: Client, model: Model, rows: Any, store: LedgerFile) -> Run:
        serving = self._shop.serving
        scope = client.scope(serving.models.lanes["batch"], None, store)
        return await client.start(rows, Asking(), serving.observer_of(model.name), scope, ledger=store)

    async def _count(self, model: Model, result: Result) -> None:
        counts = self._counts
        self._counts = RequestCounts(counts.total, counts.completed + result.ok, counts.failed + (not result.ok))
        self._shop.serving.row_over(model, "/v1/batches", result)
        if self._kept.batch.errors is not None:
            await self._save(errors=None)
        elif self._shop.clock.now() >= self._saved_at + SAVE_SECONDS:
            await self._save()

    def _model(self) -> Model:
        """Who answers; raises `RunStopped` where that is not what it was when the input was checked."""
        try:
            model = self._shop.serving.models.find(self.batch.model)
        except RequestError as error:
            raise RunStopped(NOT_SERVED, error.message) from error
        if (model.client.provider.name, model.client.model) != (self._kept.provider, self._kept.upstream):
            raise RunStopped(
                NOT_SERVED,
                f"the model {model.name!r} is {model.client.provider.name}/{model.client.model} now, and the batch began with "
                f"{self._kept.provider}/{self._kept.upstream}: serve that one under this name again, or cancel the batch",
            )
        return model

    # -- the end

    async def _write(self, event: Event) -> None:
        batch, kept, shop = self.batch, self._kept, self._shop
        store, now = shop.keeping.store, shop.keeping.now
        papers = Papers(
            input=store.content_path(batch.input_file_id),
            ledger=store.ledger_path(batch.id),
            provider=kept.provider,
            rows=batch.request_counts.total,
            reason=_REASONS.get(batch.status),
            batch_id=batch.id,
            now=now,
            expires_at=now + kept.output_seconds,
        )
        written = await in_thread(partial(write_files, papers, store.new_content))
        changes = _results(written)
        if event == "files written":
            changes["errors"] = None  # else they tell why it could not be done in time
        counts = RequestCounts(papers.rows, written.completed, written.failed)
        moved = False
        try:
            moved = await self._move(event, written.files, counts=counts, **changes)
        finally:
            if not moved:
                await in_thread(written.discard)
        if moved:
            LOGGER.info("batch %s %s: %s", batch.id, self.batch.status, _account(counts))

    # -- records

    async def _move(
        self,
        event: Event,
        files: Sequence[New] = (),
        *,
        counts: RequestCounts | None = None,
        served_by: dict[str, str] | None = None,
        **changes: Any,
    ) -> bool:
        """What follows from an event, recorded before it is told; false where a cancellation came before it."""
        async with self._saving:
            if event not in LIFE[self._kept.batch.status]:
                return False
            moved = self._kept.moved(event, self._shop.keeping.now, **changes)
            await self._keep(msgspec.structs.replace(moved, **(served_by or {})), files, counts)
            return True

    async def _save(self, **changes: Any) -> None:
        async with self._saving:
            await self._keep(self._kept.changed(**changes))

    async def _keep(self, kept: Kept, files: Sequence[New] = (), counts: RequestCounts | None = None) -> None:
        kept = kept.changed(request_counts=counts or self._counts)
        self._saved_at = self._shop.clock.now()
        await self._shop.keeping.do(lambda: self._shop.keeping.store.save_batch(kept, files))
        self._kept, self._counts = kept, counts or self._counts

    # -- trouble

    async def _wait_after(self, error: Exception) -> None:
        """Tell what is wrong, and wait a while."""
        LOGGER.warning("batch %s is held up: %s", self.batch.id, error)
        try:
            await self._save(errors=BatchErrors([_trouble(error)]))
        except (PenstockError, OSError):
            LOGGER.exception("batch %s: its state cannot be recorded", self.batch.id)
        clock = self._shop.clock
        self._wake.clear()
        timers = [clock.call_at(clock.now() + AGAIN_SECONDS, self._wake.set)]
        if (left := self.batch.expires_at - clock.wall()) > 0:
            timers.append(clock.call_at(clock.now() + left, self._wake.set))
        if self._halted is None and not self._shop.stopping:
            await self._wake.wait()
        for timer in timers:
            timer.cancel()


def _results(written: Written) -> dict[str, Any]:
    output, errors = written.output, written.errors
    return {
        "output_file_id": output[0].id if output is not None else None,
        "error_file_id": errors[0].id if errors is not None else None,
        "usage": written.usage,
    }


def _account(counts: RequestCounts) -> str:
    left = counts.total - counts.completed - counts.failed
    return f"{counts.total:,} rows = {counts.completed:,} completed + {counts.failed:,} failed + {left:,} left"


def _trouble(error: Exception) -> BatchError:
    """What a client is told; what names files of the server's is for its log."""
    if isinstance(error, RunStopped) and error.reason != "disk":
        code, said = error.reason, str(error)
    elif isinstance(error, OSError | PenstockError):
        code, said = "disk", "the server's disk does not take or give back what the batch needs"
    else:
        code, said = "internal", "the server failed at this batch; its log says why"
    return BatchError(code, f"{said}. It is tried again every minute until the batch expires.")


_STEPS: dict[Status, Callable[[BatchRunner], Coroutine[Any, Any, None]]] = {
    "validating": BatchRunner.validate,
    "in_progress": BatchRunner.carry_on,
    "finalizing": BatchRunner.finalize,
    "cancelling": BatchRunner.wind_up,
}
