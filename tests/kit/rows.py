"""A client on virtual time over a provider in memory, for tests of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from penstock.client import Client
from penstock.ports import Transport
from penstock.records import Result, Usage
from penstock.simulator.behaviour import Settings
from penstock.simulator.clock import VirtualClock
from penstock.simulator.local import LocalTransport


class FreeOfCharge:
    """Prices that load nothing and use no thread, which virtual time does not allow."""

    def cost(self, model: str, usage: Usage | None) -> float | None:
        return 0.0


class VirtualClient(Client):
    """A client inside `simulator.clock.run`; `local` is its provider where none was given."""

    def __init__(self, settings: Settings | None = None, *, transport: Transport | None = None, **options: Any) -> None:
        clock = VirtualClock()
        self.local = LocalTransport(settings or Settings(), clock)
        super().__init__(
            options.pop("model", "openai/m"),
            transport=transport or self.local,
            clock=clock,
            prices=FreeOfCharge(),
            **options,
        )
        self.clock = clock

    @property
    def stats(self) -> Any:
        return self.local.simulator.stats(self.clock.now())


def prompts(count: int, suffix: str = "") -> list[str]:
    return [f"Tell me fact {index}{suffix}" for index in range(count)]


async def collect(client: Client, rows: Iterable[Any], **options: Any) -> list[Result]:
    return [result async for result in client.map(rows, **options)]


def tasks_left() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
