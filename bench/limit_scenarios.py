"""What `limits.py` asks of whom: the simulated providers, the prompts, the clients, and what a limit allowed.

Data and arithmetic only; it starts nothing and prints nothing.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable

import msgspec

from penstock.simulator.answers import count_tokens
from penstock.simulator.behaviour import Spread, Stats, expected_text

SEED = 1
REQUESTS_PER_MINUTE = 3_000
TOKENS_PER_MINUTE = 600_000
BURST_SECONDS = 1
SLOTS = 64
IN_FLIGHT = 60
"""The semaphore of the clients that need one."""

LATENCY = (0.5, 1.0)
PROMPT_TOKENS = (20, 4_000)
MEDIAN_PROMPT_TOKENS = 400
FILLER = "what it says, and what follows "


def mean_latency() -> float:
    """Seconds: the mean of what the simulator draws."""
    spread, chance = Spread.between(*LATENCY), random.Random(SEED)
    return statistics.fmean(spread.draw(chance.random(), chance.random()) for _ in range(20_000))


class Contender(msgspec.Struct, frozen=True):
    """A client: its program in `peers/`, its environment (purpose and name; none is the project's own), and whether it is
    told the limits."""

    name: str
    program: str
    environment: tuple[str, str] | None = None
    is_told: bool = True


OPENAI = Contender("openai", "openai_semaphore.py", ("conformance", "openai3"))
TENACITY = Contender("openai+tenacity", "openai_tenacity.py", ("bench", "tenacity"))
LANGCHAIN = Contender("langchain", "langchain_abatch.py", ("bench", "langchain"))
LITELLM = Contender("litellm", "litellm_router.py", ("conformance", "litellm"))
PENSTOCK = Contender("penstock", "penstock_map.py")
PENSTOCK_UNTOLD = Contender("penstock-untold", "penstock_map.py", is_told=False)


def short_prompts(rows: int) -> list[str]:
    return [f"Summarise article {index} in one sentence, please." for index in range(rows)]


def long_prompts(rows: int) -> list[str]:
    """Of log-normal length within `PROMPT_TOKENS`, four bytes a token as the simulator counts."""
    chance = random.Random(SEED)
    low, high = PROMPT_TOKENS

    def prompt(index: int) -> str:
        tokens = min(high, max(low, round(MEDIAN_PROMPT_TOKENS * chance.lognormvariate(0, 1))))
        return (f"Summarise report {index}, please: " + FILLER * tokens)[: 4 * tokens]

    return [prompt(index) for index in range(rows)]


class Unit(msgspec.Struct, frozen=True):
    """What a limit counts: of one prompt beforehand, and in the server's account afterwards."""

    of_prompt: Callable[[str], float]
    of_account: Callable[[Stats], float]


def admitted(stats: Stats) -> int:
    return stats.arrived - stats.throttled - sum(stats.failed.values())


REQUESTS = Unit(lambda _: 1, admitted)
TOKENS = Unit(
    lambda prompt: count_tokens(prompt) + count_tokens(expected_text(prompt)),
    lambda stats: stats.input_tokens + stats.output_tokens,
)
ANSWERS = Unit(lambda _: 1, lambda stats: stats.answered)


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A provider and the work on it. `rate` is what it allows, or gives, a second, in units."""

    name: str
    title: str
    options: tuple[str, ...]
    unit: Unit
    rate: float
    burst_seconds: float
    rows: int
    prompts: Callable[[int], list[str]]
    limits: dict[str, float]
    contenders: tuple[Contender, ...]

    def ideal_seconds(self, prompts: Iterable[str]) -> float:
        """The wall time of a client that uses all there is: the last answer follows its admission by the latency.

        An engine's rate is made of latencies already.
        """
        seconds = sum(map(self.unit.of_prompt, prompts)) / self.rate
        return seconds - self.burst_seconds + mean_latency() if self.limits else seconds

    def share(self, stats: Stats, last_admission: float) -> float:
        """What the server's account says was used, over what there was; `last_admission` in seconds from the first arrival.

        A limit was there until the last admission, an engine's slots until the client was done.
        """
        seconds = last_admission if self.limits else stats.elapsed
        return self.unit.of_account(stats) / (self.rate * (self.burst_seconds + seconds))


def scenarios() -> tuple[Scenario, ...]:
    latency = ("--latency", "{}..{}".format(*LATENCY), "--seed", str(SEED))
    burst = ("--burst", str(BURST_SECONDS))
    requests = Scenario(
        name="requests",
        title=f"{REQUESTS_PER_MINUTE:,} requests a minute",
        options=("--rpm", str(REQUESTS_PER_MINUTE), *burst, *latency),
        unit=REQUESTS,
        rate=REQUESTS_PER_MINUTE / 60,
        burst_seconds=BURST_SECONDS,
        rows=1_200,
        prompts=short_prompts,
        limits={"requests_per_minute": REQUESTS_PER_MINUTE},
        contenders=(OPENAI, TENACITY, LANGCHAIN, LITELLM, PENSTOCK, PENSTOCK_UNTOLD),
    )
    return (
        requests,
        msgspec.structs.replace(
            requests,
            name="silent",
            title=f"{requests.title}, no headers tell it",
            options=(*requests.options, "--headers", "none"),
            rows=3_000,
            contenders=(PENSTOCK_UNTOLD,),
        ),
        Scenario(
            name="tokens",
            title=f"{TOKENS_PER_MINUTE:,} tokens a minute, prompts of {PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]:,} tokens",
            options=("--tpm", str(TOKENS_PER_MINUTE), *burst, *latency),
            unit=TOKENS,
            rate=TOKENS_PER_MINUTE / 60,
            burst_seconds=BURST_SECONDS,
            rows=600,
            prompts=long_prompts,
            limits={"tokens_per_minute": TOKENS_PER_MINUTE},
            contenders=(TENACITY, LITELLM, PENSTOCK, PENSTOCK_UNTOLD),
        ),
        Scenario(
            name="slots",
            title=f"an engine of {SLOTS} slots, no limits",
            options=("--slots", str(SLOTS), *latency),
            unit=ANSWERS,
            rate=SLOTS / mean_latency(),
            burst_seconds=0,
            rows=3_000,
            prompts=short_prompts,
            limits={},
            contenders=(OPENAI, PENSTOCK_UNTOLD),
        ),
    )
