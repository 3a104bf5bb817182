"""The same prompt, model and parser as ever, streamed; then two steps over many rows that do not wait for one another."""

from __future__ import annotations

import asyncio

from langchain_core.callbacks import StreamingStdOutCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from offline import provider

from penstock.integrations.langchain import ChatPenstock, run

TOPICS = ["tides", "[[simulate:400]] a row that is refused", "lighthouses"]


async def main() -> None:
    async with provider(latency=0.1, token_latency=0.005) as there:
        model = ChatPenstock(**there.options, temperature=0.7)

        aloud = model.with_config(callbacks=[StreamingStdOutCallbackHandler()])
        chain = PromptTemplate.from_template("Write a line about {topic}.") | aloud | StrOutputParser()
        async for _ in chain.astream({"topic": "whales"}):
            pass  # the callback prints
        print()

        summarise = PromptTemplate.from_template("Summarise: {topic}") | model | StrOutputParser()
        classify = PromptTemplate.from_template("Classify: {summary}") | model | StrOutputParser()
        both = summarise | (lambda summary: {"summary": summary}) | classify
        rows = [{"topic": topic} for topic in TOPICS]
        async for result in run(both, rows, ledger="chain.ledger", ordered=True):
            print(f"{result.index}:", result.value if result.ok else f"no answer, {result.error.kind}")
        await model.aclose()


asyncio.run(main())
