"""What the server can do and how it is: the list of models, whether it lives, whether it takes requests, its metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.responses import Response as FrameworkResponse

from penstock.errors import RequestError
from penstock.server.models import Model
from penstock.server.replies import Reply, reply_to
from penstock.server.serving import Serving
from penstock.server.work import Documented, error_schema

ERRORS = error_schema(401, 421, 500)


class ModelCard(BaseModel):
    """A model, as the OpenAI API tells it."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All of them."""

    object: str = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """`ok`, or `stopping`."""

    status: str


def routes(serving: Serving, started: int) -> APIRouter:
    """`/v1/models`, `/healthz`, `/readyz`, `/metrics`; `started` is the Unix time that models are dated by."""
    router = APIRouter()

    def card(model: Model) -> ModelCard:
        return ModelCard(id=model.name, created=started, owned_by=model.client.provider.name)

    @router.get("/v1/models", responses=ERRORS, tags=["models"])
    async def list_models() -> ModelList:
        """The models that are served here."""
        return ModelList(data=[card(model) for model in serving.models])

    @router.get(
        "/v1/models/{name:path}", response_model=ModelCard, responses=ERRORS | error_schema(404), tags=["models"]
    )
    async def retrieve_model(name: str) -> Any:
        """One of them."""
        try:
            return card(serving.models.find(name))
        except RequestError as error:
            return sent(reply_to(error))

    @router.get("/healthz", tags=["health"])
    async def live() -> Health:
        """The process lives; needs no key."""
        return Health(status="ok")

    @router.get("/readyz", responses=ERRORS | {503: {"model": Health}}, tags=["health"])
    async def ready() -> Any:
        """Requests are taken."""
        if serving.draining:
            return JSONResponse({"status": "stopping"}, 503)
        return Health(status="ok")

    text: Documented = {200: {"description": "Prometheus metrics", "content": {"text/plain": {}}}}

    @router.get("/metrics", response_class=FrameworkResponse, responses=ERRORS | text, tags=["health"])
    async def metrics(request: Request) -> FrameworkResponse:
        """For Prometheus."""
        body, kind = serving.metrics.expose(request.headers.get("accept", ""))
        return FrameworkResponse(body, headers={"content-type": kind})

    return router


def sent(reply: Reply) -> FrameworkResponse:
    """A reply of ours as a framework's response."""
    headers = {name.decode(): value.decode("latin-1") for name, value in reply.headers}
    return FrameworkResponse(reply.body, reply.status, headers=headers)
