"""Penstock's `Client.map`, with the account's limits as far as they are told; how many go at once is its own affair."""

from __future__ import annotations

from work import KEY, MODEL, Answers, Work, perform

from penstock import Client, Limits


async def answer_all(work: Work) -> Answers:
    limits = Limits(requests_per_minute=work.requests_per_minute, tokens_per_minute=work.tokens_per_minute)
    async with Client(f"openai/{MODEL}", api_key=KEY, base_url=work.base_url, limits=limits) as client:
        return [
            result.response.text if result.response is not None else result.error
            async for result in client.map(work.prompts)
        ]


if __name__ == "__main__":
    perform(answer_all, "penstock")
