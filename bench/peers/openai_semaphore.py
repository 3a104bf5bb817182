"""The OpenAI SDK as most people use it: `gather` under a semaphore; its own two retries are what meets a throttle."""

from __future__ import annotations

import openai
from work import KEY, MODEL, Answers, Work, gathered, messages, perform


async def answer_all(work: Work) -> Answers:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=work.base_url) as client:

        async def answer(prompt: str) -> str | None:
            completion = await client.chat.completions.create(model=MODEL, messages=messages(prompt))
            return completion.choices[0].message.content

        return await gathered(answer, work)


if __name__ == "__main__":
    perform(answer_all, "openai")
