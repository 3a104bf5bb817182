"""What a simulated provider may be told to be: limits and how they are kept, charges, latency, faults, and what changes when.

Pure values, refused at once where they cannot be right. They decide nothing; `behaviour` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import msgspec

from penstock.errors import UsageError
from penstock.simulator.chance import EXACT, Scatter, Seconds, Spread, digest

_FILLER = " and so on"


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
    return digest(text).hex()


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


NO_FAULTS = Faults()

Window: TypeAlias = Literal["bucket", "fixed", "sliding"]
"""How a minute's limit is kept: a level that drains, a counter that is reset each minute, a log of the last minute."""

ChargeRule: TypeAlias = Literal["reserved", "unset", "actual"]
"""What is charged at admission: bytes/4 + `max_tokens` (or what answers have without one); bytes/4 + what answers have,
whatever `max_tokens` says; or what the answer will really use."""

Headers: TypeAlias = Literal["right", "none", "tenfold", "tenth", "spent", "garbage"]
"""What the limit headers tell: the truth, nothing (nor does a 429 name a wait), ten times or a tenth of it, that nothing
remains, or words that are no numbers."""

Outage: TypeAlias = Literal["error_503", "refused", "reset"]
"""What everybody gets while it lasts: a 503, no connection, or a connection that breaks."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand from `at` seconds after the first arrival until the next phase.

    `limit_share` scales every limit, slots too. `foreign_share` is how much of the unscaled limits others on the same
    key ask for. `outage` is what everybody gets.
    """

    at: float
    limit_share: float = 1.0
    foreign_share: float = 0.0
    outage: Outage | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.at < math.inf and 0 < self.limit_share < math.inf and 0 <= self.foreign_share < math.inf):
            raise UsageError("a phase needs a time from 0, a share of the limit above 0 and a foreign share from 0")


_POSITIVE = (
    *("requests_per_minute", "tokens_per_minute", "input_tokens_per_minute", "output_tokens_per_minute"),
    *("requests_per_day", "burst_seconds", "output_tokens", "retry_after", "max_in_flight", "slots"),
)
_CHOICES = {"window": Window, "charge": ChargeRule, "headers": Headers}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the provider behaves. Durations are seconds; None means "no such limit" or "any".

    Limits: `burst_seconds` is how much of a limit may be used at once where `window` is a bucket (60: a whole minute's,
    as OpenAI does). Fixed windows begin at `window_offset` on the server's clock, by default with the first arrival.
    Above `max_in_flight` requests one is refused by `full_status`, without a wait.

    Charges: `charge` is the rule, `charge_scatter` a factor on it; `settled` says whether the charge is put right once
    the answer is sent. `tokens_scatter` is how the count of a prompt's tokens differs from a quarter of its bytes.

    Time: `latency` passes before the first token, `token_latency` for each output token, longer by the share
    `batch_slowdown` for each other request that is being answered. With `slots` no more are answered at once, the others
    queue, and above `shed_above` in the queue a 503 is given.

    Answers: `output_tokens` is the length that they are filled up to, `text` makes the answer of a prompt.
    `key_refused_after` and `credit_gone_after` are the number of requests after which the key is bad or the money
    spent; 0 is from the start. `schedule` are the phases of the run, in order of time.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    requests_per_day: float | None = None
    burst_seconds: float = 60.0
    window: Window = "bucket"
    window_offset: float | None = None
    charge: ChargeRule = "reserved"
    charge_scatter: Scatter = EXACT
    settled: bool = True
    tokens_scatter: Scatter = EXACT
    max_in_flight: int | None = None
    full_status: Literal[429, 503] = 429
    slots: int | None = None
    shed_above: int | None = None
    batch_slowdown: float = 0.0
    headers: Headers = "right"
    schedule: tuple[Phase, ...] = ()
    latency: Seconds = 0.0
    token_latency: Seconds = 0.0
    output_tokens: int | None = None
    faults: Faults = NO_FAULTS
    retry_after: float = 1.0
    seed: int = 0
    api_key: str | None = None
    models: tuple[str, ...] | None = None
    text: Callable[[str, int | None], str] = expected_text
    key_refused_after: int | None = None
    credit_gone_after: int | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} must be a positive number, not {value!r}")
        for name in ("latency", "token_latency", "batch_slowdown"):
            value = getattr(self, name)
            if not isinstance(value, Spread) and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be a number of seconds from 0, not {value!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise UsageError(f"{name} must be one of {', '.join(get_args(choices))}, not {getattr(self, name)!r}")
        if any(later.at <= earlier.at for earlier, later in pairwise(self.schedule)):
            raise UsageError("the phases of a schedule must be in order of time")

    def __repr__(self) -> str:
        # The key is not shown: a repr ends up in logs and tracebacks.
        return f"Settings(rpm={self.requests_per_minute}, tpm={self.tokens_per_minute}, seed={self.seed})"
