"""The one way into the server: every request is let in or turned away here, before a route is even looked for.

It also names each request, answers what nothing else did, and sends chat completions straight to the gateway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from penstock.server.attending import STOPPING
from penstock.server.gateway import ROUTE, Gateway
from penstock.server.logs import REQUEST_ID
from penstock.server.replies import Turned, closing, error_reply
from penstock.server.security import BODY_METHODS, OPEN_PATHS, UPLOAD_PATH, named_headers, new_request_id
from penstock.server.serving import Serving
from penstock.server.visit import Message, Receive, Scope, Send, Visit

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

FAILED = error_reply(
    500, "the server failed at this request; its log says why, under the request's id", code="internal"
)
_log = logging.getLogger("penstock.server")


def _template(scope: Scope) -> str:
    """The route that the framework has found, as it was declared; empty where it found none."""
    return getattr(scope.get("route"), "path", "")


class Door:
    """The ASGI application that uvicorn runs; `app` has every route but the hot one."""

    def __init__(self, app: App, serving: Serving) -> None:
        self._app, self._serving = app, serving
        self._gateway = Gateway(serving)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        visit = Visit(scope, receive, send, new_request_id())
        REQUEST_ID.set(visit.request_id)
        try:
            headers = named_headers(scope)
            visit.guest = self._serving.rules.admit(scope["method"], scope["path"], headers)
            visit.traceparent = headers.get(b"traceparent", b"").decode("latin-1")
        except Turned as turned:
            await self._turn_away(visit, turned)
            return
        try:
            if self._serving.draining and scope["method"] == "POST":
                await visit.answer(closing(STOPPING))
                return
            # Past the framework's routing and middleware, which cost more than all of our own work for a request.
            if scope["path"] == ROUTE and scope["method"] == "POST":
                await self._gateway(visit)
            else:
                await self._through_framework(visit)
        except Turned as turned:
            await visit.answer(turned.reply)
        except asyncio.CancelledError:
            if not visit.ended:
                raise  # the connection is closed, which is all that can still be told
        except Exception:
            _log.exception("a request failed")
            if visit.status and not visit.ended:
                raise  # the connection is closed, which is all that can still be told
            if not visit.status:
                await visit.answer(FAILED)
        finally:
            if not visit.accounted and scope["path"] not in OPEN_PATHS:
                self._account(visit)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The lifespan is the framework's; nothing else but HTTP is spoken."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def _turn_away(self, visit: Visit, turned: Turned) -> None:
        # The body is not read, so the connection cannot be used again.
        await visit.answer(closing(turned.reply))
        self._account(visit)

    def _account(self, visit: Visit) -> None:
        """Tell of a request that came to no model."""
        visit.route = visit.route or _template(visit.scope)
        self._serving.over(visit)

    async def _through_framework(self, visit: Visit) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", visit.request_id.encode())]
            visit.ended = message["type"] == "http.response.body" and not message.get("more_body")
            await visit.send(message)

        rules, scope = self._serving.rules, visit.scope
        if scope["method"] in BODY_METHODS and scope["path"] != UPLOAD_PATH:
            await visit.read_ahead(rules.most_body_bytes)
        visit.scope["penstock.visit"] = visit
        await self._app(visit.scope, visit.receive, send)
