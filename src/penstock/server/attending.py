"""One request from its body to its account: its work is watched for a client that goes, and answered however it ends.

Every handler that asks a model goes through here, in front of the framework and behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from penstock.errors import PenstockError, RequestError, RunStopped, UsageError
from penstock.server.exchange import CALLER_LEFT
from penstock.server.leaving import WhileThere
from penstock.server.replies import Reply, Turned, error_reply, reply_to
from penstock.server.serving import Serving
from penstock.server.visit import Visit

Work: TypeAlias = Callable[[Visit], Awaitable[None]]
Read: TypeAlias = Callable[[Visit], Awaitable[Work]]
"""Takes the body of a request and tells what is to be done for it."""

STOPPING = error_reply(503, "the server is stopping: ask again in a moment", code="stopping")


async def attend(serving: Serving, visit: Visit, read: Read) -> None:
    """Answer one request, and account for it. A defect passes through, for the door to answer and account for."""
    client = WhileThere(visit.receive)
    try:
        work = await read(visit)
        async with client:
            await work(visit)
    except Turned as turned:
        await visit.answer(turned.reply)
    except PenstockError as error:
        if isinstance(error, RequestError):
            visit.outcome.error = error
        if visit.status:
            raise
        await visit.answer(reply_of(error, visit.outcome.sends))
    except asyncio.CancelledError:
        # The server stops and its grace is over.
        if not visit.status:
            await visit.answer(STOPPING)
        elif not visit.ended and visit.farewell:
            await visit.end(visit.farewell)
        raise
    finally:
        if client.gone:
            visit.status = CALLER_LEFT
        if visit.status:
            serving.over(visit)


def reply_of(error: PenstockError, sends: int = 0) -> Reply:
    """The reply that any of our errors makes."""
    if isinstance(error, RequestError):
        return reply_to(error, sends=sends)
    if isinstance(error, UsageError):
        return error_reply(400, str(error))
    return error_reply(503, str(error), code=error.reason if isinstance(error, RunStopped) else "unavailable")
