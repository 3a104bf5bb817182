"""LangChain's ChatOpenAI: `abatch` with its `max_concurrency`; streams by `astream`, gathered under a semaphore."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from contest import KEY, MODEL, TIMEOUT_SECONDS, AnswerAll, Work, gathered, perform
from langchain_openai import ChatOpenAI


@asynccontextmanager
async def opened(work: Work) -> AsyncIterator[AnswerAll]:
    model = ChatOpenAI(
        model=MODEL, api_key=KEY, base_url=work.base_url, timeout=TIMEOUT_SECONDS, stream_usage=work.streams
    )

    async def answer_all(asked: Iterable[str]) -> int:
        answers = await model.abatch(list(asked), {"max_concurrency": work.in_flight})
        return sum(bool(answer.text) for answer in answers)

    async def stream(prompt: str) -> str:
        return "".join([chunk.text async for chunk in model.astream(prompt)])

    yield gathered(stream, work.in_flight) if work.streams else answer_all


if __name__ == "__main__":
    perform(opened, "langchain-core", "langchain-openai", "openai")
