"""Limits filled and throttles caused: Penstock beside what people use instead, each against the same simulated provider.

    python bench/limits.py [--repeat 1] [--quick] [--only CLIENT ...] [--scenario NAME ...]

Every client is a program of its own in an environment of its own (made at the first use, from hash-locked requirements),
and they go one after another, each against a fresh `penstock simulate`; `limit_scenarios.py` has the scenarios. It decides
which of the server's figures are shown; it never takes a client's word for what it did.

ok, failed    rows answered whole, and all others, as the server counts
throttled     429s sent; late: their share of what arrived after the first 30 s
wall          from the first arrival to the moment the client says that it has everything
share         what was admitted, over what the limit allowed from the first to the last admission: its burst and its rate
              times that time. Of an engine without limits: answers, over what all its slots could give in the wall time
peak          the most requests at the server at once
CPU           seconds that the client's process took for the work, its imports not counted
"""

from __future__ import annotations

import argparse
import http.client
import json
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

# The kit of the tests makes environments and starts simulators; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from limit_scenarios import IN_FLIGHT, Contender, Scenario, admitted, scenarios

from bench.field import QUIET
from penstock.simulator.behaviour import Stats
from tests.kit.environment import OFFLINE, PATIENCE_SECONDS, environment
from tests.kit.simulated import PROGRAM, Simulated, simulated

QUICK = 10
"""By how much `--quick` divides the rows."""

LATE_SECONDS = 30
SAMPLE_SECONDS = 0.02
PEERS = Path(__file__).with_name("peers")


class Seen:
    """What the server told while a client was at work; times are seconds since the first arrival."""

    stats: Stats
    last_admission = 0.0

    def __init__(self) -> None:
        self._admitted = 0
        self._early: Stats | None = None

    def add(self, stats: Stats) -> None:
        """Take one more account of the server."""
        self.stats = stats
        if admitted(stats) > self._admitted:
            self._admitted, self.last_admission = admitted(stats), stats.elapsed
        if stats.elapsed <= LATE_SECONDS:
            self._early = stats

    def late(self) -> float:
        """The share of requests throttled, of those that arrived after `LATE_SECONDS`; nan where none did."""
        early = self._early
        if early is None or self.stats.arrived == early.arrived:
            return float("nan")
        return (self.stats.throttled - early.throttled) / (self.stats.arrived - early.arrived)


class Told(msgspec.Struct, frozen=True):
    """What a client says of itself: the line that `peers/work.py` prints."""

    answered: int
    errors: dict[str, int]
    cpu_s: float
    versions: list[str]


Figures: TypeAlias = dict[str, float]
"""A row of the table, by column."""

COLUMNS = {
    "ok": "{:,.0f}",
    "failed": "{:,.0f}",
    "throttled": "{:,.0f}",
    "late": "{:.1%}",
    "wall": "{:.1f} s",
    "share": "{:.1%}",
    "peak": "{:,.0f}",
    "CPU": "{:.1f} s",
}


class Ended(Exception):
    """A client ended before its work, or went on for too long; the text says how."""


def missing_options(scenario: Scenario) -> list[str]:
    """The options of the scenario that this simulator does not have."""
    known = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout.split()
    return [word for word in scenario.options if word.startswith("--") and word not in known]


def accounts(server: Simulated) -> Iterator[Stats]:
    """The server's account, as often as it is asked for, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        while True:
            connection.request("GET", "/stats")
            yield msgspec.json.decode(connection.getresponse().read(), type=Stats)
    finally:
        connection.close()


def watch(process: subprocess.Popen[str], server: Simulated) -> Seen:
    """Follow the server's account until the client says something; raises `Ended` where it goes on for too long."""
    assert process.stdout is not None
    seen, until = Seen(), time.monotonic() + PATIENCE_SECONDS
    for stats in accounts(server):
        seen.add(stats)
        if select.select([process.stdout], [], [], 0)[0]:
            break
        if time.monotonic() > until:
            raise Ended(f"not done after {PATIENCE_SECONDS} s")
        select.select([process.stdout], [], [], SAMPLE_SECONDS)
    return seen


def python_of(contender: Contender) -> Path:
    """The interpreter of its environment, which is made if need be."""
    if contender.environment is None:
        return Path(sys.executable)
    purpose, name = contender.environment
    return environment(name, purpose)


