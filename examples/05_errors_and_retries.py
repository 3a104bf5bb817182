"""What may help is tried again, what cannot is told at once, and a failed row never looks like an answer."""

from __future__ import annotations

import asyncio
import time

from offline import provider

from penstock import Client, NoAnswer, Refused, Throttled, Unavailable

PROMPTS = [f"Tell me a fact about the number {number}." for number in range(50)]
PROMPTS[10] = "[[simulate:500*2]] A server error, twice; then it is well again."
PROMPTS[20] = "[[simulate:429*2]] Throttled twice, each time with the wait that would be enough."
PROMPTS[30] = "[[simulate:too-long]] A prompt that does not fit the model."
PROMPTS[40] = "[[simulate:400]] A request that the provider will never take."

WHAT_TO_DO = {
    Refused: "mend the row",
    Throttled: "come later",
    Unavailable: "come later",
    NoAnswer: "come later; it may have been billed",
}


async def main() -> None:
    async with provider(latency=0.1, retry_after=0.3) as there, Client(**there.options, max_retries=3) as client:
        began = time.perf_counter()
        results = await client.gather(PROMPTS)
        print(
            f"{sum(result.ok for result in results)} of {len(results)} answered in {time.perf_counter() - began:.1f} s"
        )
        for result in results:
            if result.error is not None:
                advice = next(what for kind, what in WHAT_TO_DO.items() if isinstance(result.error, kind))
                print(
                    f"row {result.index}: {result.error.kind}, HTTP {result.error.status}, sends: {result.attempts}; {advice}"
                )
            elif result.attempts > 1:
                print(f"row {result.index}: answered, sends: {result.attempts}")


asyncio.run(main())
