"""The plain SDK: a client made for each call is a connection made for each call, and time spent on making clients."""

import asyncio
import os
import time

from openai import AsyncOpenAI

MODEL = os.environ.get("MODEL", "gpt-5-mini")


async def generate_text(prompt: str) -> str:
    async with AsyncOpenAI() as client:
        answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content


async def main() -> None:
    began = time.perf_counter()
    prompts = [f"Tell me a fact about the number {number}." for number in range(40)]
    facts = await asyncio.gather(*(generate_text(prompt) for prompt in prompts))
    print(f"{len(facts)} facts in {time.perf_counter() - began:.1f} s")


asyncio.run(main())
