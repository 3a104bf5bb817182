"""What a run would take, before it is sent: what is supposed of answers, what is learned from those seen, sums with a range.

It decides how many tokens a row has, how long answers are and take, how sure that is, and how a sample stands for the whole. It
never simulates and never looks up a price.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from penstock.records import Usage

SIDES = ("low", "likely", "high")


class Range(msgspec.Struct, frozen=True):
    """A figure with its range."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Range:
        """The same, so many times."""
        return Range(self.low * factor, self.likely * factor, self.high * factor)

    def within(self, factor: float) -> Range:
        """Wider by that factor on both sides."""
        return Range(self.low / factor, self.likely, self.high * factor)

    def at_most(self, most: float) -> Range:
        """Nothing above `most`."""
        return Range(*(min(getattr(self, side), most) for side in SIDES))


TOKENS_PER_BYTE = Range(1 / 6, 1 / 4, 1 / 2)
"""Prose in English has 4 to 5 bytes a token, text of few repetitions or of scripts that a tokenizer does not know 2 to 3."""

TOKENS_PER_MESSAGE = Range(0, 4, 8)
"""Roles and separators: 3 to 7 in OpenAI's models."""

OUTPUT_TOKENS = Range(5, 300, 1_500)
FIRST_TOKEN_S = Range(0.2, 0.8, 15.0)
SECONDS_PER_TOKEN = Range(0.002, 0.014, 0.03)
"""An answer of one word from a small model, up to some pages from a large one under load: 0.2 s to 60 s."""

SENDS_PER_ROW = Range(1.0, 1.0, 1.05)

DECILES = (-1.645, -1.036, -0.674, -0.385, -0.126, 0.126, 0.385, 0.674, 1.036, 1.645)
"""The middles of ten equal parts of the normal distribution."""
SIGMA = 0.6
"""Lengths and times of answers to one prompt are about log-normal."""

SEEN_ENOUGH = 50
LEAST_VARIATION, LEAST_VARIATION_BEFORE = 0.2, 0.8
SURE = 2.6
"""Standard errors on either side: 99 %."""

LIMITS_UNKNOWN = 3.0
"""How much longer it may take where nobody told the account's limits."""

NOISE = 1.05
"""What a simulation of the same run with other chance may differ by."""

SHORTEST_S = 0.001
LEAST_SIGMA = 0.01
STEPS = 60
FAR_OUT = 8.0
MOST_STRETCHED = 10.0
"""Of the estimate from answers and from rows that were still waiting: its bounds, and how many steps it takes."""

STEADY_FROM = 0.5
BURST_ROWS, WAVE_ROWS = 400, 150
FEWEST_IN_FLIGHT = 20
ROOM_FOR_LARGEST = 4.0
"""How a simulated run is scaled (see `scale_of`)."""

DAY = 86_400.0


class Shape(msgspec.Struct, frozen=True):
    """One row as far as it changes the forecast. `most_output` is its own token limit, None where it has none."""

    text_bytes: int
    messages: int
    model: str
    most_output: int | None = None
    other_parts: int = 0


class Answer(msgspec.Struct, frozen=True):
    """What one recorded answer took; `text_bytes` and `messages` are those of its row."""

    text_bytes: int
    messages: int
    usage: Usage
    latency_s: float
    attempts: int = 1


class Outlook(msgspec.Struct, frozen=True):
    """What is expected of a run's rows. `outputs` and `latencies` are the shapes of their distributions, as multiples of the mean.

    `answers` counts the answers that it was learned from (with 0 it is supposed), `given_up` the rows under way without one.
    """

    tokens_per_byte: Range
    tokens_per_message: Range
    output_tokens: Range
    latency_s: Range
    sends_per_row: Range
    outputs: tuple[float, ...]
    latencies: tuple[float, ...]
    cached_share: float = 0.0
    answers: int = 0
    given_up: int = 0

    def scenario(self, side: str) -> Scenario:
        """The case where everything is on one side of its range."""
        names = ("tokens_per_byte", "tokens_per_message", "output_tokens", "latency_s", "sends_per_row")
        figures = {name: getattr(getattr(self, name), side) for name in names}
        return Scenario(**figures, outputs=self.outputs, latencies=self.latencies, cached_share=self.cached_share)


