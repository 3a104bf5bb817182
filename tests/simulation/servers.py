"""The server models by name, each with the figures that must hold in front of it.

What is not told apart by the name is told apart by the seed, so that twenty seeds see every variant of a server.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from penstock.options import Limits
from penstock.simulator.behaviour import Phase, Settings, Spread
from penstock.simulator.chance import EXACT, Scatter
from penstock.simulator.settings import Headers, Outage
from tests.simulation.models import (
    FIRST_HALF,
    MEAN_TOKENS,
    MINUTES,
    ROWS,
    SECOND_HALF,
    SEEDS,
    Figures,
    Model,
    Trial,
    same_answer,
)

RPM = ROWS / MINUTES
TPM = RPM * MEAN_TOKENS
LATENCY = Spread(0.8, 0.4)

KNOWN = Figures(least_use=0.99, most_throttled_first=0, most_throttled_steady=0)
NOISY = Figures(least_use=0.96, most_throttled_first=10, most_throttled_steady=0)
"""One throttle for each thousand rows in the first minute, while the bias is unknown."""

NOISE = (Scatter(1.3, 0.2), Scatter(1 / 1.3, 0.2))
"""20 % noise, and a count of tokens 30 % above or below a quarter of the bytes, which the usage tells."""

KEPT: dict[str, dict[str, Any]] = {
    "bucket 60 s": {"burst_seconds": 60.0},
    "bucket 1 s": {"burst_seconds": 1.0},
    "fixed": {"window": "fixed"},
    "sliding": {"window": "sliding"},
}
BURSTS = (60.0, 1.0)


def _settings(seed: int, **chosen: Any) -> Settings:
    return Settings(**{"seed": seed, "text": same_answer, "latency": LATENCY, **chosen})


def _tokens(seed: int, kept: dict[str, Any], figures: Figures, scatter: Scatter = EXACT) -> Trial:
    """A known limit of tokens; what is charged is what the usage tells."""
    # A fixed window begins with the first arrival, or anywhere.
    offset = {"window_offset": seed * 17.0 % 60.0 - 60.0} if seed % 4 >= 2 else {}
    tpm = TPM * scatter.bias
    settings = _settings(seed, tokens_per_minute=tpm, charge="actual", tokens_scatter=scatter, **kept, **offset)
    limits = Limits(tokens_per_minute=tpm)
    return Trial(settings=settings, available=((0.0, tpm),), figures=figures, limits=limits, unit="tokens")


def _requests(
    seed: int,
    figures: Figures,
    *,
    rpm: float = RPM,
    known: bool = True,
    available: tuple[tuple[float, float], ...] = (),
    **more: Any,
) -> Trial:
    """A limit of requests, known to the client or not."""
    return Trial(
        settings=_settings(seed, requests_per_minute=rpm, **more),
        available=available or ((0.0, rpm),),
        figures=figures,
        limits=Limits(requests_per_minute=rpm) if known else Limits(),
    )


def _exact(kept: dict[str, Any]) -> Model:
    """Every other seed by tokens, the rest by requests."""

    def trial(seed: int) -> Trial:
        return _tokens(seed, kept, KNOWN) if seed % 2 else _requests(seed, KNOWN, **kept)

    return Model(f"{_name(kept)}, exact", trial, FIRST_HALF)


def _noise(kept: dict[str, Any]) -> Model:
    def trial(seed: int) -> Trial:
        # Where a second's burst holds eleven requests of the mean size, a clump of costs that are all 20 % more than was
        # thought runs over once in some 100,000 requests.
        rarely = msgspec.structs.replace(NOISY, most_throttled_steady=int(kept.get("burst_seconds") == 1.0))
        return _tokens(seed, kept, rarely, NOISE[seed % len(NOISE)])

    return Model(f"{_name(kept)}, noise", trial, SECOND_HALF)


def _name(kept: dict[str, Any]) -> str:
    return next(name for name, those in KEPT.items() if those is kept)


def _halved(seed: int) -> Trial:
    """From the fifth minute to the tenth there is half of the limit that the client knows."""
    rpm = ROWS / 12.5
    return _requests(
        seed,
        Figures(most_extra_throttles=1, least_recovered=0.95),
        rpm=rpm,
        available=((0.0, rpm), (300.0, rpm / 2), (600.0, rpm)),
        burst_seconds=BURSTS[seed % 2],
        schedule=(Phase(at=300.0, limit_share=0.5), Phase(at=600.0)),
    )


def _foreign(seed: int) -> Trial:
    """From the fifth minute to the tenth others ask for 30 % of the limit, in clumps: a bucket of twelve may run dry twice."""
    rpm = ROWS / 13.5
    return _requests(
        seed,
        Figures(most_extra_throttles=1 if BURSTS[seed % 2] > 1 else 2, least_recovered=0.95),
        rpm=rpm,
        available=((0.0, rpm), (300.0, rpm), (600.0, rpm)),
        burst_seconds=BURSTS[seed % 2],
        schedule=(Phase(at=300.0, foreign_share=0.3), Phase(at=600.0)),
    )


def _outage(seed: int) -> Trial:
    """From the second minute to the twelfth nobody is answered: 503s, no connection, or connections that break."""
    rpm = ROWS / 5.0
    return _requests(
        seed,
        Figures(most_sends_a_row=1.10),
        rpm=rpm,
        available=((0.0, rpm), (120.0, 0.0), (720.0, rpm)),
        schedule=(Phase(at=120.0, outage=get_args(Outage)[seed % 3]), Phase(at=720.0)),
    )


def _out_of_order(seed: int) -> Trial:
    """The client learns the limit from headers that were true when the request came and arrive up to a minute later."""
    figures = Figures(least_use=0.92, most_throttled=5)
    latency = Spread(3.0, 1.0, 0.2, 60.0)
    return _requests(seed, figures, known=False, burst_seconds=BURSTS[seed % 2], latency=latency)


def _no_headers(seed: int) -> Trial:
    """Nothing is known and nothing is told; a 429 names no wait."""
    figures = Figures(most_throttled_share=0.03)
    return _requests(seed, figures, known=False, burst_seconds=BURSTS[seed % 2], headers="none")


def _wrong_headers(seed: int) -> Trial:
    """The client knows the limit and the headers tell another. What is too much must not be believed."""
    kinds: tuple[Headers, ...] = ("tenfold", "garbage", "tenth", "spent")
    kind = kinds[seed % len(kinds)]
    figures = KNOWN if kind in ("tenfold", "garbage") else Figures(most_throttled_steady=0)
    return _requests(seed, figures, burst_seconds=BURSTS[seed // 4 % 2], headers=kind)


IN_FLIGHT = 64
SERVICE = Spread(5.3, 0.4)
"""5.74 s in the mean: 64 at once are 10,000 in 15 minutes."""


def _concurrency(seed: int) -> Trial:
    """64 at once, the rest is refused, by a 429 or a 503, without a wait and without headers."""
    status = (429, 503)[seed % 2]
    settings = _settings(seed, max_in_flight=IN_FLIGHT, full_status=status, latency=SERVICE)
    return Trial(settings=settings, available=((0.0, RPM),), figures=Figures(most_throttled_share=0.03))


def _engine(seed: int) -> Trial:
    """64 slots and a queue, which sheds load above 128 for half of the seeds."""
    settings = _settings(seed, slots=IN_FLIGHT, shed_above=(None, 128)[seed % 2], latency=SERVICE)
    figures = Figures(least_use=0.90, most_in_flight=3 * IN_FLIGHT)
    return Trial(settings=settings, available=((0.0, RPM),), figures=figures)


_ALL = [
    *(make(kept) for kept in KEPT.values() for make in (_exact, _noise)),
    Model("concurrency limit", _concurrency),
    Model("engine of 64 slots", _engine, SEEDS[:6]),
    Model("limit halved", _halved),
    Model("30 % foreign traffic", _foreign),
    Model("outage of ten minutes", _outage),
    Model("headers out of order", _out_of_order),
    Model("no headers", _no_headers),
    Model("wrong headers", _wrong_headers),
]
MODELS: dict[str, Model] = {model.name: model for model in _ALL}
