"""`/v1/batches`: many requests to be answered within a day, over any model that is served, durably.

It makes batches, tells of them and starts their runners, all of them again when the server starts. What one batch does next is
its runner's matter. A batch belongs to the key that made it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response as FrameworkResponse

from penstock.edges.batches import Page, new_id
from penstock.ports import Clock
from penstock.rules.batches import BATCH_ID, PURPOSE, Batch, BatchRequest, Kept, invalid, new_batch, read_request
from penstock.server.batch_runner import BatchRunner, Workshop
from penstock.server.files import documented, find_file, not_found, owner_of, paged, told, unknown_cursor
from penstock.server.keeping import Keeping
from penstock.server.replies import Turned, error_reply
from penstock.server.serving import Serving
from penstock.server.visit import Visit
from penstock.server.work import Documented, error_schema

MOST_LISTED = 100
MOST_LIVE = 1_000
MOST_REQUEST_BYTES = 1 << 20
SWEEP_SECONDS = 300.0
ERRORS = error_schema(400, 401, 404, 421, 500, 507)
LOGGER = logging.getLogger("penstock.server")


class BatchList(msgspec.Struct, frozen=True):
    """A page of batches."""

    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class Batches:
    """All batches of one server, and the runners of those that have not ended."""

    def __init__(self, serving: Serving, keeping: Keeping, clock: Clock) -> None:
        self.keeping, self._clock = keeping, clock
        self._shop = Workshop(serving, keeping, clock)
        self._grace = serving.settings.server.grace
        self._live: dict[str, BatchRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._grace_ends: float | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take up what an earlier server left; at the end, let what is under way finish within the grace."""
        for kept in await self.keeping.do(self.keeping.store.live_batches):
            self._start(kept)
        sweeper = asyncio.create_task(self._sweep_for_ever())
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.wait([sweeper])
            await self._end()

    def drain(self) -> None:
        """Send nothing more."""
        self._shop.stopping = True
        self._grace_ends = self._clock.now() + self._grace
        for runner in self._live.values():
            runner.halt("stopping")

    def cancel(self) -> None:
        """Give up what is under way."""
        for runner in self._live.values():
            runner.give_up()

    async def _end(self) -> None:
        if self._grace_ends is None:
            self.drain()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, (self._grace_ends or 0.0) - self._clock.now()))
        self.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def statistics(self) -> Mapping[str, float]:
        """Rows of the batches that have not ended, by their state."""
        counts = [runner.batch.request_counts for runner in self._live.values()]
        completed, failed = sum(count.completed for count in counts), sum(count.failed for count in counts)
        left = sum(count.total for count in counts) - completed - failed
        return {"completed": completed, "failed": failed, "left": left}

    # -- what is asked

    async def create(self, owner: str, asked: BatchRequest) -> Batch:
        """A new batch, recorded. Raises `Turned` or `RequestError` for one that cannot be."""
        if len(self._live) >= MOST_LIVE:
            raise Turned(
                error_reply(429, f"{MOST_LIVE:,} batches are under way: wait for one", code="too_many_batches")
            )
        file = await find_file(self.keeping, owner, asked.input_file_id, "input_file_id")
        if file.purpose != PURPOSE:
            raise invalid(
                f"input_file_id: the purpose of that file is {file.purpose!r}, not {PURPOSE!r}", "input_file_id"
            )
        now = self.keeping.now
        kept = new_batch(new_id("batch_"), asked, now, owner)
        if not await self.keeping.answer(partial(self.keeping.store.add_batch, kept, now)):
            raise not_found("File", asked.input_file_id, "input_file_id")
        if not self._shop.stopping:
            self._start(kept)
        return kept.batch

    async def find(self, owner: str, batch_id: str) -> Batch:
        """A batch as it stands; raises `Turned` (404) where there is none, or it is another's."""
        if not BATCH_ID.fullmatch(batch_id):
            raise not_found("Batch", batch_id)
        if (runner := self._live.get(batch_id)) is not None and runner.owner == owner:
            return runner.batch
        kept = await self.keeping.answer(partial(self.keeping.store.batch, owner, batch_id))
        if kept is None:
            raise not_found("Batch", batch_id)
        return kept.batch

    async def page(self, owner: str, page: Page) -> list[Batch]:
        """Batches, the newest first, and one more where there are more. Raises KeyError for an unknown `after`."""
        found = await self.keeping.answer(partial(self.keeping.store.batches, owner, page))
        return [self._as_it_stands(kept) for kept in found]

    async def call_off(self, owner: str, batch_id: str) -> Batch:
        """Cancel a batch; raises `Turned` (409) where it has ended."""
        batch = await self.find(owner, batch_id)
        runner = self._live.get(batch_id)
        if runner is not None:
            if await runner.cancel():
                return runner.batch
            batch = runner.batch
        raise Turned(error_reply(409, f"Cannot cancel a batch with status '{batch.status}'."))

    def _as_it_stands(self, kept: Kept) -> Batch:
        runner = self._live.get(kept.batch.id)
        return kept.batch if runner is None else runner.batch

    # -- what goes on

    def _start(self, kept: Kept) -> None:
        runner = self._live[kept.batch.id] = BatchRunner(self._shop, kept)
        # Not in the context of whoever asked for it: its log lines are no part of that request.
        task = asyncio.create_task(self._carry(runner), name=kept.batch.id, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, runner: BatchRunner) -> None:
        try:
            await runner.to_its_end()
        finally:
            if not self._shop.stopping:
                del self._live[runner.batch.id]

    async def _sweep_for_ever(self) -> None:
        while True:
            due = asyncio.Event()
            timer = self._clock.call_at(self._clock.now() + SWEEP_SECONDS, due.set)
            try:
                await due.wait()
                await self.keeping.sweep()
            except Exception:
                LOGGER.exception("files that have expired could not be removed")
            finally:
                timer.cancel()