class Scenario(msgspec.Struct, frozen=True):
    """One way that it may go: means, and the shapes of what varies around them."""

    tokens_per_byte: float
    tokens_per_message: float
    output_tokens: float
    latency_s: float
    sends_per_row: float
    outputs: tuple[float, ...]
    latencies: tuple[float, ...]
    cached_share: float = 0.0

    def usages(self, shapes: Iterable[Shape]) -> Iterator[Usage]:
        """The tokens of each row, its answer being of the mean length; what rounding leaves is carried to the next row."""
        carried = 0.0
        for shape in shapes:
            carried += self.output_tokens if shape.most_output is None else min(self.output_tokens, shape.most_output)
            output = int(carried)
            carried -= output
            tokens = self.input_tokens(shape)
            yield Usage(tokens, output, round(tokens * self.cached_share))

    def input_tokens(self, shape: Shape) -> int:
        """The tokens of one row's request."""
        return max(1, round(shape.text_bytes * self.tokens_per_byte + shape.messages * self.tokens_per_message))

    def output_at(self, share: float, most: int | None) -> int:
        """The length of the answer that this share of all answers does not exceed."""
        tokens = max(1, round(self.output_tokens * quantile(self.outputs, share)))
        return tokens if most is None else min(tokens, most)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of `values` (in order) does not exceed; each stands for the middle of its equal part."""
    at = min(max(share * len(values) - 0.5, 0.0), len(values) - 1.0)
    below = int(at)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (at - below)


def _in_means(values: Iterable[float]) -> tuple[float, ...]:
    """Values in order, as multiples of their mean."""
    ordered = sorted(values)
    mean = sum(ordered) / len(ordered)
    return tuple(value / mean for value in ordered) if mean > 0 else (1.0,)


VARIED = _in_means(math.exp(SIGMA * z) for z in DECILES)


def variation(values: Sequence[float]) -> float:
    """The standard deviation as a share of the mean."""
    mean = _mean(values)
    if mean <= 0:
        return 0.0
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) / mean


def supposed(most_output: int | None) -> Outlook:
    """What is expected while no answer has been seen; `most_output` is the token limit of the requests."""
    output = OUTPUT_TOKENS if most_output is None else OUTPUT_TOKENS.at_most(most_output)
    sides = zip(_sides(FIRST_TOKEN_S), _sides(SECONDS_PER_TOKEN), _sides(output), strict=True)
    return Outlook(
        tokens_per_byte=TOKENS_PER_BYTE,
        tokens_per_message=TOKENS_PER_MESSAGE,
        output_tokens=output,
        latency_s=Range(*(first + each * tokens for first, each, tokens in sides)),
        sends_per_row=SENDS_PER_ROW,
        outputs=VARIED,
        latencies=VARIED,
    )


def _sides(figure: Range) -> tuple[float, float, float]:
    return figure.low, figure.likely, figure.high


def learned(answers: Sequence[Answer], waiting_s: Sequence[float] = ()) -> Outlook:
    """What is expected after these answers. The tokens a byte are the ratio of sums, since the mean of ratios is biased.

    `waiting_s` are rows that were given up without an answer, each with the seconds that it had waited at least: who answers first
    answers fast, so that without them a run that was cut off would seem to have short and quick answers.
    """
    count = len(answers)
    asked = sum(answer.usage.input_tokens for answer in answers)
    ratio = asked / max(1, sum(answer.text_bytes for answer in answers))
    sends = sum(answer.attempts for answer in answers) / count
    # A row that was sent more than once took the time of all its sends.
    timed = [answer for answer in answers if answer.attempts <= 1] or answers
    seconds = [max(answer.latency_s, SHORTEST_S) for answer in timed]
    outputs = [float(answer.usage.output_tokens) for answer in timed]
    latency, latencies = _latency(seconds, waiting_s)
    longer = latency - _mean(seconds)
    # What is made up for rows without an answer is less sure than what was seen.
    sure = count * (count / (count + len(waiting_s))) ** 2
    return Outlook(
        tokens_per_byte=_around(ratio, _misfits(answers, ratio), count),
        tokens_per_message=Range(0, 0, 0),
        output_tokens=_around(_mean(outputs) + longer * max(0.0, _slope(seconds, outputs)), variation(outputs), sure),
        latency_s=_around(latency, variation(latencies), sure),
        sends_per_row=Range(1.0, sends, sends * SENDS_PER_ROW.high),
        outputs=_in_means(outputs),
        latencies=latencies,
        cached_share=sum(answer.usage.cached_tokens for answer in answers) / asked if asked else 0.0,
        answers=count,
        given_up=len(waiting_s),
    )


def _latency(seconds: Sequence[float], waiting_s: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """The mean time of an answer and the shape of its distribution."""
    mean = _mean(seconds)
    if not waiting_s:
        return mean, _in_means(seconds)
    middle, sigma = censored_log_normal(seconds, waiting_s)
    whole = math.exp(middle + sigma**2 / 2)
    return min(max(mean, whole), MOST_STRETCHED * mean), _in_means(math.exp(sigma * z) for z in DECILES)


def censored_log_normal(ended: Sequence[float], lasted: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of a time, where some `ended` and others had `lasted` so long without an end.

    Maximum likelihood by expectation and maximisation (Dempster, Laird, Rubin 1977, for right-censored normal data): each time
    without an end counts by its expectation, given that it is longer.
    """
    logs = [math.log(time) for time in ended]
    bounds = Counter(math.log(max(time, SHORTEST_S)) for time in lasted)
    count, total, squares = len(logs) + len(lasted), sum(logs), sum(log * log for log in logs)
    middle, sigma = total / len(logs), LEAST_SIGMA
    for _ in range(STEPS):
        first = second = 0.0
        for bound, times in bounds.items():
            beyond = sigma * _hazard((bound - middle) / sigma)
            first += times * (middle + beyond)
            second += times * (middle**2 + sigma**2 + beyond * (bound + middle))
        middle = (total + first) / count
        sigma = max(LEAST_SIGMA, math.sqrt(max(0.0, (squares + second) / count - middle**2)))
    return middle, sigma


