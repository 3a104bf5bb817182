"""LiteLLM's `acompletion`, `gather` under a semaphore."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import litellm
from contest import KEY, MODEL, TIMEOUT_SECONDS, AnswerAll, Work, gathered, perform, request, text_of


@asynccontextmanager
async def opened(work: Work) -> AsyncIterator[AnswerAll]:
    where = {"model": f"openai/{MODEL}", "api_base": work.base_url, "api_key": KEY, "timeout": TIMEOUT_SECONDS}

    async def answer(prompt: str) -> str | None:
        completion = await litellm.acompletion(**request(prompt, work.streams) | where)
        return await text_of(completion) if work.streams else completion.choices[0].message.content

    yield gathered(answer, work.in_flight)


if __name__ == "__main__":
    perform(opened, "litellm", "openai")
