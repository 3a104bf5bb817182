"""One client for everything, told limits, bounded waits, a log line for each failure, figures while it goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import os

from offline import provider

from penstock import Client, Limits, Result

log = logging.getLogger("facts")

ROWS = [{"id": f"fact-{number}", "number": number} for number in range(200)]
ROWS[50]["number"] = "[[simulate:stall]]"
ROWS[150]["number"] = "[[simulate:400]]"


def log_failure(result: Result) -> None:
    """A line of JSON: no prompt, no answer, no key; what is needed to find the row and to talk to the provider."""
    error = result.error
    told = {"row": result.id, "kind": error.kind, "status": error.status, "sends": result.attempts}
    log.warning(json.dumps(told | {"may_be_billed": result.ambiguous}))


async def watch(client: Client, every_s: float) -> None:
    """What a dashboard would be given."""
    while True:
        figures = client.statistics()
        log.debug("%d in flight, %d waiting; %s", figures["in_flight"], figures["waiting"], client.waiting_for())
        await asyncio.sleep(every_s)


async def main() -> None:
    patience = {"timeout": 2.0, "deadline": 10.0, "max_retries": 1}  # one attempt, one row, how often it is sent again
    limits = Limits(requests_per_minute=12_000, share=0.8)  # leaves a fifth to colleagues on the same key
    async with provider(latency=0.1) as there, Client(**there.options, **patience, limits=limits) as client:
        watching = asyncio.create_task(watch(client, 0.2))
        async for result in client.map(ROWS, prompt="Tell me a fact about the number {number}.", ledger="facts.ledger"):
            if not result.ok:
                log_failure(result)
        watching.cancel()


logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), format="%(levelname)s %(name)s %(message)s")
asyncio.run(main())