def _hazard(z: float) -> float:
    """The normal density at `z` over what lies beyond it; about `z` itself far out."""
    if z > FAR_OUT:
        return z
    return math.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * 0.5 * math.erfc(z / math.sqrt(2)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _slope(across: Sequence[float], up: Sequence[float]) -> float:
    """How much `up` grows by one of `across`, by least squares; 0 where `across` does not vary."""
    middle, mean = _mean(across), _mean(up)
    spread = sum((x - middle) ** 2 for x in across)
    return sum((x - middle) * (y - mean) for x, y in zip(across, up, strict=True)) / spread if spread else 0.0


def _misfits(answers: Sequence[Answer], tokens_per_byte: float) -> float:
    """How far requests are from what their bytes tell, as a share of the mean."""
    mean = sum(answer.usage.input_tokens for answer in answers) / len(answers)
    squares = sum((a.usage.input_tokens - a.text_bytes * tokens_per_byte) ** 2 for a in answers)
    return math.sqrt(squares / len(answers)) / mean if mean else 0.0


def _around(mean: float, spread: float, count: float) -> Range:
    """A mean and how far the true one may be from it. Before fifty answers more is allowed for than they show."""
    least = LEAST_VARIATION if count >= SEEN_ENOUGH else LEAST_VARIATION_BEFORE
    return Range(mean, mean, mean).within(math.exp(SURE * max(spread, least) / math.sqrt(count)))


# -- a sample for the whole


def steady_interval(sent_at: Sequence[float]) -> float:
    """Seconds between two rows once the flow is steady: the least-squares slope of the times of the later half of all sends."""
    first = int(len(sent_at) * STEADY_FROM)
    times = sent_at[first:]
    if len(times) < 2:
        return 0.0
    return max(0.0, _slope(range(len(times)), times))


def whole_time(seconds: float, sampled: float, rows: int, interval: float) -> float:
    """The time of all rows, of which `sampled` took `seconds`, start and end included."""
    return seconds + max(0, rows - sampled) * interval


def days_for(units: float, per_day: float | None, share: float = 1.0) -> float:
    """The least seconds for so many units under a share of a day's limit, the first day's being there at once."""
    return 0.0 if per_day is None else max(0.0, units / (per_day * share) - 1) * DAY


def scale_of(rows: int, *, most: int, in_flight: float, a_minute: float, largest: float) -> float:
    """By how much a run can be scaled down and still take its time: rows, limits and concurrency alike.

    No more than it takes to fit `rows` into `most`, to see what follows a minute's burst (`a_minute` rows) and several waves of
    `in_flight`; and never so far that few are in flight, or that the `largest` row (as a share of a limit) nears the limit.
    """
    wanted = min(BURST_ROWS / a_minute, WAVE_ROWS / in_flight)
    return min(1.0, max(most / rows, wanted, FEWEST_IN_FLIGHT / in_flight, ROOM_FOR_LARGEST * largest))
