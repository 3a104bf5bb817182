"""The plain SDK: the answers are in a list, and the list dies with the program. Run it twice, first with `--die-after 40`."""

import asyncio
import os
import sys

from openai import AsyncOpenAI

MODEL = os.environ.get("MODEL", "gpt-5-mini")
die_after = int(sys.argv[2]) if "--die-after" in sys.argv else None


async def main() -> None:
    room, answers = asyncio.Semaphore(10), []
    async with AsyncOpenAI() as client:

        async def ask(number: int) -> None:
            question = {"role": "user", "content": f"Tell me a fact about the number {number}."}
            async with room:
                answer = await client.chat.completions.create(model=MODEL, messages=[question])
            answers.append(answer.choices[0].message.content)
            if len(answers) == die_after:
                print(f"dies with {len(answers)} answers in hand")
                os._exit(1)

        await asyncio.gather(*(ask(number) for number in range(100)))
        print(f"{len(answers)} answers, all of them asked for now")


asyncio.run(main())
