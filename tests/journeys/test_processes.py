"""`penstock run --processes N`: many processes send and one account comes of it; whichever is killed, all of them end, and
the same command goes on.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.simulator.behaviour import Settings, Spread
from tests.endings.signalling import signalling
from tests.journeys.recording import RecordingSimulator, recording
from tests.journeys.test_kill import THINKING, Journey, Session, answers_before_each_kill, check_account, check_death
from tests.kit.command import recorder
from tests.kit.journey import (
    SEED,
    answered_rows,
    command,
    finish,
    note,
    penstock,
    under_way,
    write_input,
    wrong_lines,
)
from tests.kit.sending import children_of, wait_for_end
from tests.kit.simulated import simulated

LOSSES = 3
ROWS = 400


@pytest.mark.parametrize("processes", [2, 3])
def test_all_send_and_one_account_comes_of_it(tmp_path: Path, processes: int) -> None:
    """Each row has its own answer, what was sent arrived, and the limit that was set is kept over all of them."""
    output, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    with simulated("--rpm", "6000", "--burst", "1", "--headers", "none", "--latency", "0.02") as provider:
        run = ["run", write_input(tmp_path / "in.jsonl", ROWS), "-o", output, "-m", "custom/m", "--no-progress"]
        run += ["--base-url", provider.base_url, "--rpm", 6000, "--processes", processes, "--summary", summary]
        done = penstock(*run)
        seen = provider.stats()
    assert done.returncode == 0, done.stderr
    assert wrong_lines(output, ROWS) == []
    told = json.loads(summary.read_bytes())
    assert [told[name] for name in ("rows", "ok", "failed", "left", "sent", "throttled")] == [ROWS, ROWS, 0, 0, ROWS, 0]
    assert (seen["arrived"], seen["answered"], seen["throttled"], seen["duplicates"]) == (ROWS, ROWS, 0, 0)
    assert penstock("verify", output).returncode == 0


def test_rows_may_come_from_standard_input(tmp_path: Path) -> None:
    """The processes that send leave it alone."""
    source, output = write_input(tmp_path / "in.jsonl", 50), tmp_path / "out.jsonl"
    with simulated() as provider, source.open("rb") as rows:
        run = command("run", "-", "-o", output, "-m", "custom/m", "--base-url", provider.base_url, "--processes", 2)
        done = subprocess.run(run, stdin=rows, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert wrong_lines(output, 50) == []


class LosingSimulator(RecordingSimulator):
    """Kills one of the client's sending processes in place of the client."""

    def victim(self, client: int) -> int:
        return children_of(client)[len(self.arrived) % 2]


@pytest.mark.timeout(300)
def test_a_sending_process_that_is_killed_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Exit 3 and what to do; nothing recorded is lost or sent again, nothing is sent twice in one sitting, the account balances."""
    note(record_property, PENSTOCK_SEED=SEED)
    with recording(THINKING) as provider:
        provider.simulator = provider._server.simulator = LosingSimulator(THINKING)
        journey = Journey(tmp_path, provider, "--processes", 2)
        sessions: list[Session] = []
        recorded: set[int] = set()
        for kill_after in answers_before_each_kill(SEED, LOSSES):
            status, told, session = journey.sit(kill_after)
            assert status == 3, told
            assert re.search(r"sending process \d+ was killed by SIGKILL", told)
            assert "Run the same command again" in told
            check_death(session, recorded)
            # All that was under way elsewhere came back and is recorded.
            assert set(session.answered) - session.recorded <= session.cut
            assert not journey.output.exists()
            recorded = session.recorded
            sessions.append(session)
        # What it was begun with is no part of what it is.
        journey._run[-1] = 1
        status, told, last = journey.sit()
    assert status == 0, told
    assert not set(last.arrived) & recorded
    check_account(journey, [*sessions, last])


def test_no_orphan_goes_on_when_the_run_is_killed(tmp_path: Path) -> None:
    """The provider holds every request: the processes that wait for it end with their parent, not with their answers."""
    with recorder(hold_from=1) as provider:
        run = ["run", write_input(tmp_path / "in.jsonl", 10), "-o", tmp_path / "out.jsonl", "-m", "custom/m"]
        with under_way(*run, "--base-url", provider.base_url, "--processes", 2, "--max-concurrency", 4) as process:
            provider.wait_for(4)
            children = children_of(process.pid)
            assert len(children) == 2
            process.kill()
            for child in children:
                wait_for_end(child)
        assert len(provider.bodies) == 4


FORKING = """
import asyncio, os, sys
from penstock import Client

