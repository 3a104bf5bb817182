"""The HTTP client that the OpenAI SDK is built on, used directly: `httpx2`, in older environments `httpx`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contest import KEY, TIMEOUT_SECONDS, AnswerAll, Work, gathered, perform, request

try:
    import httpx2 as httpx
except ImportError:
    import httpx


@asynccontextmanager
async def opened(work: Work) -> AsyncIterator[AnswerAll]:
    limits = httpx.Limits(max_connections=work.in_flight, max_keepalive_connections=work.in_flight)
    headers, url = {"Authorization": f"Bearer {KEY}"}, f"{work.base_url}/chat/completions"
    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT_SECONDS, headers=headers) as client:

        async def whole(prompt: str) -> str | None:
            response = await client.post(url, json=request(prompt))
            return response.raise_for_status().json()["choices"][0]["message"]["content"]

        async def streamed(prompt: str) -> str:
            async with client.stream("POST", url, json=request(prompt, streams=True)) as response:
                data = [line[6:] async for line in response.aiter_lines() if line.startswith("data: ")]
            assert data.pop() == "[DONE]"
            choices = [choice for piece in data for choice in json.loads(piece)["choices"]]
            return "".join([choice["delta"].get("content") or "" for choice in choices])

        yield gathered(streamed if work.streams else whole, work.in_flight)


if __name__ == "__main__":
    perform(opened, httpx.__name__)
