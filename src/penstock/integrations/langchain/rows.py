"""The row that a call belongs to: inside a run of a chain, its calls are asked of the run, which records them.

It decides whether a call may be recorded with its row. It sends nothing itself.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from penstock.errors import UsageError
from penstock.integrations.langchain.clients import Settings
from penstock.providers.catalog import split_model
from penstock.records import Chunk, Request, Response, ToolCallPart


class Llm(Protocol):
    """What a workflow's function is given to ask with."""

    async def generate(self, prompt: Request, **options: Any) -> Response:
        """One answer, recorded under its row before it is given."""


class RunRow(msgspec.Struct, frozen=True):
    """A row under way: `settings` are those of the client that carries its run; `records` is true where it has a ledger."""

    llm: Llm
    settings: Settings
    records: bool
    loop: asyncio.AbstractEventLoop

    def carries(self, settings: Settings) -> bool:
        """True where calls of a model with these settings are the run's: the same account, whatever its model.

        Raises `UsageError` where they are not and the run has a ledger: they would be paid again after a crash.
        """
        if of_one_account(settings, self.settings):
            return True
        if self.records:
            raise UsageError(
                f"a call of {settings.model!r} has not the settings of the run ({self.settings.model!r}), so that its answer "
                "cannot be recorded: give run(...) as model= the one that the chain is made with"
            )
        return False

    async def generate(self, request: Request) -> Response:
        """The answer from the ledger, or from the provider and then in the ledger."""
        return await self.llm.generate(request)

    def generate_blocking(self, request: Request) -> Response:
        """The same for a step of the chain that runs in a thread of its own. Raises `UsageError` on the run's loop."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self.loop:
            raise UsageError(
                "a step of this chain calls invoke() on the event loop, which stops all rows: await ainvoke()"
            )
        return asyncio.run_coroutine_threadsafe(self.generate(request), self.loop).result()


def of_one_account(one: Settings, other: Settings) -> bool:
    """True where two settings differ in nothing but the model's name at one provider."""
    services = {split_model(settings.model, settings.base_url)[0].name for settings in (one, other)}
    return len(services) == 1 and msgspec.structs.replace(one, model=other.model) == other


def in_one_piece(response: Response) -> Chunk:
    """A recorded answer as a stream that came at once."""
    calls = enumerate(response.tool_calls)
    parts = tuple(ToolCallPart(place, call.id, call.name, call.arguments) for place, call in calls)
    return Chunk(response.text, response.reasoning, parts)


current_row: ContextVar[RunRow | None] = ContextVar("penstock_langchain_row", default=None)
"""Set for as long as a row's chain is at work, and in all tasks and threads that it starts by LangChain's means."""
