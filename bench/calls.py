"""What a call costs, beside the bare floor, in one run against the simulator: CPU microseconds, calls a second, memory.

    python bench/calls.py [--calls 20000] [--in-flight 64] [--rounds 5]

The short form of `run.py`, for whoever works on the hot path: few contenders, one place, as many calls for each. They are
processes of their own and take turns, so that a noisy machine is noisy for all; the figures are medians, the ratios are
taken round by round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

# The kit of the tests starts simulators; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.field import BY_NAME, provided, turn
from bench.points import CASES, Case, Point
from bench.speed_report import Measured, of_one_level

CONTENDERS = ("floor", "penstock", "penstock, ledger")
PATIENCE_SECONDS = 600


def compare(case: Case, names: Sequence[str], calls: int, in_flight: int, rounds: int) -> None:
    """Take turns, print the table."""
    with tempfile.TemporaryDirectory() as folder, provided(case, Path(folder)) as provider:
        done = [
            {name: turn(BY_NAME[name], case, provider, calls, in_flight, PATIENCE_SECONDS) for name in names}
            for _ in range(rounds)
        ]
    print(f"{case.title}; medians of {rounds}")
    place = msgspec.structs.replace(case, levels=(in_flight,))
    print("\n".join(of_one_level(Measured({Point(case.name, in_flight): done}, {}), place)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--calls", type=int, default=20_000)
    options.add_argument("--in-flight", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    (case,) = (case for case in CASES if case.name == "zero")
    compare(case, CONTENDERS, given.calls, given.in_flight, given.rounds)


if __name__ == "__main__":
    main()
