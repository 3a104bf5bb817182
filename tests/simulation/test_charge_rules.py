"""F9: what a server charges is what the client reckons with, so that neither throttles nor unused limit come of it."""

from __future__ import annotations

import pytest

from penstock.options import Limits
from penstock.simulator.behaviour import Settings
from penstock.simulator.clock import VirtualClock, run
from tests.kit.rows import VirtualClient
from tests.simulation.auditor import Auditor, Watched
from tests.simulation.models import ARRIVAL, same_answer, sized_prompts
from tests.simulation.servers import LATENCY, TPM

MOST_OUTPUT = 1_000
"""What a row allows for its answer, which has 16 tokens."""


def reckoned(model: str, settings: Settings, base_url: str | None, rows: int) -> tuple[float, int]:
    """Use of the limit by what was charged in the end, and the 429s."""

    async def main() -> tuple[float, int]:
        clock = VirtualClock()
        auditor = Auditor(settings, clock, ARRIVAL, "tokens")
        limits = Limits(tokens_per_minute=settings.tokens_per_minute)
        async with VirtualClient(model=model, base_url=base_url, transport=auditor, limits=limits) as client:
            results = await client.gather(sized_prompts(rows, settings.seed), params={"max_tokens": MOST_OUTPUT})
        assert all(result.ok for result in results)
        return charged(auditor.server, settings) / (TPM / 60 * auditor.seconds()), auditor.throttled()

    return run(main(), seed=settings.seed)


def charged(server: Watched, settings: Settings) -> float:
    """What the limit lost: the reservations, or what the answers used where those were put right."""
    stats = server.stats(0.0)
    return stats.input_tokens + stats.output_tokens if settings.settled else sum(server.charged)


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize(
    ("model", "charge", "settled"),
    [
        ("openai/m", "reserved", False),
        ("vllm/m", "reserved", True),
        ("vllm/m", "actual", True),
    ],
)
def test_the_limit_is_filled_by_the_servers_own_rule(model: str, charge: str, settled: bool, seed: int) -> None:
    """`max_tokens` reserved and kept, reserved and given back, or never reserved: 95 % of the limit and no 429."""
    settings = Settings(
        tokens_per_minute=TPM, charge=charge, settled=settled, latency=LATENCY, text=same_answer, seed=seed
    )
    base_url = None if model.startswith("openai") else "http://simulated/v1"
    use, throttled = reckoned(model, settings, base_url, rows=3_000)
    assert use >= 0.95, f"seed {seed}"
    assert throttled == 0, f"seed {seed}"