def perform(contender: Contender, scenario: Scenario, prompts: list[str]) -> tuple[Seen, Told]:
    """One client at its work against a server of its own; raises `Ended`."""
    limits = scenario.limits if contender.is_told else {}
    command = [str(python_of(contender)), str(PEERS / contender.program)]
    with (
        simulated(*scenario.options) as server,
        tempfile.TemporaryFile("w+") as errors,
        tempfile.TemporaryDirectory() as home,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=home,
            env=OFFLINE | QUIET | {"HOME": home},
        ) as process,
    ):
        try:
            seen = begin_and_watch(process, server, work(server.base_url, prompts, limits))
            line = process.stdout.readline() if process.stdout else ""
        finally:
            process.kill()
        if not line:
            errors.seek(0)
            raise Ended((errors.read().strip() or "it said nothing").splitlines()[-1])
    return seen, msgspec.json.decode(line, type=Told)


def work(base_url: str, prompts: list[str], limits: dict[str, float]) -> str:
    """What `peers/work.py` reads."""
    unlimited = {"requests_per_minute": None, "tokens_per_minute": None}
    return json.dumps({"base_url": base_url, "prompts": prompts, "in_flight": IN_FLIGHT} | unlimited | limits)


def begin_and_watch(process: subprocess.Popen[str], server: Simulated, told: str) -> Seen:
    assert process.stdin is not None
    # A client that has ended already has closed its end; what it said on its way out is told by who called us.
    with suppress(BrokenPipeError), process.stdin as stream:
        stream.write(told)
    return watch(process, server)


def figures(scenario: Scenario, rows: int, seen: Seen, told: Told) -> Figures:
    stats = seen.stats
    return {
        "ok": stats.prompts,
        "failed": rows - stats.prompts,
        "throttled": stats.throttled,
        "late": seen.late(),
        "wall": stats.elapsed,
        "share": scenario.share(stats, seen.last_admission),
        "peak": stats.peak,
        "CPU": told.cpu_s,
    }


def notes(seen: Seen, told: Told) -> list[str]:
    """Its version, what its failures were, and where its own account is not the server's."""
    said = [", ".join(told.versions)]
    said += [f"{count:,} x {kind}" for kind, count in told.errors.items()]
    if told.answered != seen.stats.prompts:
        said.append(f"says that {told.answered:,} were answered, not {seen.stats.prompts:,}")
    if seen.stats.duplicates or seen.stats.abandoned:
        said.append(f"{seen.stats.duplicates:,} answered twice, {seen.stats.abandoned:,} abandoned")
    return said


def median_row(rounds: list[Figures]) -> str:
    cells = []
    for name, form in COLUMNS.items():
        told = [one[name] for one in rounds if one[name] == one[name]]
        cells.append(form.format(statistics.median(told)) if told else "-")
    return "".join(f"{cell:>11}" for cell in cells)


def compare(scenario: Scenario, chosen: list[Contender], rows: int, repeat: int) -> None:
    """Take turns, print each client's row when its last turn is over."""
    prompts = scenario.prompts(rows)
    ideal = scenario.ideal_seconds(prompts)
    print(f"\n{scenario.name}: {scenario.title}; {rows:,} rows, ideally {ideal:.1f} s; medians of {repeat}")
    print(f"{'':16}" + "".join(f"{name:>11}" for name in COLUMNS), flush=True)
    rounds: dict[str, list[Figures]] = {contender.name: [] for contender in chosen}
    remarks: dict[str, list[str]] = {}
    for turn in range(1, repeat + 1):
        for contender in chosen:
            try:
                seen, told = perform(contender, scenario, prompts)
            except Ended as ended:
                print(f"{contender.name:16}  turn {turn}: {ended}", flush=True)
                continue
            rounds[contender.name].append(figures(scenario, rows, seen, told))
            remarks[contender.name] = notes(seen, told)
            if turn == repeat:
                print(f"{contender.name:16}{median_row(rounds[contender.name])}", flush=True)
    for name, said in remarks.items():
        print(f"  {name}: {'; '.join(said)}")


def main() -> None:
    offered = scenarios()
    clients = sorted({one.name for scenario in offered for one in scenario.contenders})
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=1)
    options.add_argument("--quick", action="store_true", help=f"a {QUICK}th of the rows")
    options.add_argument(
        "--only", nargs="+", choices=clients, default=clients, metavar="CLIENT", help=", ".join(clients)
    )
    names = [one.name for one in offered]
    options.add_argument("--scenario", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    given = options.parse_args()
    for scenario in offered:
        chosen = [one for one in scenario.contenders if one.name in given.only]
        if not chosen or scenario.name not in given.scenario:
            continue
        if missing := missing_options(scenario):
            print(f"\n{scenario.name}: left out, because `penstock simulate` has no {', '.join(missing)}")
            continue
        compare(scenario, chosen, scenario.rows // QUICK if given.quick else scenario.rows, given.repeat)


if __name__ == "__main__":
    main()
