"""What one run looked like over time: `python -m tests.simulation.timeline NAME SEED [SECONDS]`, a line for so many seconds each.

The first thing to look at when the table says that a figure does not hold.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Sequence

from tests.simulation.auditor import Auditor
from tests.simulation.models import Trial
from tests.simulation.running import ROWS, watch
from tests.simulation.servers import MODELS


def timeline(auditor: Auditor, trial: Trial, step: float) -> list[str]:
    """Use, 429s and sends of every `step` seconds, from the first admission on."""
    began, ended = auditor.server.admitted_at[0], auditor.server.admitted_at[-1]
    lines = []
    for number in range(int((ended - began) / step) + 1):
        since, until = began + number * step, began + (number + 1) * step
        use = auditor.use_between(trial.available, since, until)
        lines.append(
            f"{number * step:6.0f} s  use {100 * use:6.1f} %  429s {_within(auditor.server.throttled_at, since, until):4}"
            f"  sends {_within(auditor.sent_at, since, until):4}"
        )
    return lines


def _within(times: Sequence[float], since: float, until: float) -> int:
    return bisect_left(times, until) - bisect_left(times, since)


def main() -> None:
    """Print the lines of the chosen run."""
    name, seed, *step = sys.argv[1:]
    trial = MODELS[name].trial(int(seed))
    auditor, _ = watch(trial, ROWS)
    print(*timeline(auditor, trial, float(step[0]) if step else 30.0), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
