"""A disk that takes no more, at many places of a run: it stops cleanly, says what to do, and goes on once there is room.

The limit is the system's own on the size of a file (RLIMIT_FSIZE): a write beyond it fails as on a full disk.
"""

from __future__ import annotations

import resource
import signal
import subprocess
from pathlib import Path
from random import Random

import pytest

from tests.kit.journey import PATIENCE_SECONDS, SEED, command, penstock, write_input, wrong_lines
from tests.kit.simulated import simulated

ROWS = 3_000
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
