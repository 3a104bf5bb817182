"""LangChain's ChatOpenAI in `abatch`, with the rate limiter and the concurrency that its documentation names."""

from __future__ import annotations

from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import ChatOpenAI
from work import KEY, MODEL, Answers, Work, perform

CHECK_SECONDS = 0.1
BURST_REQUESTS = 10
"""Both are the values of the documentation's example."""


async def answer_all(work: Work) -> Answers:
    assert work.requests_per_minute is not None, "its limiter counts requests"
    limiter = InMemoryRateLimiter(
        requests_per_second=work.requests_per_minute / 60,
        check_every_n_seconds=CHECK_SECONDS,
        max_bucket_size=BURST_REQUESTS,
    )
    model = ChatOpenAI(model=MODEL, api_key=KEY, base_url=work.base_url, rate_limiter=limiter)
    answers = await model.abatch(work.prompts, {"max_concurrency": work.in_flight}, return_exceptions=True)
    return [answer if isinstance(answer, BaseException) else answer.text for answer in answers]


if __name__ == "__main__":
    perform(answer_all, "langchain-core", "langchain-openai", "openai")
