"""A framework's route hands its work over here.

FastAPI reads and checks the request and writes it into the OpenAPI document. What follows (when the status is decided, when a
stream begins, that it is closed) must be in one place, which its own responses are not.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from starlette.responses import Response as FrameworkResponse

from penstock.server.attending import Work, attend
from penstock.server.models import Model
from penstock.server.serving import Serving
from penstock.server.visit import Receive, Scope, Send, Visit

Documented: TypeAlias = dict[int | str, dict[str, Any]]
"""Responses of a route, for the OpenAPI document."""


class Working(FrameworkResponse):
    """The response of a route whose answer is written by its work."""

    def __init__(self, serving: Serving, route: str, model: Model, work: Work) -> None:
        super().__init__()
        self._serving, self._route, self._model, self._work = serving, route, model, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  the visit has both
        visit: Visit = scope["penstock.visit"]
        visit.route, visit.model = self._route, self._model
        await attend(self._serving, visit, self._read)

    async def _read(self, _: Visit) -> Work:
        return self._work


def error_schema(*statuses: int) -> Documented:
    """The errors of a route, for the OpenAPI document."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": "An error", "content": content} for status in statuses}


def provider_errors() -> Documented:
    """An error of the provider comes under its own status, whatever that is."""
    (told,) = error_schema(500).values()
    return {"default": {**told, "description": "An error of the provider, under its own status"}}
