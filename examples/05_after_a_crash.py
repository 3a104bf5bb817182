"""The program dies in the middle; started again, it goes on. No answer that came is asked, or paid, a second time.

Run it twice: the first time with `--die-after 40`.
"""

from __future__ import annotations

import argparse
import asyncio
import os

from offline import provider

from penstock import Client

PROMPTS = [f"Tell me a fact about the number {number}." for number in range(100)]


async def main(die_after: int | None) -> None:
    async with provider(latency=0.1) as there, Client(**there.options, max_concurrency=10) as client:
        new = from_ledger = 0
        async for result in client.map(PROMPTS, ledger="facts.ledger"):  # recorded on the disk before you see it
            from_ledger += result.reused
            new += not result.reused
            if new == die_after:
                print(f"dies with {new} answers in hand")
                os._exit(1)  # as in a crash: nothing is closed, nothing is saved
        print(f"{new + from_ledger} answers; at least 40 of them from the ledger: {from_ledger >= 40}")


arguments = argparse.ArgumentParser()
arguments.add_argument("--die-after", type=int, metavar="ANSWERS")
asyncio.run(main(arguments.parse_known_args()[0].die_after))
