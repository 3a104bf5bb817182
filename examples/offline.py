"""Where the answers of these examples come from: a provider simulated inside the program, or a real one named with `-m`.

python examples/02_one_and_many.py
python examples/02_one_and_many.py -m openai/gpt-5-mini
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from penstock.simulator.server import Server, serve
from penstock.simulator.settings import Settings


class Provider:
    """`options` is what a `Client` needs to reach it; `account()` is what came in, as the simulated provider saw it."""

    def __init__(self, options: dict[str, Any], simulated: Server | None = None) -> None:
        self.options, self._simulated = options, simulated

    def account(self) -> str:
        if self._simulated is None:
            return "a real provider keeps its account to itself"
        came = self._simulated.stats()
        return f"the provider saw {came.arrived} requests and throttled {came.throttled}"


def answer(prompt: str, _: int | None) -> str:
    """What the simulated model says."""
    return f"(an answer to: {prompt.splitlines()[-1]})"


@asynccontextmanager
async def provider(text: Any = answer, **behaviour: Any) -> AsyncIterator[Provider]:
    """The provider that `-m` and `--base-url` name; without them a simulated one that behaves as told here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", metavar="PROVIDER/MODEL", help="a real provider instead of the simulated one")
    parser.add_argument("--base-url", metavar="URL", help="its address, where it is a server of your own")
    given, _ = parser.parse_known_args()
    if given.model is not None:
        yield Provider({"model": given.model, "base_url": given.base_url})
        return
    async with serve(Settings(text=text, **behaviour)) as simulated:
        yield Provider({"model": "custom/simulated", "base_url": simulated.base_url}, simulated)
