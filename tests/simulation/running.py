"""One run of one model from one seed on virtual time, what the auditor found of it, and which figures do not hold."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from penstock.simulator.clock import VirtualClock, run
from tests.kit.rows import VirtualClient
from tests.simulation.auditor import Auditor
from tests.simulation.models import ARRIVAL, OUTPUT_TOKENS, ROWS, Figures, Model, Trial


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run; `broken` says in words which of them do not hold."""

    model: str
    seed: int
    rows: int
    ok: int
    minutes: float
    use: float
    throttled: int
    throttled_steady: int
    throttled_after_30_s: int
    extra_throttles: int
    early_sends: int
    sends_a_row: float
    peak: int
    recovered: float | None
    broken: list[str] = []


def audit(model: Model, seed: int, rows: int = ROWS) -> Found:
    """Run it; the same model, seed and rows give the same figures."""
    trial = model.trial(seed)
    auditor, ok = watch(trial, rows)
    found = Found(
        model=model.name,
        seed=seed,
        rows=rows,
        ok=ok,
        minutes=auditor.seconds() / 60,
        use=auditor.use(trial.available),
        throttled=auditor.throttled(),
        throttled_steady=auditor.throttled(since=60.0),
        throttled_after_30_s=auditor.throttled(since=30.0),
        extra_throttles=auditor.extra_throttles(),
        early_sends=auditor.early_sends(),
        sends_a_row=auditor.billed_sends() / rows,
        peak=auditor.server.stats(0.0).peak,
        recovered=auditor.recovered(trial.available),
    )
    return msgspec.structs.replace(found, broken=broken(trial.figures, found))


def watch(trial: Trial, rows: int) -> tuple[Auditor, int]:
    """The auditor after a run, and how many rows were answered."""
    with _no_collection():
        return run(_watched(trial, rows), seed=trial.settings.seed)


async def _watched(trial: Trial, rows: int) -> tuple[Auditor, int]:
    auditor = Auditor(trial.settings, VirtualClock(), ARRIVAL, trial.unit)
    ok = 0
    async with VirtualClient(transport=auditor, limits=trial.limits) as client:
        async for result in client.map(trial.rows(rows), params={"max_tokens": OUTPUT_TOKENS}):
            ok += result.ok
    return auditor, ok


@contextmanager
def _no_collection() -> Iterator[None]:
    """Looking for garbage takes a fifth of a run's time, and a run makes little."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def broken(asked: Figures, found: Found) -> list[str]:
    """The figures that do not hold, as sentences; rows answered and waits obeyed are asked of everybody."""
    most = [
        (asked.most_throttled, found.throttled, "429s"),
        (asked.most_throttled_first, found.throttled - found.throttled_steady, "429s in the first 60 s"),
        (asked.most_throttled_steady, found.throttled_steady, "429s after the first 60 s"),
        (asked.most_throttled_share, found.throttled_after_30_s / found.rows, "429s a row after the first 30 s"),
        (asked.most_extra_throttles, found.extra_throttles, "429s of one episode, sent after its first came back"),
        (asked.most_sends_a_row, found.sends_a_row, "sends for each row"),
        (asked.most_in_flight, found.peak, "requests in flight"),
        (0, found.early_sends, "sends before the end of a told wait"),
    ]
    least = [
        (asked.least_use, found.use, "use of what the server lets through"),
        (asked.least_recovered, found.recovered, "use of what is available from 10 s after a change on"),
        (found.rows, found.ok, "rows answered"),
    ]
    over = [f"{what}: {value:.4g}, must be at most {bound:g}" for bound, value, what in most if _above(value, bound)]
    under = [f"{what}: {value:.4g}, must be at least {bound:g}" for bound, value, what in least if _above(bound, value)]
    return over + under


def _above(value: float | None, bound: float | None) -> bool:
    return value is not None and bound is not None and value > bound
