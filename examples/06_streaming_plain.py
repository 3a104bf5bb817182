"""The plain SDK: nobody looks at the finish reason, so a story that was cut off is returned like a whole one."""

import asyncio
import os

from openai import AsyncOpenAI, OpenAIError

MODEL = os.environ.get("MODEL", "gpt-5-mini")


async def stream_text(prompt: str, client: AsyncOpenAI) -> str:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "stream": True}
    text = ""
    async for chunk in await client.chat.completions.create(**asked):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
    return text


async def main() -> None:
    async with AsyncOpenAI() as client:
        whole = await stream_text("Write a short story about a whale.", client)
        short = await stream_text("[[simulate:length]] Write a short story about a whale.", client)
        print(f"two stories of {len(whole)} and {len(short)} characters; nothing says that one was cut off")
        try:
            await stream_text("[[simulate:truncate]] Write a short story about a storm.", client)
        except OpenAIError as error:
            print(f"{type(error).__name__}: what came of the third is gone")


asyncio.run(main())
