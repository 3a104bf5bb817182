"""How many requests may be in flight where nothing limits the rate: a self-hosted engine, whose slots nobody tells.

It decides one number from the answers that come back. It never waits, reads no clock, and never looks at how long an answer
takes as such: an answer of four times the length is no sign of load. What counts is the time per output token over a round
of answers, as a ratio of sums. By Little's law in_flight / time_per_token is the engine's throughput in tokens, so two
rounds at two allowances tell what the larger one bought, whatever the answers' lengths, and without the noise of counting
completions in a window. Where the engine tells no usage, an answer counts as one unit of work.

A run has three parts. The ramp doubles each round trip until the time per token rises faster than a batch explains. Then it
holds, a third above the knee, so that a queue of that length keeps every slot busy. Now and then it probes: a round at two
thirds of the allowance, and from there up or down for as long as the comparison says so.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

SATURATED = 0.8
"""Nothing is learned from answers while less than this share of the allowance is in use (inspect_ai's saturation gate)."""

RAMP_ROUND = 8
RAMP_TOLERANCE = 1.5
RAMP_FLAT = 1.35
"""The ramp ends when a token takes 1.5 times as long as one or two doublings ago: past the slots a doubling makes it 2.0. Past
1.35 the earlier round stays what the next is compared with. In simulation 1.6 lets the ramp reach 3.9 requests a slot; 1.35
ends it at half the slots where a token takes three times as long in a full engine as in an idle one."""

RAMP_CALM, RAMP_CAREFULLY = 1.2, 0.25
"""Once a token takes a fifth longer, the ramp grows by a quarter as fast: what is seen of an allowance is one round trip old."""

QUEUED_SHARE = 0.15
"""Streams show a queue sooner: the ramp ends when the wait for the first token takes this much more of an answer's time
than at its least. A queue of 0.2 slots takes a sixth."""

STEP = 1.5
"""Between the two allowances of a comparison: up to 2.25 times the slots, where 1.5 times is already enough."""

ABOVE_KNEE = 1.3
"""A queue of 0.3 slots hides the gaps between answers. It also sets what growth must buy: a step by 1.5 that makes tokens
slower by more than 1.3 is not worth it, so an engine whose tokens take four times as long when full still gives 92 %."""

BOUGHT_ALL, BOUGHT_NOTHING = 0.75, 0.15
"""Share of a step that came back as throughput. Above the first, step up again; below the second, step down again. At the
allowance that is held it is 0.35 (1 - ln 1.3 / ln 1.5), known to 0.1 (simulated)."""

IMPOSSIBLE = 0.75
"""No allowance buys more than all by so much, or less than nothing: the traffic changed between the rounds."""

ROUND = 32
ROUND_WITHOUT_USAGE = 96
"""Fewest answers of a round. With answers of sigma 0.6 the throughput of a round near the knee is then known to 2-3 %, without
usage to 6 % (simulated)."""

SAME = 0.06
"""A probe that moves the allowance by less, as a logarithm, changed nothing."""

CHANGED = math.log(1.25)
CHANGED_WITHOUT_USAGE = math.log(1.5)
"""A time per token that moves so much at the same allowance calls for a probe soon: the engine gained or lost slots."""

MOST_ROUNDS_HELD = 16
FEWEST_ROUNDS_HELD = 4
LONGEST_HOLD_S = 60.0
"""A probe that changes nothing doubles the rounds until the next, up to the first; past a minute the second is enough."""

CUT = 0.7
LONGEST_EPISODE_S = 15.0
"""CUBIC's beta, once an episode of 15 s as inspect_ai has it, or a round trip if that is shorter."""

NEAR_TOP = 0.9
BELOW_SHED = 0.95
TOP_GROWTH = 1.05
"""After a refusal growth stops just below where it came, and each probe lifts that by a little."""

FAST_S = 0.02
"""What answers within 20 ms works on no model: fewer at once than the start would only make each of them dearer."""

STUCK_AFTER, STUCK_AFTER_S = 5.0, 0.1
"""So many round trips without any answer say that what is in flight hangs: one more may go, and another as long again after."""

SHORTEST_S, LONGEST_S = 1e-6, 86_400.0
MOST_TOKENS = 1e9
"""Answers outside of these are mistakes of a clock or of a server, and are not learned from."""

SMOOTHING = 0.1


class Phase(Enum):
    """What the present allowance is for."""

    RAMP = "ramp"
    HOLD = "hold"
    BELOW = "probe below"
    ABOVE = "probe above"


class Point(NamedTuple):
    """One round: requests in flight and seconds per token, both as means."""

    in_flight: float
    token_s: float


def bought(low: Point, high: Point) -> float | None:
    """The share of the growth from `low` to `high` that came back as throughput: 1 all of it, 0 nothing.

    The elasticity of throughput, ln(rate / rate) / ln(in flight / in flight), with the rate by Little's law. None where the
    two are too close to tell.
    """
    growth = math.log(high.in_flight / low.in_flight)
    if growth < math.log(TOP_GROWTH):
        return None
    return 1.0 - math.log(high.token_s / low.token_s) / growth


def above_knee(low: Point, high: Point) -> float:
    """The allowance to hold, where `high` is at or past the knee: what throughput at `high` needs at the pace of `low`."""
    return ABOVE_KNEE * high.in_flight * min(1.0, low.token_s / high.token_s)


class Concurrency:
    """The allowance of one model: at least 1, at most `most`, at first `start`."""

    def __init__(self, most: int, *, start: int = 20) -> None:
        self._most = max(1, most)
        self._top = float(self._most)
        self._level = float(min(max(1, start), self._most))
        self._allowed = int(self._level)
        self._phase = Phase.RAMP
        self._reference: Point | None = None
        self._first_share = 1.0
        self._counts_tokens = self._upwards = False
        self._calm = True
        self._hold_rounds, self._rounds_held, self._held_since = 1, 0, -math.inf
        self._round_trip_s, self._last_heard, self._stuck = 0.0, math.inf, 0
        self._fewest = self._allowed
        self._cut_at, self._cuts = -math.inf, 0
        self._settling = 0
        self._clear()

    @property
    def allowed(self) -> int:
        """How many may be in flight now, from 1 to `most`, beside what hangs."""
        return self._allowed

    def full_until(self, now: float, in_flight: int) -> float:
        """Until when no more may go; `now` if one may. Where nothing comes back, what hangs is not counted for ever."""
        if in_flight < self._allowed + self._stuck:
            return now
        at = self._last_heard + max(STUCK_AFTER * self._round_trip_s, STUCK_AFTER_S)
        if now < at or in_flight >= self._most:
            return at if in_flight < self._most else math.inf
        self._stuck += 1
        self._last_heard = now
        return now

    def over(self, took_s: float) -> None:
        """An attempt is over, answered or not: one that took so long was held to be stuck, and is no more."""
        if self._stuck and took_s > max(STUCK_AFTER * self._round_trip_s, STUCK_AFTER_S):
            self._stuck -= 1

    def answered(
        self, now: float, in_flight: int, took_s: float, output_tokens: int | None, first_token_s: float | None = None
    ) -> None:
        """One answer is over; `in_flight` counts itself, `first_token_s` is known of streams only."""
        if not SHORTEST_S <= took_s <= LONGEST_S or in_flight < 1:
            return
        work = 1.0
        if output_tokens is not None and 0 < output_tokens <= MOST_TOKENS:
            if not self._counts_tokens:
                self._start_to_count_tokens()
            work = output_tokens
        elif self._counts_tokens:
            return
        self._last_heard = now
        self._round_trip_s += (took_s - self._round_trip_s) * (SMOOTHING if self._round_trip_s else 1.0)
        if self._phase is Phase.RAMP and in_flight >= SATURATED * self._allowed:
            self._allow(self._level + (1.0 if self._calm else RAMP_CAREFULLY))
        if self._settling > 0:
            self._settling -= 1
            return
        self._answers += 1
        self._took_s += took_s
        self._work += work
        self._in_flight += min(self._most, in_flight)
        if first_token_s is not None:
            self._first_token_s += first_token_s
        if self._answers >= self._enough:
            self._finish_round(now, in_flight)

    def shed(self, now: float) -> None:
        """The server refused for load. One cut an episode: refusals of what was under way at the cut are of the same."""
        episode = min(self._round_trip_s or LONGEST_EPISODE_S, LONGEST_EPISODE_S)
        if now < self._cut_at + episode:
            return
        self._cut_at, self._cuts = now, self._cuts + 1
        self._top = max(1.0, BELOW_SHED * self._level)
        self._upwards, self._hold_rounds = True, 1
        self._hold(CUT * self._level, now, settling=self._allowed)

    def statistics(self) -> dict[str, float]:
        """The allowance, what bounds it, seconds per token when last held (per answer without usage), a round trip, cuts."""
        return {
            "allowed": self._allowed,
            "at_most": min(self._top, self._most),
            "token_s": self._reference.token_s if self._reference else 0.0,
            "round_trip_s": self._round_trip_s,
            "cuts": self._cuts,
        }

    def _start_to_count_tokens(self) -> None:
        """What was measured in answers so far cannot be compared with tokens."""
        self._counts_tokens, self._reference = True, None
        if self._phase is not Phase.RAMP:
            self._phase = Phase.HOLD
        self._clear()

    def _clear(self) -> None:
        """Begin a round."""
        self._answers = self._in_flight = 0
        self._took_s = self._work = self._first_token_s = 0.0
        if self._phase is Phase.RAMP:
            # Short answers come first, so where only answers are counted a round must see all of a wave.
            self._enough = RAMP_ROUND if self._counts_tokens else max(ROUND, self._allowed)
        else:
            self._enough = max(ROUND if self._counts_tokens else ROUND_WITHOUT_USAGE, self._allowed)

    def _allow(self, level: float) -> None:
        self._level = min(max(1.0, level), self._top, float(self._most))
        fewest = self._fewest if 0.0 < self._round_trip_s < FAST_S else 1
        self._allowed = max(fewest, round(self._level))

    def _change(self, phase: Phase, level: float, settling: int) -> None:
        """Another allowance; answers of requests that were under way before it are not counted for it."""
        self._phase, self._settling = phase, max(0, min(settling, self._most))
        self._allow(level)
        self._clear()

    def _hold(self, level: float, now: float, settling: int) -> None:
        self._reference, self._rounds_held, self._held_since = None, 0, now
        self._change(Phase.HOLD, level, settling)

    def _finish_round(self, now: float, in_flight: int) -> None:
        point = Point(self._in_flight / self._answers, self._took_s / self._work)
        first_share = min(max(self._first_token_s / self._took_s, 0.0), 1.0)
        self._clear()
        if self._phase is Phase.RAMP:
            self._ramp(point, first_share, now, in_flight)
        elif point.in_flight < SATURATED * self._allowed:
            return
        elif self._phase is Phase.HOLD:
            self._keep(point, now, in_flight)
        else:
            self._compare(point, now, in_flight)

    def _ramp(self, point: Point, first_share: float, now: float, in_flight: int) -> None:
        """End the ramp where a queue shows; otherwise remember each doubling, to compare the next with."""
        before = self._reference or point
        self._first_share = min(self._first_share, first_share)
        queued = first_share - self._first_share
        self._calm = point.token_s < RAMP_CALM * before.token_s
        if queued > QUEUED_SHARE:
            # A prompt's own share of the time is no queue; what decoding lost since the least is.
            decoding = (1.0 - first_share) / (1.0 - self._first_share)
            self._hold(ABOVE_KNEE * point.in_flight * decoding, now, in_flight)
        elif point.token_s > RAMP_TOLERANCE * before.token_s:
            self._hold(above_knee(before, point), now, in_flight)
        elif self._level >= self._most:
            self._hold(self._level, now, 0)
        elif before is point or point.token_s < before.token_s * (
            RAMP_FLAT if point.in_flight >= 2 * before.in_flight else 1.0
        ):
            self._reference = point

    def _keep(self, point: Point, now: float, in_flight: int) -> None:
        """One more round held; probe when it is time. Where the engine is not what it was, soon, on a reference of its own."""
        before, self._rounds_held = self._reference or point, self._rounds_held + 1
        limit = CHANGED if self._counts_tokens else CHANGED_WITHOUT_USAGE
        if abs(math.log(point.token_s / before.token_s)) > limit:
            # This round saw some of either; what a probe is compared with must be of the new engine alone.
            self._hold_rounds = 1
            self._hold(self._level, now, in_flight)
            return
        self._reference = Point(*((a + b) / 2 for a, b in zip(before, point, strict=True)))
        long = self._rounds_held >= FEWEST_ROUNDS_HELD and now - self._held_since > LONGEST_HOLD_S
        if long or self._rounds_held >= self._hold_rounds:
            self._probe(in_flight)

    def _probe(self, in_flight: int) -> None:
        """Try another allowance: below, or above after a refusal and where there is nothing below."""
        upwards = self._upwards or self._allowed == 1
        self._upwards = False
        if upwards and self._allowed < min(self._top, self._most):
            self._change(Phase.ABOVE, max(STEP * self._level, self._allowed + 1.0), in_flight)
        elif self._allowed > 1:
            self._change(Phase.BELOW, min(self._level / STEP, self._allowed - 1.0), in_flight)

    def _compare(self, point: Point, now: float, in_flight: int) -> None:
        """What the larger of two allowances bought: go on in that direction, or hold above the knee between them."""
        low, high = sorted((self._reference or point, point))
        share = bought(low, high)
        if share is None:
            self._settle(low, high, now, in_flight)
        elif not -IMPOSSIBLE <= share <= 1.0 + IMPOSSIBLE:
            self._hold(high.in_flight, now, in_flight)
        elif share > BOUGHT_ALL and not self._at_top(high):
            self._step_up(high, in_flight)
        elif share < BOUGHT_NOTHING and point is low and self._allowed > 1:
            self._step_down(low, in_flight)
        else:
            self._settle(low, high, now, in_flight)

    def _at_top(self, point: Point) -> bool:
        return point.in_flight >= NEAR_TOP * min(self._top, self._most)

    def _step_up(self, reference: Point, in_flight: int) -> None:
        """Try more than the round of reference had."""
        self._reference, self._hold_rounds = reference, 1
        self._change(Phase.ABOVE, max(STEP * reference.in_flight, reference.in_flight + 1.0), in_flight)

    def _step_down(self, reference: Point, in_flight: int) -> None:
        """Try less than the round of reference had."""
        self._reference, self._hold_rounds = reference, 1
        self._change(Phase.BELOW, min(reference.in_flight / STEP, self._allowed - 1.0), in_flight)

    def _settle(self, low: Point, high: Point, now: float, in_flight: int) -> None:
        """Hold where the knee is; the longer, the less the probe changed."""
        at_top, level = self._at_top(high), above_knee(low, high)
        if at_top:
            self._hold_rounds = min(max(2 * self._hold_rounds, FEWEST_ROUNDS_HELD), MOST_ROUNDS_HELD)
        elif abs(math.log(level / high.in_flight)) < SAME:
            self._hold_rounds = min(2 * self._hold_rounds, MOST_ROUNDS_HELD)
        else:
            self._hold_rounds = 1
        self._upwards = at_top and self._top < self._most
        self._top = min(self._top * TOP_GROWTH, float(self._most))
        self._hold(level, now, in_flight)
