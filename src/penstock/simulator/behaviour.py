"""What a simulated provider does with a request: admit, refuse, fail or answer, and when. It also keeps the account.

Pure: time is an argument, and chance is drawn from (seed, prompt, how often that prompt was admitted), so that a run
replays whatever the order in which requests arrive. It never sends, waits or reads a clock; how an answer looks on the
wire is in `answers`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from penstock.errors import RequestError, UsageError
from penstock.simulator import answers
from penstock.simulator.answers import Ask, Header, Told
from penstock.simulator.budgets import Budgets

_MARKER = re.compile(r"\[\[simulate:([a-z0-9_-]+?)(?:\*(\d+))?\]\]")
_ALIASES = {
    "400": "invalid_request",
    "401": "bad_key",
    "404": "model_not_found",
    "429": "throttle",
    "500": "error_500",
    "502": "html",
    "503": "error_503",
}
_FINISHES = {"length": "length", "filtered": "content_filter"}
_WIRE_FAULTS = frozenset({"reset", "stall", "truncate", "garbage"})
_OUTCOMES = frozenset({*answers.REFUSALS, *_FINISHES, *_WIRE_FAULTS, "empty_choices"})
_DEFAULT_OUTPUT_TOKENS = 16
_FILLER = " and so on"
_DUPLICATES_NAMED = 20
_TALLIED = ("arrived", "answered", "duplicates", "throttled", "abandoned", "input_tokens", "output_tokens")


def expected_text(prompt: str, output_tokens: int | None = None) -> str:
    """The answer to a prompt: `echo 1a2b3c4d: <its first words>`, filled up to `output_tokens` tokens where given.

    The eight hexadecimal digits are of the prompt's BLAKE2b digest, so that no prompt passes for another.
    """
    words = " ".join(prompt[:160].split()[:8])
    text = f"echo {prompt_digest(prompt)[:8]}: {words}"
    missing = 4 * (output_tokens or 0) - len(text)
    return text if missing <= 0 else text + (_FILLER * (missing // len(_FILLER) + 1))[:missing]


def prompt_digest(text: str) -> str:
    """16 hexadecimal digits that name a prompt: the messages' texts, joined by newlines."""
    return _digest(text).hex()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


class Spread(msgspec.Struct, frozen=True):
    """A log-normal time in seconds, cut off at `low` and `high`: exp(ln(median) + sigma * N(0, 1))."""

    median: float
    sigma: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not (0 < self.median < math.inf and self.sigma >= 0 and self.low <= self.high):
            raise UsageError(
                "a spread of times needs a median above 0, a sigma from 0, and a low end below the high one"
            )

    @classmethod
    def between(cls, low: float, high: float) -> Spread:
        """None outside of `low` and `high`, 95 % of it before the cut (two sigmas reach to either end)."""
        if not 0 < low <= high < math.inf:
            raise UsageError(f"a spread of times must go from above 0 to something larger, not from {low} to {high}")
        return cls(math.sqrt(low * high), math.log(high / low) / 4, low, high)

    def draw(self, first: float, second: float) -> float:
        """The time for two numbers in [0, 1) (Box-Muller)."""
        normal = math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)
        return min(self.high, max(self.low, self.median * math.exp(self.sigma * normal)))


