"""One answer, then several: each has a result of its own, so one that fails takes no other with it."""

from __future__ import annotations

import asyncio

from offline import provider

from penstock import Client, RequestError

QUESTIONS = [
    "Explain quantum computing in simple terms.",
    "[[simulate:content-filter]] A question that the provider refuses.",
    "Why is the sky blue?",
]


async def main() -> None:
    async with provider(latency=0.1) as there, Client(**there.options) as client:
        response = await client.generate(QUESTIONS[0], system="Answer in one sentence.", max_tokens=200)
        print(response.text)

        try:  # a single call raises
            await client.generate(QUESTIONS[1])
        except RequestError as error:
            print("no answer:", error.kind)

        for result in await client.gather(QUESTIONS):  # many never do: the error is a value on its row
            print(f"{result.index}:", result.text if result.ok else f"no answer, {result.error.kind}")


asyncio.run(main())
