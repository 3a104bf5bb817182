"""What a stream of 100 chunks costs the client, beside aiohttp reading lines, in one run: CPU of the client's process.

    python bench/streaming.py [--streams 1000] [--at-once 64] [--rounds 5]

The simulator is the server, in a process of its own. Both contenders ask it for the same streams and decode the data of each
event with msgspec; aiohttp does nothing else, while Penstock paces, retries, accounts and puts the whole answer together. Two
cases: the chunks of a stream sent together, as fast as the server can, and each for itself, a few milliseconds apart, as
models send them. The contenders take turns, each in a process of its own; the figures are medians, the ratios are taken
round by round.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The kit of the tests starts simulators; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.calls import compare
from bench.points import CASES

CONTENDERS = ("aiohttp on uvloop", "penstock")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--streams", type=int, default=1_000)
    options.add_argument("--at-once", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    for case in CASES:
        if case.streams:
            compare(case, CONTENDERS, given.streams, given.at_once, given.rounds)


if __name__ == "__main__":
    main()
