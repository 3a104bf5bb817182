"""The plain SDK in FastAPI: no limit, no retry beyond the SDK's two, and whatever goes wrong is a bare 500."""

import asyncio
import os

import uvicorn
from fastapi import BackgroundTasks, FastAPI
from openai import AsyncOpenAI
from pydantic import BaseModel

MODEL = os.environ.get("MODEL", "gpt-5-mini")
app = FastAPI()
client = AsyncOpenAI()


class Ask(BaseModel):
    prompt: str


async def log(prompt: str, generated: str) -> None:
    await asyncio.sleep(2)
    print(f"{prompt!r}: {len(generated)} characters")  # lost where the process ends within two seconds


@app.post("/generate")
async def generate(asked: Ask, afterwards: BackgroundTasks) -> dict[str, str]:
    question = {"role": "user", "content": asked.prompt}
    answer = await client.chat.completions.create(model=MODEL, messages=[question])
    generated = answer.choices[0].message.content
    afterwards.add_task(log, asked.prompt, generated)
    return {"generated_text": generated}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
