"""The plain SDK: a hundred articles, and `gather` starts all of them at once."""

import asyncio
import os
import time

from openai import AsyncOpenAI, OpenAIError

MODEL = os.environ.get("MODEL", "gpt-5-mini")


async def generate_text(prompt: str, client: AsyncOpenAI) -> str:
    answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content


async def main() -> None:
    async with AsyncOpenAI() as client:
        began, summaries = time.perf_counter(), []
        articles = [f"Summarise article {number} in one sentence." for number in range(1, 101)]
        try:
            summaries = await asyncio.gather(*(generate_text(article, client) for article in articles))
        except OpenAIError as error:
            print(f"it ends with {type(error).__name__}")
        print(f"{len(summaries)} summaries in {time.perf_counter() - began:.1f} s")


asyncio.run(main())
