"""The table of figures: `python -m tests.simulation.table [--seeds N] [--seed N] [--rows N] [--processes N] [NAME...]`.

A NAME is the beginning of a model's name. One line for each model, each figure as its worst and its median over the
seeds; then every figure that does not hold, with the command that replays it. Exit 1 where there is one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import median

from tests.simulation.models import ROWS, Model
from tests.simulation.running import Found, audit
from tests.simulation.servers import MODELS

HEAD = (
    f"{'server model':<24}{'use %':>14}{'429s':>12}{'after 60 s':>12}{'extra':>7}{'early':>7}{'sends a row':>14}"
    f"{'recovered %':>15}{'in flight':>11}{'minutes':>9}{'seeds':>7}  failed"
)


def table(found: Iterable[Found]) -> list[str]:
    """The lines of the table, in the order of the models."""
    by_model: dict[str, list[Found]] = {name: [] for name in MODELS}
    for run in found:
        by_model[run.model].append(run)
    return [HEAD, *(line(runs) for runs in by_model.values() if runs)]


def line(runs: Sequence[Found]) -> str:
    """Worst and median of one model's figures; `failed` counts the seeds at which one does not hold."""
    recovered = [100 * run.recovered for run in runs if run.recovered is not None]
    return "".join(
        [
            f"{runs[0].model:<24}",
            f"{_low([100 * run.use for run in runs]):>14}",
            f"{_high([run.throttled for run in runs]):>12}",
            f"{_high([run.throttled_steady for run in runs]):>12}",
            f"{max(run.extra_throttles for run in runs):>7}",
            f"{max(run.early_sends for run in runs):>7}",
            f"{_high([run.sends_a_row for run in runs], '.3f'):>14}",
            f"{_low(recovered) if recovered else '':>15}",
            f"{max(run.peak for run in runs):>11}",
            f"{median(run.minutes for run in runs):>9.1f}",
            f"{len(runs):>7}",
            f"  {sum(bool(run.broken) for run in runs) or '-'}",
        ]
    )


def _low(values: Sequence[float]) -> str:
    return f"{min(values):.2f} {median(values):.2f}"


def _high(values: Sequence[float], form: str = ".0f") -> str:
    return f"{max(values):{form}} {median(values):{form}}"


def failures(found: Found) -> list[str]:
    """What does not hold, each with the command that replays it."""
    short = f" --rows {found.rows}" if found.rows != ROWS else ""
    replay = f"python -m tests.simulation.table --seed {found.seed}{short} '{found.model}'"
    return [f"{found.model}, seed {found.seed}: {what} (replay: {replay})" for what in found.broken]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen models and print their lines; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[""], help="beginnings of the models' names; all without one")
    parser.add_argument("--seeds", type=int, help="how many seeds, from 1 on; without it those of the tests")
    parser.add_argument("--seed", type=int, help="this seed only")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--processes", type=int, default=1)
    chosen = parser.parse_args(arguments)
    models = [model for name, model in MODELS.items() if name.startswith(tuple(chosen.names))]
    print(HEAD)  # noqa: T201
    broken = []
    for model in models:
        runs = _runs(model, _seeds(model, chosen), chosen.rows, chosen.processes)
        broken += [failure for run in runs for failure in failures(run)]
        print(line(runs), flush=True)  # noqa: T201
    for failure in broken:
        print(failure)  # noqa: T201
    return 1 if broken else 0


def _seeds(model: Model, chosen: argparse.Namespace) -> Sequence[int]:
    if chosen.seed is not None:
        return [chosen.seed]
    return model.seeds if chosen.seeds is None else range(1, chosen.seeds + 1)


def _runs(model: Model, seeds: Sequence[int], rows: int, processes: int) -> list[Found]:
    if processes == 1:
        return [audit(model, seed, rows) for seed in seeds]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(_audit, [model.name] * len(seeds), seeds, [rows] * len(seeds)))


def _audit(name: str, seed: int, rows: int) -> Found:
    return audit(MODELS[name], seed, rows)


if __name__ == "__main__":
    sys.exit(main())
