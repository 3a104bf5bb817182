"""The plain SDK: a hundred facts in groups of ten; the slowest of each ten holds up the next ten."""

import asyncio
import os
import time

from openai import AsyncOpenAI

MODEL = os.environ.get("MODEL", "gpt-5-mini")
waits = []


async def generate_text(prompt: str, client: AsyncOpenAI) -> str:
    began = time.perf_counter()
    answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}])
    waits.append(time.perf_counter() - began)
    return answer.choices[0].message.content


async def main() -> None:
    prompts = [f"Tell me a fact about the number {number}." for number in range(100)]
    async with AsyncOpenAI() as client:
        began, facts = time.perf_counter(), []
        for first in range(0, len(prompts), 10):
            group = prompts[first : first + 10]
            facts += await asyncio.gather(*(generate_text(prompt, client) for prompt in group))
    wall = time.perf_counter() - began
    print(f"{len(facts)} facts in {wall:.2f} s; ten lines without a gap would take {sum(waits) / 10:.2f} s")


asyncio.run(main())
