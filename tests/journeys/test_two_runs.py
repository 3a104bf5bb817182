"""What else happens around an OUTPUT: a second run, a reader, a folder that takes no file, a death while OUTPUT is written."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from penstock.simulator.behaviour import expected_text
from tests.kit.disk import without_privilege
from tests.kit.journey import (
    PATIENCE_SECONDS,
    answered_rows,
    beside,
    command,
    finish,
    penstock,
    prompt_of,
    read_line,
    row_id,
    under_way,
    wait_until,
    write_input,
    wrong_lines,
)
from tests.kit.simulated import Simulated, simulated

ROWS = 5_000
ENOUGH_ROWS = 300
"""After so many answers a run is well under way."""


@contextmanager
def _paused(process: subprocess.Popen[str]) -> Iterator[None]:
    """A process that stands still for a while: alive, holding all that it holds."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _run(folder: Path, provider: Simulated) -> tuple[list[object], Path]:
    output = folder / "out.jsonl"
    run: list[object] = ["run", write_input(folder / "in.jsonl", ROWS), "-o", output, "-m", "custom/m"]
    return [*run, "--no-progress", "--max-concurrency", 32, "--base-url", provider.base_url], output


def _recorded(output: Path) -> list[int]:
    """The rows that `penstock results` shows; each line is whole, in order, and right."""
    shown = penstock("results", output)
    assert shown.returncode == 0, shown.stderr
    lines = [read_line(line) for line in shown.stdout.splitlines()]
    rows = [line.index for line in lines]
    assert rows == sorted(set(rows))
    assert all((line.id, line.text) == (row_id(line.index), expected_text(prompt_of(line.index))) for line in lines)
    return rows


def test_a_second_run_on_the_same_output_is_refused_and_the_first_is_unharmed(tmp_path: Path) -> None:
    """Exit 2 without waiting for the first, whatever it is told to do with the ledger; each row is sent once."""
    with simulated("--latency", "0.002") as provider:
        run, output = _run(tmp_path, provider)
        with under_way(*run) as first:
            wait_until(provider, "answered", ENOUGH_ROWS)
            with _paused(first):
                for again in ((), ("--update",), ("--fresh",)):
                    second = penstock(*run, *again)
                    assert (second.returncode, "another run is using" in second.stderr) == (2, True), second.stderr
            status, told = finish(first)
        assert provider.stats()["arrived"] == ROWS
    assert status == 0, told
    assert wrong_lines(output, ROWS) == []


def test_results_are_whole_while_the_run_is_under_way_and_disturb_nothing(tmp_path: Path) -> None:
    """What was shown once is shown again; the run ends as if nobody had looked."""
    with simulated("--latency", "0.01") as provider:
        run, output = _run(tmp_path, provider)
        shown: list[set[int]] = []
        with under_way(*run) as process:
            wait_until(provider, "answered", ENOUGH_ROWS)
            while process.poll() is None:
                shown.append(set(_recorded(output)))
            status, told = finish(process)
        assert provider.stats()["arrived"] == ROWS
    assert status == 0, told
    assert 0 < len(shown[0]) < ROWS
    assert all(before <= after for before, after in pairwise(shown))
    assert _recorded(output) == list(range(ROWS))
    assert wrong_lines(output, ROWS) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_read_only_folder_is_refused_before_anything_is_sent(tmp_path: Path, begun: bool) -> None:
    """Exit 2 that names the folder, also where a run had begun there; once it is writable the run goes on."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    with simulated("--latency", "0.002") as provider:
        run, output = _run(tmp_path, provider)
        output = folder / output.name
        run[run.index("-o") + 1] = output
        if begun:
            with under_way(*run) as process:
                wait_until(provider, "answered", ENOUGH_ROWS)
                process.kill()
        arrived = provider.stats()["arrived"]
        folder.chmod(0o555)
        try:
            refused = subprocess.run(
                [*without_privilege(), *command(*run)],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        finally:
            folder.chmod(0o755)
        assert (refused.returncode, f"{folder} is not writable" in refused.stderr) == (2, True), refused.stderr
        assert provider.stats()["arrived"] == arrived
        done = penstock(*run)
    assert done.returncode == 0, done.stderr
    assert wrong_lines(output, ROWS) == []


def test_a_kill_while_output_is_written_leaves_no_part_of_it(tmp_path: Path) -> None:
    """OUTPUT is not there; the next run sends nothing, writes it whole, and leaves nothing else behind."""
    with simulated() as provider:
        run, output = _run(tmp_path, provider)
        with under_way(*run) as process:
            temporary = output.with_name(f".{output.name}.{process.pid}.tmp")
            while not temporary.exists():
                assert process.poll() is None, "the run was over before OUTPUT was seen being written"
            process.kill()
            status, told = finish(process)
        assert status == -signal.SIGKILL, told
        assert not output.exists()
        assert answered_rows(output, tmp_path / "scratch") == set(range(ROWS))
        done = penstock(*run)
        assert provider.stats()["arrived"] == ROWS
    assert done.returncode == 0, done.stderr
    assert wrong_lines(output, ROWS) == []
    ledger = {beside(output, suffix).name for suffix in ("", ".ledger", ".ledger.lock", ".ledger.slots")}
    assert {path.name for path in tmp_path.iterdir()} == ledger | {"in.jsonl", "scratch"}
