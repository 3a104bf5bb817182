"""The plain SDK: one question of three is refused, and the answers to the others are lost with it."""

import asyncio
import os

from openai import AsyncOpenAI, OpenAIError

MODEL = os.environ.get("MODEL", "gpt-5-mini")
QUESTIONS = [
    "Explain quantum computing in simple terms.",
    "[[simulate:content-filter]] A question that the provider refuses.",
    "Why is the sky blue?",
]


async def generate_text(prompt: str, client: AsyncOpenAI) -> str:
    answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content


async def main() -> None:
    async with AsyncOpenAI() as client:
        answers = []
        try:
            answers = await asyncio.gather(*(generate_text(question, client) for question in QUESTIONS))
        except OpenAIError as error:
            print(f"it ends with {type(error).__name__}")
        print(f"{len(answers)} answers")


asyncio.run(main())
