"""A sample of the rows through the real engine, in front of a provider of rules, on virtual time.

It tells how long the sample takes and how fast rows go once the flow is steady. It decides nothing about limits or retries:
the engine does. It opens no socket, and its clock is its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from penstock.engine.attempt import Account
from penstock.engine.call import Caller
from penstock.engine.gate import Gate, Rules, Scope
from penstock.engine.run import Plan, Run
from penstock.engine.single import SingleRequests
from penstock.options import Retry, Timeouts
from penstock.ports import AnswerStream, Prices, Provider
from penstock.records import HttpAnswer, HttpCall, RawRow, Request, Row, Usage
from penstock.rules.forecast import Scenario, Shape, scale_of, steady_interval, variation, whole_time
from penstock.rules.retry import Policy
from penstock.rules.tally import Tally
from penstock.simulator.chance import Spread
from penstock.simulator.clock import VirtualClock, run
from penstock.simulator.local import LocalTransport
from penstock.simulator.settings import Faults, Settings

ROWS = 1_500
FEWEST_ROWS = 300
MOST_TOKENS = 10_000_000
"""Where rows are long, fewer are simulated."""

BYTES_PER_TOKEN = 4
"""Of the simulated provider, which counts so."""

FULL_BURST_S, STRICT_BURST_S = 60.0, 1.0
"""How much of a limit may be used at once: all of it, as in OpenAI's buckets (its public 429s follow from that to the
millisecond), down to a second's, which is the least that is known of."""

ROOM = 4.0
"""A burst has room for so many requests, be they the largest: a provider that hardly lets one in has no such limit."""

LONGEST_ANSWER_S = 3_600.0
SEED = 0


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would be made with: the client's own parts and options."""

    provider: Provider
    model: str
    prices: Prices
    rules: Rules
    retry: Retry = Retry()
    timeouts: Timeouts = Timeouts()


class Pass(msgspec.Struct, frozen=True):
    """What a simulation showed: it stands for `rows` rows, which took `seconds`, with `interval` seconds between two once it was
    steady. `failed` is the share of rows that failed, by kind."""

    rows: float
    seconds: float
    interval: float
    failed: dict[str, float]

    def whole(self, rows: int) -> float:
        """The seconds that so many rows take."""
        return whole_time(self.seconds, self.rows, rows, self.interval)


class Watched:
    """`ports.Transport` around another; notes when each request that was let in went out."""

    def __init__(self, transport: LocalTransport, clock: VirtualClock) -> None:
        self._transport, self._clock = transport, clock
        self.sent_at: list[float] = []

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        began = self._clock.now()
        answer = await self._transport.send(call, timeouts)
        if answer.status == 200:
            self.sent_at.append(began)
        return answer

    def stream(self, call: HttpCall, timeouts: Timeouts) -> AbstractAsyncContextManager[AnswerStream]:
        return self._transport.stream(call, timeouts)

    async def aclose(self) -> None:
        await self._transport.aclose()


class Unpriced:
    """`ports.Prices` for a pass whose answers nobody pays."""

    def cost(self, model: str, usage: Usage | None) -> float | None:  # noqa: ARG002  the port's
        return None


def simulate(conditions: Conditions, scenario: Scenario, shapes: Sequence[Shape], rows: int, burst_s: float) -> Pass:
    """Run as many rows as it takes to see the flow of `rows` rows of these shapes, with everything that bounds it scaled alike.

    `burst_s` is how many seconds' worth of a limit the provider lets through at once.
    """
    a_minute, largest = _load(conditions.rules, scenario, shapes)
    in_flight = conditions.rules.max_concurrency
    scale = scale_of(rows, most=ROWS, in_flight=in_flight, a_minute=a_minute, largest=largest)
    count = min(math.ceil(rows * scale), _most_rows(scenario, shapes))
    chance = random.Random(SEED)
    drawn = _spread_over(shapes, count)
    chance.shuffle(drawn)
    ranks = [(k + 0.5) / count for k in range(count)]
    chance.shuffle(ranks)
    lengths = [scenario.output_at(rank, shape.most_output) for rank, shape in zip(ranks, drawn, strict=True)]
    scaled = msgspec.structs.replace(conditions, rules=_scaled(conditions.rules, scale))
    burst_s = max(burst_s, min(FULL_BURST_S, FULL_BURST_S * ROOM * max(largest, 1 / a_minute) / scale))
    watched = run(_pass(scaled, _settings(scaled, scenario, lengths, burst_s), scenario, drawn), seed=SEED)
    failed = {kind: many / count for kind, many in watched.failed.items()}
    return Pass(count / scale, watched.seconds, steady_interval(sorted(watched.sent_at)) * scale, failed)


