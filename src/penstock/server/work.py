"""A framework's route hands its work over here: it runs with the client watched, so that nobody is paid for who has gone.

FastAPI reads and checks the request and writes it into the OpenAPI document. What follows (when the status is decided, when a
stream begins, that it is closed) must be in one place, which its own responses are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.responses import Response as FrameworkResponse

from penstock.engine.call import Outcome
from penstock.errors import PenstockError, RequestError, RunStopped, UsageError
from penstock.server.exchange import CALLER_LEFT, Exchange
from penstock.server.gateway import STOPPING, exchange_of, sends_of
from penstock.server.leaving import WhileThere
from penstock.server.models import Model
from penstock.server.replies import Reply, Turned, error_reply, reply_to
from penstock.server.serving import Serving
from penstock.server.visit import Receive, Scope, Send, Visit


class Job:
    """One piece of work: the visit it is for, and what it came to, filled in as it goes."""

    def __init__(self, serving: Serving, visit: Visit, route: str, model: Model | None = None) -> None:
        self.serving, self.visit, self.route, self.model = serving, visit, route, model
        self.outcome = Outcome()
        self.streamed = False

    @property
    def exchange(self) -> Exchange:
        """The account of it."""
        content = self.serving.keeps_content
        return exchange_of(self.visit, self.route, self.model, self.outcome, streamed=self.streamed, content=content)


Documented: TypeAlias = dict[int | str, dict[str, Any]]
"""Responses of a route, for the OpenAPI document."""

Work: TypeAlias = Callable[[Job], Awaitable[None]]


class Working(FrameworkResponse):
    """The response of a route whose answer is written by its work."""

    def __init__(self, serving: Serving, route: str, model: Model | None, work: Work) -> None:
        super().__init__()
        self._serving, self._route, self._model, self._work = serving, route, model, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  the visit has both
        visit: Visit = scope["penstock.visit"]
        job, client = Job(self._serving, visit, self._route, self._model), WhileThere(visit.receive)
        try:
            async with client:
                await self._work(job)
        except Turned as turned:
            await visit.answer(turned.reply)
        except PenstockError as error:
            await self._fail(job, error)
        except asyncio.CancelledError:
            if not visit.status:
                await visit.answer(STOPPING)
            raise
        finally:
            if client.gone:
                visit.status = CALLER_LEFT
            if visit.status:  # else it is a defect, which the door accounts for
                visit.accounted = True
                self._serving.over(job.exchange)

    async def _fail(self, job: Job, error: PenstockError) -> None:
        if isinstance(error, RequestError):
            job.outcome.error = error
        if job.visit.status:
            raise error
        await job.visit.answer(reply_of(error, sends_of(job.outcome)))


def reply_of(error: PenstockError, sends: int = 0) -> Reply:
    """The reply that any of our errors makes."""
    if isinstance(error, RequestError):
        return reply_to(error, sends=sends)
    if isinstance(error, UsageError):
        return error_reply(400, str(error))
    return error_reply(503, str(error), code=error.reason if isinstance(error, RunStopped) else "unavailable")


def error_schema(*statuses: int) -> Documented:
    """The errors of a route, for the OpenAPI document."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": "An error", "content": content} for status in statuses}


def provider_errors() -> Documented:
    """An error of the provider comes under its own status, whatever that is."""
    (told,) = error_schema(500).values()
    return {"default": {**told, "description": "An error of the provider, under its own status"}}
