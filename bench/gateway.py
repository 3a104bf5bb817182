"""Our gateway beside LiteLLM's proxy, TensorZero, Portkey and none: requests a second, latency added, memory, CPU.

    python bench/gateway.py [--quick] [--only GATEWAY ...] [--rounds 5] [--seconds 2] [--write docs/gateway-benchmarks.md]

All stand in front of one `penstock simulate` without latency, each in a process of its own and where it needs one an
environment of its own (made at the first use, by hash-locked requirements). One load, `gateways/load.py`, goes through all
of them in turn, in another order each round, for a moment each, so that a noisy machine is noisy for all. Figures are
medians over the rounds; what compares two is taken round by round. A gateway that cannot be set up is named with the reason.

connections       how many ask at once, each as soon as it is answered: latency at many is mostly waiting for the CPU
of none           its rate, as a share of the rate without a gateway
penstock is       how many times its rate Penstock has
p50 ms            of a whole answer, or of a stream to its end
added             more than without a gateway, of the same round; where few are answered p99 is nearly the slowest of them
first byte added  more than without a gateway until the first bytes came, at p50
CPU us each       what its processes took for one answer, microseconds
peak MB           the most memory of its processes during the load
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

# The kit of the tests makes environments and starts simulators; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from gateways import direct, litellm_proxy, penstock_serve, portkey_node, tensorzero_wheel
from gateways.load import Load, Measured
from gateways.report import Cell, Round, Rounds, Turn, failures, table, targets
from gateways.started import Gateway, Missing, Started, chat, started

from bench.figures import machine
from tests.kit.simulated import simulated

GATEWAYS: dict[str, Callable[[str, Path], Gateway]] = {
    "none": direct.gateway,
    "penstock": penstock_serve.gateway,
    "tensorzero": tensorzero_wheel.gateway,
    "portkey": portkey_node.gateway,
    "litellm": litellm_proxy.gateway,
}
CONNECTIONS = (1, 16, 64)
READY_SECONDS = 60
CHUNKS = 100
PROMPT = "Summarise article 17 in one sentence, please."
OUTPUT_TOKENS = 91
"""What makes a stream of the simulator's have `CHUNKS` chunks with text."""

EXPECTED = "echo "
"""How every text of the simulator begins."""

LOAD = Path(__file__).with_name("gateways") / "load.py"


class Length(NamedTuple):
    """How long it may take: rounds, seconds of each turn, seconds that a last answer is waited for, seconds for everything."""

    rounds: int
    seconds: float
    patience: float
    budget: float


FULL, QUICK = Length(5, 2.0, 20.0, 14 * 60), Length(2, 0.5, 10.0, 105)


def load(gateway: Started, cell: Cell, seconds: float, patience: float) -> Measured:
    """Let the load go through it, from a process of its own."""
    url, told = urlsplit(gateway.base_url), gateway.gateway
    assert url.port is not None
    asked = Load(
        port=url.port,
        path=f"{url.path}/chat/completions",
        headers=told.headers,
        body=chat(told.model, PROMPT, cell.streams),
        connections=cell.connections,
        seconds=seconds,
        patience=patience,
        events=CHUNKS if cell.streams else 0,
        expected=EXPECTED,
    )
    done = subprocess.run([sys.executable, LOAD], input=msgspec.json.encode(asked), capture_output=True, check=False)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return Measured(0, seconds, None, None, None, {f"the load broke: {why}": 1})
    return msgspec.json.decode(done.stdout, type=Measured)


def turn(gateway: Started, cell: Cell, length: Length) -> Turn:
    gateway.forget_peak()
    before = gateway.cpu_seconds()
    seen = load(gateway, cell, length.seconds, length.patience)
    told = Turn(seen, gateway.peak_mb(), gateway.cpu_seconds() - before)
    if seen.failures:
        gateway.come_to_rest()
    return told


def warm_up(gateway: Started, length: Length) -> None:
    """Both kinds of load for a moment; raises `Missing` where it gives no whole answer or no whole stream."""
    for cell in (Cell(False, max(CONNECTIONS)), Cell(True, min(CONNECTIONS))):
        seen = load(gateway, cell, length.seconds / 2, length.patience)
        if not seen.answered:
            raise Missing(f"{'streams' if cell.streams else 'answers'} fail: {seen.failures}")


