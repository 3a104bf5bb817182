"""The plain SDK with tenacity: everything is retried, also what can never work, and a failure ends up among the answers."""

import asyncio
import os
import time

from openai import AsyncOpenAI
from tenacity import RetryError, retry, stop_after_attempt, wait_exponential

MODEL = os.environ.get("MODEL", "gpt-5-mini")
PROMPTS = [f"Tell me a fact about the number {number}." for number in range(50)]
PROMPTS[10] = "[[simulate:500*2]] A server error, twice; then it is well again."
PROMPTS[20] = "[[simulate:429*2]] Throttled twice, each time with the wait that would be enough."
PROMPTS[30] = "[[simulate:too-long]] A prompt that does not fit the model."
PROMPTS[40] = "[[simulate:400]] A request that the provider will never take."


class APIError(Exception):
    """Whatever went wrong."""


@retry(stop=stop_after_attempt(3), wait=wait_exponential(multiplier=1, min=4, max=10))
async def generate_with_retry(prompt: str, client: AsyncOpenAI) -> str:
    try:
        answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}])
    except Exception as error:
        raise APIError(str(error)) from error
    return answer.choices[0].message.content


async def generate_text(prompt: str, client: AsyncOpenAI) -> str:
    try:
        return await generate_with_retry(prompt, client)
    except RetryError:
        return "No text after three attempts."


async def main() -> None:
    async with AsyncOpenAI(max_retries=0) as client:
        began = time.perf_counter()
        answers = await asyncio.gather(*(generate_text(prompt, client) for prompt in PROMPTS))
        print(f"{len(answers)} of {len(PROMPTS)} answered in {time.perf_counter() - began:.1f} s")
        print(f"answers that are none: {sum(answer.startswith('No text') for answer in answers)}")


asyncio.run(main())