Seconds: TypeAlias = float | Spread


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """The share of admitted requests that each fault hits; at most 1 together.

    throttle is a 429 that names a wait, throttle_bare one that does not; reset, stall, truncate and garbage spoil the
    connection; html is a proxy's 502 page.
    """

    error_500: float = 0.0
    error_503: float = 0.0
    throttle: float = 0.0
    throttle_bare: float = 0.0
    reset: float = 0.0
    stall: float = 0.0
    truncate: float = 0.0
    garbage: float = 0.0
    html: float = 0.0

    def __post_init__(self) -> None:
        rates = msgspec.structs.asdict(self)
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise UsageError(f"the rate of fault {name} must be from 0 to 1, not {rate!r}")
        if sum(rates.values()) > 1 + 1e-9:
            raise UsageError("the rates of all faults together must be at most 1")

    def pick(self, number: float) -> str | None:
        """The fault that a number in [0, 1) falls on."""
        for name in self.__struct_fields__:
            number -= getattr(self, name)
            if number < 0:
                return name
        return None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the provider behaves. Durations are seconds; None means "no such limit" or "any".

    `burst_seconds` is how much of a limit may be used at once (60: a whole minute's, as OpenAI does). `latency` passes
    before the first token, `token_latency` for each output token. `output_tokens` is the length that answers are
    filled up to. `text` makes the answer of a prompt. `key_refused_after` and `credit_gone_after` are the number of
    requests after which the key is bad or the money spent; 0 is from the start.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst_seconds: float = 60.0
    latency: Seconds = 0.0
    token_latency: Seconds = 0.0
    output_tokens: int | None = None
    faults: Faults = Faults()
    retry_after: float = 1.0
    seed: int = 0
    api_key: str | None = None
    models: tuple[str, ...] | None = None
    text: Callable[[str, int | None], str] = expected_text
    key_refused_after: int | None = None
    credit_gone_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "burst_seconds", "output_tokens", "retry_after"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} must be a positive number, not {value!r}")
        for name in ("latency", "token_latency"):
            value = getattr(self, name)
            if not isinstance(value, Spread) and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be a number of seconds from 0, not {value!r}")

    def __repr__(self) -> str:
        # The key is not shown: a repr ends up in logs and tracebacks.
        return f"Settings(rpm={self.requests_per_minute}, tpm={self.tokens_per_minute}, seed={self.seed})"


class Plan(msgspec.Struct):
    """What will be sent for one request. Give it back to `Simulator.leave` once, when it is sent or the client is gone.

    `delay` is the seconds to the first byte. `chunks` are a stream's events, each with the seconds since the one
    before; `body` is empty then. `fault` is how the connection is spoiled. `outcome` is `answered`, `throttled` or the
    name of what went wrong; the rest is for the account.
    """

    status: int
    headers: list[Header]
    outcome: str
    body: bytes = b""
    chunks: list[tuple[float, bytes]] | None = None
    delay: float = 0.0
    fault: str | None = None
    model: str = ""
    digest: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reserved_tokens: int = 0


class Stats(msgspec.Struct, frozen=True):
    """The account so far. `answered` counts 200s sent whole, `prompts` the different prompts among them, `duplicates`
    the answers to a prompt that had been answered before (some named in `duplicate_digests`, see `prompt_digest`),
    `abandoned` the answers whose client left first, `elapsed` the seconds since the first arrival."""

    arrived: int
    answered: int
    prompts: int
    duplicates: int
    duplicate_digests: list[str]
    throttled: int
    failed: dict[str, int]
    abandoned: int
    in_flight: int
    peak: int
    input_tokens: int
    output_tokens: int
    elapsed: float


