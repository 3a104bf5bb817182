"""The OpenAI SDK as most people use it: `gather` under a semaphore; its pool is made as large as what may be in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
from contest import KEY, TIMEOUT_SECONDS, AnswerAll, Work, gathered, perform, request, text_of

try:
    from httpx2 import Limits
except ImportError:
    from httpx import Limits


@asynccontextmanager
async def opened(work: Work) -> AsyncIterator[AnswerAll]:
    limits = Limits(max_connections=work.in_flight, max_keepalive_connections=work.in_flight)
    http = openai.DefaultAsyncHttpxClient(limits=limits)
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=work.base_url, timeout=TIMEOUT_SECONDS, http_client=http
    ) as client:

        async def answer(prompt: str) -> str | None:
            completion = await client.chat.completions.create(**request(prompt, work.streams))
            return await text_of(completion) if work.streams else completion.choices[0].message.content

        yield gathered(answer, work.in_flight)


if __name__ == "__main__":
    perform(opened, "openai")
