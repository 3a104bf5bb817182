"""Penstock inside LangChain 1.x: a chat model, runs of chains, a rate limiter for models of others. The extra is `langchain`.

from penstock.integrations.langchain import ChatPenstock

chain = PromptTemplate.from_template("Explain {topic}.") | ChatPenstock(model="openai/gpt-5-mini") | StrOutputParser()
"""

from __future__ import annotations

try:
    from penstock.integrations.langchain.chat import ChatPenstock
    from penstock.integrations.langchain.rate_limiter import PenstockRateLimiter
    from penstock.integrations.langchain.runs import run
except ModuleNotFoundError as missing:
    if missing.name != "langchain_core":
        raise
    raise ModuleNotFoundError(
        "LangChain is not installed: pip install 'penstock[langchain]'", name="langchain_core"
    ) from missing

__all__ = ["ChatPenstock", "PenstockRateLimiter", "run"]
