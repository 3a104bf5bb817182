"""A disk that takes no more, at many places of a run: it stops cleanly, says what to do, and goes on once there is room.

The limit is the system's own on the size of a file (RLIMIT_FSIZE): a write beyond it fails as on a full disk. What else can
happen to a folder meanwhile is here too; a failure at each single call is in tests/durability/test_disk_errors.py.
"""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.kit.disk import without_privilege
from tests.kit.journey import (
    PATIENCE_SECONDS,
    SEED,
    command,
    finish,
    penstock,
    wait_until,
    write_input,
    wrong_lines,
)
from tests.kit.simulated import Simulated, simulated

ROWS = 3_000
ENOUGH_ROWS = 200
"""After so many answers a run is well under way."""

SMALLEST, LARGEST = 1_000, 3_500_000
"""From a file that hardly begins to one that holds all but the last rows."""

PLACES = sorted(Random(SEED).sample(range(SMALLEST, LARGEST), 5))


def with_room_for(size: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command whose files may not grow beyond `size` bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE_SECONDS, preexec_fn=limit, check=False
    )


@pytest.mark.parametrize("size", PLACES)
def test_a_full_disk_stops_the_run_and_costs_no_recorded_answer(size: int, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    source = write_input(tmp_path / "in.jsonl", ROWS)
    with simulated() as provider:
        run = ["run", source, "-o", output, "-m", "custom/m", "--base-url", provider.base_url, "--no-progress"]
        stopped = with_room_for(size, *run)
        assert stopped.returncode == 3, stopped.stderr
        assert "run the same command again" in stopped.stderr
        assert "Traceback" not in stopped.stderr
        assert not output.exists()
        recorded = len(penstock("results", output).stdout.splitlines())
        before = provider.stats()["arrived"]
        resumed = penstock(*run)
        assert resumed.returncode == 0, resumed.stderr
        assert provider.stats()["arrived"] - before == ROWS - recorded
    assert wrong_lines(output, ROWS) == []
    assert penstock("verify", output).returncode == 0


def test_a_disk_that_has_no_room_for_output_keeps_the_answers(tmp_path: Path) -> None:
    """OUTPUT is smaller than its ledger, so the limit is set for a second sitting that has only OUTPUT to write."""
    output = tmp_path / "out.jsonl"
    source = write_input(tmp_path / "in.jsonl", ROWS)
    with simulated() as provider:
        run = ["run", source, "-o", output, "-m", "custom/m", "--base-url", provider.base_url, "--no-progress"]
        assert penstock(*run).returncode == 0
        output.unlink()
        stopped = with_room_for(600_000, *run)
        assert stopped.returncode == 3, stopped.stderr
        assert "mend that and run the same command again" in stopped.stderr
        assert sorted(path.name for path in tmp_path.iterdir() if "tmp" in path.name) == []
        assert penstock(*run).returncode == 0
        assert provider.stats()["arrived"] == ROWS
    assert wrong_lines(output, ROWS) == []


class Elsewhere:
    """A run whose OUTPUT has a folder of its own, which something happens to while the run is under way."""

    def __init__(self, folder: Path, provider: Simulated) -> None:
        self.provider = provider
        self.folder = folder / "output"
        self.folder.mkdir()
        self.output = self.folder / "out.jsonl"
        self.run = ["run", write_input(folder / "in.jsonl", ROWS), "-o", self.output, "-m", "custom/m"]
        self.run += ["--base-url", provider.base_url, "--no-progress", "--max-concurrency", 32]

    def stopped_by(self, event: Callable[[], object], *started_with: str, summary: Path | None = None) -> str:
        """Start, let it happen after some answers, wait for a clean stop; returns what was told."""
        given = ["--summary", summary] if summary else []
        process = subprocess.Popen(
            [*started_with, *command(*self.run, *given)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        with process:
            try:
                wait_until(self.provider, "answered", ENOUGH_ROWS)
                event()
                assert process.poll() is None, "it was over before anything happened"
                status, told = finish(process)
            finally:
                process.kill()
        assert (status, "Traceback" in told) == (3, False), told
        return told

    def check_finished(self, sends: int) -> None:
        """The same command comes to its end, with so many sends over all sittings."""
        done = penstock(*self.run)
        assert done.returncode == 0, done.stderr
        assert wrong_lines(self.output, ROWS) == []
        assert self.provider.stats()["arrived"] == sends
        assert penstock("verify", self.output).returncode == 0


def test_a_folder_that_is_renamed_in_the_middle_has_every_answer_when_it_is_back(tmp_path: Path) -> None:
    """Exit 3 that names OUTPUT, and nothing is sent again."""
    with simulated("--latency", "0.005") as provider:
        elsewhere = Elsewhere(tmp_path, provider)
        told = elsewhere.stopped_by(lambda: elsewhere.folder.rename(tmp_path / "moved"))
        assert "run the same command again" in told
        assert str(elsewhere.output) in told
        (tmp_path / "moved").rename(elsewhere.folder)
        elsewhere.check_finished(ROWS)


def test_a_folder_that_is_removed_in_the_middle_stops_the_run_cleanly(tmp_path: Path) -> None:
    """Exit 3 that names OUTPUT; once there is a folder again the same command begins anew."""
    with simulated("--latency", "0.005") as provider:
        elsewhere = Elsewhere(tmp_path, provider)
        told = elsewhere.stopped_by(lambda: shutil.rmtree(elsewhere.folder))
        assert "run the same command again" in told
        assert str(elsewhere.output) in told
        sent = provider.stats()["arrived"]
        elsewhere.folder.mkdir()
        elsewhere.check_finished(sent + ROWS)


def test_a_folder_that_becomes_read_only_in_the_middle_costs_no_answer(tmp_path: Path) -> None:
    """Exit 3 that names OUTPUT; once it is writable the same command sends nothing again."""
    with simulated("--latency", "0.005") as provider:
        elsewhere = Elsewhere(tmp_path, provider)
        try:
            told = elsewhere.stopped_by(lambda: elsewhere.folder.chmod(0o555), *without_privilege())
        finally:
            elsewhere.folder.chmod(0o755)
        assert "run the same command again" in told
        assert str(elsewhere.output) in told
        recorded = len(penstock("results", elsewhere.output).stdout.splitlines())
        elsewhere.check_finished(provider.stats()["arrived"] + ROWS - recorded)
        assert recorded >= ENOUGH_ROWS


def test_a_summary_whose_folder_is_gone_costs_nothing_but_the_summary(tmp_path: Path) -> None:
    """Exit 3 that names the summary; OUTPUT is whole, and the same command sends nothing again."""
    summaries = tmp_path / "summaries"
    summaries.mkdir()
    with simulated("--latency", "0.005") as provider:
        elsewhere = Elsewhere(tmp_path, provider)
        told = elsewhere.stopped_by(summaries.rmdir, summary=summaries / "summary.json")
        assert f"--summary {summaries / 'summary.json'} cannot be written" in told
        assert wrong_lines(elsewhere.output, ROWS) == []
        elsewhere.check_finished(ROWS)
