"""The OpenAI SDK under a semaphore with tenacity around each call: random exponential waits, six attempts, as guides have it."""

from __future__ import annotations

import openai
import tenacity
from work import KEY, MODEL, Answers, Work, gathered, messages, perform

LONGEST_WAIT_SECONDS = 60
ATTEMPTS = 6


async def answer_all(work: Work) -> Answers:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=work.base_url) as client:

        @tenacity.retry(
            wait=tenacity.wait_random_exponential(min=1, max=LONGEST_WAIT_SECONDS),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
        )
        async def answer(prompt: str) -> str | None:
            completion = await client.chat.completions.create(model=MODEL, messages=messages(prompt))
            return completion.choices[0].message.content

        return await gathered(answer, work)


if __name__ == "__main__":
    perform(answer_all, "openai", "tenacity")