def _load(rules: Rules, scenario: Scenario, shapes: Sequence[Shape]) -> tuple[float, float]:
    """How many rows a minute the limits allow, and the largest row as a share of a minute's tokens."""
    tokens = [scenario.input_tokens(shape) + (shape.most_output or scenario.output_tokens) for shape in shapes]
    most = rules.limits.tokens_per_minute or math.inf
    a_minute = min(rules.limits.requests_per_minute or math.inf, most * len(tokens) / sum(tokens))
    return a_minute, max(tokens) / most


def _scaled(rules: Rules, scale: float) -> Rules:
    """The same rules for a part of the rows: a part of every limit and of how many go at once."""
    limits = {
        name: value * scale
        for name, value in msgspec.structs.asdict(rules.limits).items()
        if value is not None and name != "share"
    }
    return msgspec.structs.replace(
        rules,
        limits=msgspec.structs.replace(rules.limits, **limits),
        max_concurrency=max(1, round(rules.max_concurrency * scale)),
    )


def _most_rows(scenario: Scenario, shapes: Sequence[Shape]) -> int:
    tokens = sum(map(scenario.input_tokens, shapes)) / len(shapes) + scenario.output_tokens
    return min(ROWS, max(FEWEST_ROWS, int(MOST_TOKENS / tokens)))


def _spread_over(shapes: Sequence[Shape], count: int) -> list[Shape]:
    """So many shapes, each part of the sample as often as another."""
    return [shapes[k * len(shapes) // count] for k in range(count)]


def _settings(conditions: Conditions, scenario: Scenario, lengths: Sequence[int], burst_s: float) -> Settings:
    """The provider of that scenario: it lets in what the limits allow and answers the k-th row by `lengths[k]` tokens."""
    filler = "x" * (BYTES_PER_TOKEN * max(lengths))
    limits = conditions.rules.limits
    return Settings(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        input_tokens_per_minute=limits.input_tokens_per_minute,
        output_tokens_per_minute=limits.output_tokens_per_minute,
        burst_seconds=burst_s,
        latency=_latency(scenario),
        text=lambda prompt, _: filler[: BYTES_PER_TOKEN * lengths[int(prompt[:8])]],
        faults=Faults(error_500=max(0.0, 1 - 1 / scenario.sends_per_row)),
        seed=SEED,
    )


def _latency(scenario: Scenario) -> Spread:
    """The log-normal time of the same mean and variation (mean = median * exp(sigma^2 / 2))."""
    sigma = math.sqrt(math.log1p(variation(scenario.latencies) ** 2))
    return Spread(scenario.latency_s / math.exp(sigma**2 / 2), sigma, high=LONGEST_ANSWER_S)


class Seen(msgspec.Struct, frozen=True):
    """What was seen of a simulated run: when its requests went out, its end, and how many rows failed, by kind."""

    sent_at: list[float]
    seconds: float
    failed: dict[str, int]


async def _pass(conditions: Conditions, settings: Settings, scenario: Scenario, shapes: Sequence[Shape]) -> Seen:
    clock = VirtualClock()
    transport = Watched(LocalTransport(settings, clock), clock)
    tally = Tally()
    engine = _engine(conditions, transport, clock, tally, _rows(scenario, shapes))
    async for _ in engine.results():
        pass
    return Seen(transport.sent_at, clock.now(), tally.errors)


def _engine(
    conditions: Conditions, transport: Watched, clock: VirtualClock, tally: Tally, rows: Iterator[RawRow]
) -> Run:
    """The engine as a client puts it together."""
    account = Account(
        clock=clock,
        transport=transport,
        provider=conditions.provider,
        gate=Gate(clock, conditions.rules),
        timeouts=conditions.timeouts,
        model=conditions.model,
    )
    caller = Caller(
        account=account,
        policy=Policy(max_retries=conditions.retry.max_retries),
        scope=Scope(),
        observer=tally,
        deadline=conditions.retry.deadline,
    )
    work = SingleRequests(caller, _ready, Unpriced())
    return Run(Plan(caller=caller, work=work, workers=workers_of(conditions.rules)), rows)


def workers_of(rules: Rules) -> int:
    """How many rows a client has under way, beside those that wait for a retry."""
    return rules.max_concurrency


def _ready(raw: RawRow) -> Row:
    """The row that a raw row carries."""
    row: Row = raw.values
    return row


def _rows(scenario: Scenario, shapes: Sequence[Shape]) -> Iterator[RawRow]:
    """Rows of those shapes: a text of as many tokens, which begins with the row's number."""
    for index, shape in enumerate(shapes):
        text = f"{index:08d}".ljust(BYTES_PER_TOKEN * scenario.input_tokens(shape), "x")
        params = {} if shape.most_output is None else {"max_tokens": shape.most_output}
        request = Request([{"role": "user", "content": text}], shape.model, params)
        yield RawRow(index, "", Row(index, index, request))
