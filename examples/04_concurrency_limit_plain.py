"""The plain SDK: a semaphore of five knows nothing of requests a minute, so what it lets through depends on the latency."""

import asyncio
import os
import time

from openai import AsyncOpenAI

MODEL = os.environ.get("MODEL", "gpt-5-mini")


async def generate_text(prompt: str, client: AsyncOpenAI, room: asyncio.Semaphore) -> str:
    async with room:
        answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content


async def main() -> None:
    prompts = [f"Tell me a fact about the number {number}." for number in range(60)]
    async with AsyncOpenAI() as client:
        began, room = time.perf_counter(), asyncio.Semaphore(5)
        came = await asyncio.gather(*(generate_text(each, client, room) for each in prompts), return_exceptions=True)
        answers = sum(isinstance(each, str) for each in came)
        print(f"{answers} answers, {len(came) - answers} failed, in {time.perf_counter() - began:.1f} s")


asyncio.run(main())