def routes(batches: Batches) -> APIRouter:
    """Create, retrieve, list, cancel."""
    router = APIRouter(tags=["batches"])
    schema = {"schema": {"$ref": "#/components/schemas/BatchRequest"}}
    body = {"requestBody": {"required": True, "content": {"application/json": schema}}}
    created: Documented = documented("Batch") | error_schema(400, 401, 404, 408, 413, 415, 421, 429, 500, 503, 507)
    cancelled: Documented = documented("Batch") | ERRORS | error_schema(409, 413, 415, 503)

    @router.post("/v1/batches", response_class=FrameworkResponse, responses=created, openapi_extra=body)
    async def create_batch(request: Request) -> FrameworkResponse:
        """Answer every line of an uploaded file, within 24 hours."""
        visit: Visit = request.scope["penstock.visit"]
        asked = read_request(await visit.body(MOST_REQUEST_BYTES))
        return told(await batches.create(visit.guest.key_name, asked))

    @router.get("/v1/batches", response_class=FrameworkResponse, responses=documented("BatchList") | ERRORS)
    async def list_batches(
        request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20
    ) -> FrameworkResponse:
        """Batches, the newest first."""
        try:
            found = await batches.page(owner_of(request), Page(limit, after))
        except KeyError as error:
            raise unknown_cursor() from error
        return told(BatchList(*paged(found, limit)))

    @router.get("/v1/batches/{batch_id}", response_class=FrameworkResponse, responses=documented("Batch") | ERRORS)
    async def retrieve_batch(batch_id: str, request: Request) -> FrameworkResponse:
        """How a batch stands; its counts are live."""
        return told(await batches.find(owner_of(request), batch_id))

    @router.post("/v1/batches/{batch_id}/cancel", response_class=FrameworkResponse, responses=cancelled)
    async def cancel_batch(batch_id: str, request: Request) -> FrameworkResponse:
        """End a batch before its time. What was answered until then is in its files."""
        return told(await batches.call_off(owner_of(request), batch_id))

    return router


def schemas() -> dict[str, Any]:
    """The objects of files and batches, for the OpenAPI document: in an answer every key is there."""
    from penstock.rules.batches import File, FileDeleted
    from penstock.server.files import FileList

    answers = (Batch, BatchList, File, FileDeleted, FileList)
    _, components = msgspec.json.schema_components(answers, ref_template="#/components/schemas/{name}")
    for component in components.values():
        component["required"] = list(component["properties"])
    _, asked = msgspec.json.schema_components((BatchRequest,), ref_template="#/components/schemas/{name}")
    return components | asked
