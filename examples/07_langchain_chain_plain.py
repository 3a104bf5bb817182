"""LangChain's own `abatch`: all rows through a step, then all through the next, and one refused row ends them all."""

import asyncio
import os
import time

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_openai import ChatOpenAI

MODEL = os.environ.get("MODEL", "gpt-5-mini")
TOPICS = ["tides", "[[simulate:400]] a row that is refused", "lighthouses"]


async def main() -> None:
    model = ChatOpenAI(model=MODEL, temperature=0.7)
    summarise = PromptTemplate.from_template("Summarise: {topic}") | model | StrOutputParser()
    classify = PromptTemplate.from_template("Classify: {summary}") | model | StrOutputParser()
    both = summarise | (lambda summary: {"summary": summary}) | classify

    began, labels = time.perf_counter(), []
    try:
        labels = await both.abatch([{"topic": topic} for topic in TOPICS])
    except Exception as error:  # noqa: BLE001  which one it is depends on the provider's package
        print(f"it ends with {type(error).__name__}")
    print(f"{len(labels)} labels in {time.perf_counter() - began:.1f} s")


asyncio.run(main())
