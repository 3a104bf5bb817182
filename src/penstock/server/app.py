"""Puts the server together: settings into models, rules and logs; routes behind the door; and their beginning and end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response as FrameworkResponse
from starlette.routing import Route

from penstock import __version__
from penstock.edges.clock import SystemClock
from penstock.errors import RequestError
from penstock.server import batches, catalogue, files, generate, openapi
from penstock.server.afterwards import Afterwards, make_private_folder
from penstock.server.batches import Batches
from penstock.server.catalogue import sent
from penstock.server.door import FAILED, Door
from penstock.server.gateway import ROUTE, Gateway
from penstock.server.keeping import Keeping
from penstock.server.metrics import Metrics, Sources
from penstock.server.models import Models
from penstock.server.replies import Turned, error_reply, reply_to
from penstock.server.security import Rules, keys_in
from penstock.server.serving import Serving
from penstock.server.settings import MIB, Settings

NOT_FOUND = 404


class Server:
    """A server that is checked and not yet open. `door` is the ASGI application; `serving` what its handlers share.

    Raises `UsageError` for settings that cannot be right, before anything is opened.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        settings.check()
        listening = settings.server
        rules = Rules(
            keys=keys_in(settings.keys, environ),
            hosts=settings.host_names,
            most_body_bytes=int(listening.max_body_mib * MIB),
            most_upload_bytes=int(listening.max_upload_mib * MIB),
        )
        self.data = Path(listening.data)
        models = Models(settings, environ)
        self._afterwards = Afterwards(listening, self.data)
        sources = Sources(
            models=models.statistics,
            request_log=self._afterwards.log_statistics,
            post_processing=self._afterwards.step_statistics,
            batch_rows=lambda: self.batches.statistics(),  # noqa: PLW0108  they come later: they need what counts
        )
        metrics = Metrics(models.names, sources)
        self.serving = Serving(settings, models, rules, metrics, self._afterwards.listeners)
        clock = SystemClock()
        self.keeping = Keeping(self.data, clock)
        self.batches = Batches(self.serving, self.keeping, clock)
        self.serving.background.append(self.batches)
        self.secrets = [environ[name] for name in settings.variables if name in environ]
        self.app = _application(self)
        self.door = Door(self.app, self.serving)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """From the first model to the last line of the log."""
        models = self.serving.models
        make_private_folder(self.data)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._afterwards.open())
            stack.push_async_callback(models.aclose)
            await models.open(self.serving.observer_of)
            await stack.enter_async_context(self.keeping.open())
            await stack.enter_async_context(self.batches.open())
            yield


def _application(server: Server) -> FastAPI:
    """Every route, in FastAPI, under one form of errors. The pages that load scripts from elsewhere are left out."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server.open():
            yield

    app = FastAPI(
        title="Penstock", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework_error)
    app.add_exception_handler(Turned, _turned)
    app.add_exception_handler(Exception, _failed)
    app.add_exception_handler(RequestError, _request_error)
    # The door sends this route past the framework; here it is so that whoever walks the routes sees it.
    app.router.routes.append(Route(ROUTE, _AsRoute(Gateway(server.serving)), methods=["POST"]))
    app.include_router(generate.routes(server.serving))
    app.include_router(files.routes(server.keeping, server.serving.rules.most_upload_bytes))
    app.include_router(batches.routes(server.batches))
    app.include_router(catalogue.routes(server.serving, int(time())))
    openapi.complete(app)
    return app


class _AsRoute:
    """The gateway as an ASGI application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002  the visit has both
        await self._gateway(scope["penstock.visit"])


async def _invalid(_: Request, error: Exception) -> FrameworkResponse:
    """What FastAPI found wrong with a request, in the one form of errors."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    return sent(error_reply(400, f"{place}: {first['msg']}" if place else str(first["msg"]), param=place or None))


async def _framework_error(request: Request, error: Exception) -> FrameworkResponse:
    assert isinstance(error, HTTPException)
    message, code = str(error.detail), None
    if error.status_code == NOT_FOUND:
        message = f"there is no {request.method} {request.url.path[:200]} here; /openapi.json tells what there is"
        code = "unknown_url"
    response = sent(error_reply(error.status_code, message, code=code))
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> FrameworkResponse:
    return sent(FAILED)


async def _turned(_: Request, error: Exception) -> FrameworkResponse:
    assert isinstance(error, Turned)
    return sent(error.reply)


async def _request_error(_: Request, error: Exception) -> FrameworkResponse:
    assert isinstance(error, RequestError)
    return sent(reply_to(error))
