"""Ready-made workflows. Each is a plain async function of a row and an `llm`, to be used, read, and copied.

async for result in client.run(summarise, rows, ledger="summaries.ledger"): ...
penstock run INPUT -o OUTPUT -m MODEL --workflow summarise
"""

from __future__ import annotations

from penstock.workflows.long_texts import summarise

__all__ = ["summarise"]