class Simulator:
    """One provider: `arrive` plans what a request gets, `leave` closes its account, `stats` tells it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._seed = str(settings.seed).encode()[:64]
        self._budgets: dict[str, Budgets] = {}
        # A prompt's digest -> twice the times it was admitted, plus one once it is answered. An int rather than a
        # pair, so that a million prompts stay near 100 MB.
        self._seen: dict[int, int] = {}
        self._tally: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._duplicates: list[str] = []
        self._in_flight = self._peak = 0
        self._first_arrival: float | None = None

    def arrive(self, now: float, body: bytes, key: str | None = None) -> Plan:
        """The plan for a body that came with that API key, at `now` in monotonic seconds."""
        self._tally["arrived"] += 1
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        if self._first_arrival is None:
            self._first_arrival = now
        plan = self._plan(now, body, key)
        if plan.outcome == "throttled":
            self._tally["throttled"] += 1
        elif plan.outcome != "answered":
            self._failed[plan.outcome] += 1
        return plan

    def leave(self, now: float, plan: Plan, whole: bool) -> None:
        """The request is over; `whole` says that all of its answer went out."""
        self._in_flight -= 1
        if plan.outcome == "answered":
            self._tally["answered" if whole else "abandoned"] += 1
            if whole:
                self._settle(now, plan)

    def stats(self, now: float) -> Stats:
        """The account at `now`."""
        tally = self._tally
        first = now if self._first_arrival is None else self._first_arrival
        return Stats(
            **{name: tally[name] for name in _TALLIED},
            prompts=tally["answered"] - tally["duplicates"],
            duplicate_digests=list(self._duplicates),
            failed=dict(self._failed),
            in_flight=self._in_flight,
            peak=self._peak,
            elapsed=now - first,
        )

    def _settle(self, now: float, plan: Plan) -> None:
        tokens = plan.input_tokens + plan.output_tokens
        self._budgets[plan.model].charge_tokens(now, tokens - plan.reserved_tokens)
        self._tally["input_tokens"] += plan.input_tokens
        self._tally["output_tokens"] += plan.output_tokens
        if not self._seen[plan.digest] & 1:
            self._seen[plan.digest] += 1
            return
        self._tally["duplicates"] += 1
        if len(self._duplicates) < _DUPLICATES_NAMED:
            self._duplicates.append(f"{plan.digest:016x}")

    def _plan(self, now: float, body: bytes, key: str | None) -> Plan:
        settings, arrived = self.settings, self._tally["arrived"]
        if settings.api_key not in (None, key) or arrived > _or_never(settings.key_refused_after):
            return _refused("bad_key")
        if arrived > _or_never(settings.credit_gone_after):
            return _refused("no_credit")
        try:
            ask = answers.read(body)
        except RequestError as error:
            return _invalid(error.message)
        if settings.models is not None and ask.model not in settings.models:
            return Plan(404, [answers.JSON], "model_not_found", answers.unknown_model(ask.model))
        return self._limited(now, ask, len(body))

    def _limited(self, now: float, ask: Ask, size_bytes: int) -> Plan:
        settings = self.settings
        budgets = self._budgets.get(ask.model)
        if budgets is None:
            limits = {"requests": settings.requests_per_minute, "tokens": settings.tokens_per_minute}
            budgets = self._budgets[ask.model] = Budgets(ask.model, limits, settings.burst_seconds)
        output = ask.limit if ask.limit is not None else settings.output_tokens or _DEFAULT_OUTPUT_TOKENS
        reserved = (size_bytes + 3) // 4 + output
        refusal = budgets.admit(now, {"requests": 1, "tokens": reserved})
        if refusal is not None:
            return Plan(429, [answers.JSON, *budgets.headers(now), *refusal.headers], "throttled", refusal.body)
        plan = self._admitted(ask)
        plan.reserved_tokens = reserved
        plan.headers += budgets.headers(now)
        return plan

    def _admitted(self, ask: Ask) -> Plan:
        text = ask.text()
        name = _digest(text)
        digest = int.from_bytes(name, "big")
        seen = self._seen.get(digest, 0)
        self._seen[digest] = seen + 2
        admitted = seen // 2
        number, *chances = _chances(self._seed, name, admitted)
        plan = self._outcome(ask, _marked(text, admitted) or self.settings.faults.pick(number), digest, chances)
        plan.model, plan.digest = ask.model, digest
        plan.headers.append((b"x-request-id", b"req_%b%d" % (name.hex().encode(), admitted)))
        return plan

    def _outcome(self, ask: Ask, outcome: str | None, digest: int, chances: list[float]) -> Plan:
        settings = self.settings
        if outcome in answers.REFUSALS and not (outcome == "error_in_200" and ask.stream):
            plan = _refused(outcome, settings.retry_after)
        elif outcome is not None and outcome not in _OUTCOMES:
            plan = _invalid(f"Unknown marker {outcome!r}: use one of {', '.join(sorted(_OUTCOMES))}.")
        else:
            return self._answer(ask, outcome, digest, chances)
        if plan.status >= 500 or plan.status == 200:
            plan.delay = _seconds(settings.latency, chances[0], chances[1])
        return plan

    def _answer(self, ask: Ask, outcome: str | None, digest: int, chances: list[float]) -> Plan:
        settings = self.settings
        told = self._told(ask, outcome, digest)
        first = _seconds(settings.latency, chances[0], chances[1])
        each = _seconds(settings.token_latency, chances[2], chances[3])
        plan = Plan(200, [], "answered" if outcome is None or outcome in _FINISHES else outcome, delay=first)
        plan.input_tokens, plan.output_tokens = told.input_tokens, told.output_tokens
        plan.fault = outcome if outcome in _WIRE_FAULTS else None
        if ask.stream:
            plan.headers.append(answers.EVENTS)
            plan.chunks = _stream(ask, told, outcome, each)
        else:
            plan.headers.append(answers.JSON)
            plan.delay += each * told.output_tokens
            plan.body = answers.empty_completion(told) if outcome == "empty_choices" else answers.completion(told)
        return plan

    def _told(self, ask: Ask, outcome: str | None, digest: int) -> Told:
        text = self.settings.text(ask.prompt(), self.settings.output_tokens)
        finish = _FINISHES.get(outcome or "", "stop")
        if outcome in _FINISHES:
            text = text[: len(text) // 2] if outcome == "length" else ""
        elif ask.limit is not None and answers.count_tokens(text) > ask.limit:
            text, finish = answers.cut(text, ask.limit), "length"
        spent = sum(answers.count_tokens(message.text()) for message in ask.messages)
        return Told(f"chatcmpl-{digest:016x}", ask.model, text, finish, spent, answers.count_tokens(text))


def _or_never(after: int | None) -> float:
    return math.inf if after is None else after


def _invalid(message: str) -> Plan:
    return Plan(400, [answers.JSON], "invalid_request", answers.error_body(message, "invalid_request_error"))


def _refused(outcome: str, retry_after: float | None = None) -> Plan:
    status, body = answers.REFUSALS[outcome]
    headers = [answers.HTML if outcome == "html" else answers.JSON]
    if outcome in ("throttle", "error_503") and retry_after is not None:
        headers += answers.retry_headers(retry_after)
    return Plan(status, headers, "throttled" if outcome.startswith("throttle") else outcome, body)


def _marked(text: str, admitted: int) -> str | None:
    """The outcome that the prompt asks for: `[[simulate:NAME]]`, or `[[simulate:NAME*2]]` for the first two times."""
    found = _MARKER.search(text)
    if found is None or (found[2] is not None and admitted >= int(found[2])):
        return None
    name = found[1].replace("-", "_")
    return _ALIASES.get(name, name)


def _chances(seed: bytes, name: bytes, admitted: int) -> list[float]:
    """Five numbers in [0, 1) that depend on nothing but these."""
    drawn = hashlib.blake2b(name + admitted.to_bytes(8, "little"), key=seed, digest_size=40).digest()
    return [(int.from_bytes(drawn[k : k + 8], "little") >> 11) * 2.0**-53 for k in range(0, 40, 8)]


def _seconds(time: Seconds, first: float, second: float) -> float:
    return time.draw(first, second) if isinstance(time, Spread) else time


def _stream(ask: Ask, told: Told, outcome: str | None, each: float) -> list[tuple[float, bytes]]:
    """The events of a stream, each with the seconds since the one before."""
    events = answers.events(told, ask.stream_options is not None and ask.stream_options.include_usage)
    if outcome == "error_in_200":
        events = [events[0], (0, answers.error_event(answers.REFUSALS[outcome][1]))]
    elif outcome == "empty_choices":
        events = events[-1:]
    return [(tokens * each, event) for tokens, event in events]