class Field:
    """The gateways that are up, and why others are not."""

    def __init__(self) -> None:
        self.up: dict[str, Started] = {}
        self.skipped: dict[str, str] = {}

    def open(self, names: Sequence[str], upstream: str, folder: Path, stack: ExitStack, length: Length) -> None:
        """Start all at once, because some take long, then wait for each."""
        for name in names:
            home = folder / name
            home.mkdir()
            try:
                self.up[name] = stack.enter_context(started(GATEWAYS[name](upstream, home), home))
            except Missing as missing:
                self._skip(name, missing)
        until = time.monotonic() + READY_SECONDS
        for name, gateway in list(self.up.items()):
            try:
                gateway.await_answer(PROMPT, until)
                warm_up(gateway, length)
            except Missing as missing:
                self._skip(name, missing)

    def _skip(self, name: str, why: Missing) -> None:
        self.up.pop(name, None)
        self.skipped[name] = str(why)
        print(f"skipped: {name}: {why}", file=sys.stderr, flush=True)


def measure(up: dict[str, Started], length: Length, until: float) -> Rounds:
    """Rounds in turn until there are enough, or no time for one more."""
    rounds: Rounds = {Cell(streams, connections): [] for streams in (False, True) for connections in CONNECTIONS}
    order, longest = list(up), 0.0
    for number in range(length.rounds):
        began = time.monotonic()
        if number and began + longest > until:
            break
        for cell, done in rounds.items():
            done.append(one_round(up, order, cell, length))
            order = [*order[1:], *order[:1]]
        longest = max(longest, time.monotonic() - began)
        print(f"round {number + 1} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rounds


def one_round(up: dict[str, Started], order: Sequence[str], cell: Cell, length: Length) -> Round:
    return {name: turn(up[name], cell, length) for name in order}


def report(field: Field, rounds: Rounds, names: Sequence[str], length: Length, where: str) -> Iterator[str]:
    done = len(next(iter(rounds.values())))
    yield f"Machine: {where}."
    short = "" if done == length.rounds else f" ({length.rounds} were wanted, but the time was up)"
    yield f"Rounds in turn: {done}{short}, {length.seconds:g} s for each gateway and load; {CHUNKS} chunks a stream."
    yield ""
    for name, one in field.up.items():
        yield f"* {name}: {one.gateway.version}; {one.gateway.does}"
    yield from (f"* skipped: {name}: {why}" for name, why in field.skipped.items())
    for streams, title in ((False, "Whole answers"), (True, f"Streams of {CHUNKS} chunks")):
        yield from ("", f"{title}:", "")
        yield from table(rounds, streams, [name for name in names if name in field.up])
    yield from ("", "Targets of Penstock, with keys, limits, accounting and metrics on:", "")
    yield from map(str, targets(rounds))
    if said := list(failures(rounds)):
        yield from ("", "What failed:", "", *said)


def document(lines: Sequence[str], command: str) -> str:
    """The page that keeps a run."""
    _, _, columns = (__doc__ or "").partition("\n\nconnections")
    return "\n".join(
        (
            "# The gateway beside others",
            "",
            f"Written by `{command}`, not by hand; run it to have figures of your machine.",
            "One load goes through each gateway in turn, all in front of one simulated provider without latency.",
            "",
            *lines,
            "",
            "What the columns are:",
            "",
            "```text",
            f"connections{columns.rstrip()}",
            "```",
            "",
        )
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="under two minutes, and rougher")
    options.add_argument("--only", nargs="+", choices=GATEWAYS, default=list(GATEWAYS), metavar="GATEWAY")
    options.add_argument("--rounds", type=int)
    options.add_argument("--seconds", type=float)
    options.add_argument("--write", type=Path, metavar="FILE", help="keep the tables as a page of Markdown")
    given = options.parse_args()
    length = QUICK if given.quick else FULL
    length = length._replace(rounds=given.rounds or length.rounds, seconds=given.seconds or length.seconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    until, where, field = time.monotonic() + length.budget, machine(), Field()
    with (
        simulated("--output-tokens", str(OUTPUT_TOKENS)) as provider,
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as stack,
    ):
        field.open(given.only, provider.base_url, Path(folder), stack, length)
        rounds = measure(field.up, length, until)
    lines = list(report(field, rounds, given.only, length, where))
    print("\n".join(lines))
    if given.write:
        given.write.write_text(document(lines, " ".join(["python", *sys.argv])))


if __name__ == "__main__":
    main()