async def main():
    async with Client("custom/m", base_url=sys.argv[1], processes=2, max_concurrency=4) as client:
        asks = [asyncio.create_task(client.generate(f"ask {number}")) for number in range(4)]
        await asyncio.sleep(0)
        if os.fork() == 0:
            os.read(0, 1)  # it holds all that its parent had open, until its own input ends
            os._exit(0)
        await asyncio.wait(asks)

asyncio.run(main())
"""


def test_no_orphan_goes_on_though_another_process_holds_its_socket(tmp_path: Path) -> None:
    """Whoever was forked off a program keeps its sockets open after its death; that they are orphans shows all the same."""
    with recorder(hold_from=1) as provider:
        program = [sys.executable, "-c", FORKING, provider.base_url]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            provider.wait_for(4)
            children = list(filter(_sends, children_of(process.pid)))
            assert len(children) == 2
            process.kill()
            for child in children:
                wait_for_end(child)


def _sends(pid: int) -> bool:
    """True for a sending process, false for what a program forked off itself."""
    return b"processes.sender" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_drains_the_run(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """As Ctrl-C does on a terminal: what is in flight comes back through the processes and is recorded; then they are gone."""
    output, scratch = tmp_path / "out.jsonl", tmp_path / "scratch"
    run = ["run", write_input(tmp_path / "in.jsonl", ROWS), "-o", output, "-m", "custom/m", "--no-progress"]
    with signalling(Settings(latency=Spread.between(0.02, 0.05))) as (provider, simulator):
        run += ["--base-url", provider.base_url, "--processes", 2, "--max-concurrency", 16]
        simulator.begin_signalling({100: number})
        program = command(*run)
        with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, process_group=0) as process:
            simulator.client_is(-process.pid)
            ended, told = finish(process)
        provider.settle()
        assert ended == status, told
        assert "resume with: penstock run" in told
        assert len(simulator.arrived) == len(simulator.answered) == len(answered_rows(output, scratch)) < ROWS
        before = len(simulator.arrived)
        simulator.begin_signalling()
        done = penstock(*run)
    assert done.returncode == 0, done.stderr
    assert len(simulator.arrived) == ROWS - before
    assert wrong_lines(output, ROWS) == []


def test_processes_that_cannot_start_are_told_before_anything_is_sent(tmp_path: Path) -> None:
    """Exit 2: no OUTPUT, nothing at the provider; the same command goes on once it can."""
    output = tmp_path / "out.jsonl"
    (tmp_path / "sitecustomize.py").write_text("import sys\nif sys.argv[0] == '-c': sys.exit('no, not here')\n")
    with simulated() as provider:
        run = ["run", write_input(tmp_path / "in.jsonl", 5), "-o", output, "-m", "custom/m", "--no-progress"]
        run += ["--base-url", provider.base_url, "--processes", 2]
        refused = penstock(*run, env={"PYTHONPATH": str(tmp_path)})
        assert provider.stats()["arrived"] == 0
        done = penstock(*run)
    assert refused.returncode == 2
    assert "ended with status 1 before it was ready" in refused.stderr
    assert not list(tmp_path.glob("*.jsonl.ledger-wal"))
    assert done.returncode == 0, done.stderr


def test_it_runs_from_a_source_tree_that_nothing_points_to(tmp_path: Path) -> None:
    """What a program put on its `sys.path` itself is where its sending processes look, too, whatever the folder they are in."""
    (tmp_path / "penstock.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "json.py").write_text("raise SystemExit('nor this one')")
    program = (
        f"import sys; sys.path[:] = {[entry for entry in sys.path if entry]!r}; from penstock.cli import main; main()"
    )
    with simulated() as provider:
        run = ["run", write_input(tmp_path / "in.jsonl", 5), "-o", "out.jsonl", "-m", "custom/m", "--no-progress"]
        run += ["--base-url", provider.base_url, "--processes", 2]
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, *map(str, run)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr


def test_what_is_wrong_with_the_number_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    """None, less than none, more than requests in flight: exit 2, no ledger."""
    run = ["run", write_input(tmp_path / "in.jsonl", 5), "-o", tmp_path / "out.jsonl", "-m", "builtin/extractive"]
    for number in ("0", "-1", "1.5", "two", "5"):
        done = penstock(*run, "--max-concurrency", 4, "--processes", number)
        assert done.returncode == 2
        assert "processes" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
