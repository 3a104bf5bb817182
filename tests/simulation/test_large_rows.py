"""F10: a row that needs much of the limit is not starved by small ones, and one that can never fit fails at once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from penstock.options import Limits
from penstock.simulator.behaviour import Plan, Settings, Simulator
from penstock.simulator.clock import VirtualClock, run
from penstock.simulator.local import LocalTransport
from tests.kit.rows import VirtualClient
from tests.simulation.models import ARRIVAL, OUTPUT_TOKENS, SEEDS, prompt_of, same_answer
from tests.simulation.servers import KEPT, LATENCY

TPM = 60_000
SMALL, LARGE, ROWS = 200, 100, 160
"""Tokens of a small row, the place of the large one, and how many there are."""

SHARE = 0.6
"""Of what may be used at once."""

_ROW = re.compile(rb"row (\d+) ")


class Noting(Simulator):
    """A provider that notes when each row was admitted."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.admitted: dict[int, float] = {}

    def arrive(self, now: float, body: bytes, key: str | None = None) -> Plan:
        plan = super().arrive(now, body, key)
        found = _ROW.search(body)
        if plan.outcome == "answered" and found is not None:
            self.admitted[int(found[1])] = now
        return plan


def admissions(settings: Settings, large_tokens: float) -> tuple[dict[int, float], list[Any]]:
    """When each row was admitted, and the errors of those that were not."""

    async def main() -> tuple[dict[int, float], list[Any]]:
        transport = LocalTransport(settings, VirtualClock(), ARRIVAL)
        server = transport.simulator = Noting(settings)
        rows = (prompt_of(index, large_tokens if index == LARGE else SMALL) for index in range(ROWS))
        async with VirtualClient(transport=transport, limits=Limits(tokens_per_minute=TPM)) as client:
            results = await client.gather(rows, params={"max_tokens": OUTPUT_TOKENS})
        return server.admitted, [result.error for result in results if not result.ok]

    return run(main(), seed=settings.seed)


def settings_of(name: str, seed: int) -> Settings:
    """A limit of tokens, kept in the way of that name."""
    kept = KEPT[name]
    return Settings(tokens_per_minute=TPM, charge="actual", latency=LATENCY, text=same_answer, seed=seed, **kept)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", KEPT)
def test_a_large_row_is_served_within_twice_its_refill_time(name: str, seed: int) -> None:
    """Counted from the admission of the row before it: more than half of the burst, and small ones behind it."""
    large = SHARE * TPM * KEPT[name].get("burst_seconds", 60.0) / 60
    admitted, errors = admissions(settings_of(name, seed), large)
    refill = large / (TPM / 60)
    took = admitted[LARGE] - admitted[LARGE - 1]
    assert errors == []
    assert took <= 2 * refill + ARRIVAL.high, f"seed {seed}: {took:.1f} s, refill {refill:.1f} s"


def test_a_row_above_the_limit_fails_at_once_and_is_never_sent() -> None:
    """Waiting would last for ever."""
    admitted, errors = admissions(settings_of("bucket 60 s", 1), 2.0 * TPM)
    assert [error.kind for error in errors] == ["never_fits"]
    assert sorted(admitted) == [index for index in range(ROWS) if index != LARGE]
