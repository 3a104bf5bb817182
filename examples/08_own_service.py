"""A FastAPI application of your own: one Client for its whole life, so all callers share connections, limits and retries.

uvicorn 08_own_service:app --app-dir examples
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from penstock import Client, RequestError

log = logging.getLogger("uvicorn.error")


class Ask(BaseModel):
    prompt: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    model, base_url = os.environ.get("MODEL", "builtin/extractive"), os.environ.get("BASE_URL")
    async with Client(model, base_url=base_url, deadline=60) as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/generate")
async def generate(asked: Ask, request: Request, afterwards: BackgroundTasks) -> dict[str, str]:
    try:
        response = await request.app.state.client.generate(asked.prompt)
    except RequestError as error:
        raise HTTPException(502 if error.status is None else error.status, error.kind) from error
    afterwards.add_task(log.info, "prompt of %d characters, answer of %d", len(asked.prompt), len(response.text))
    return {"generated_text": response.text}


@app.post("/stream")
async def stream(asked: Ask, request: Request) -> StreamingResponse:
    async def texts() -> AsyncIterator[str]:
        # A caller who goes away ends this generator, which closes the provider's connection: nothing more is written for nobody.
        async with request.app.state.client.stream(asked.prompt) as chunks:
            async for chunk in chunks:
                yield chunk.text

    return StreamingResponse(texts(), media_type="text/plain")


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
