"""A provider that has a bad day: server errors, resets, cut answers, stalls and throttles, over real sockets and processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.journey import penstock, write_input, wrong_lines
from tests.kit.simulated import simulated

ROWS = 5_000
FAULTS = {"error_500": 0.05, "reset": 0.02, "truncate": 0.02, "stall": 0.01, "throttle": 0.003}
UNANSWERED = ("reset", "truncate", "stall")
"""After these the provider may have done the work, and no answer came."""


@pytest.mark.parametrize("processes", [1, 3])
def test_every_row_gets_its_own_answer_and_every_send_is_accounted_for(tmp_path: Path, processes: int) -> None:
    """Exit 0; the client's account and the provider's own are the same, send for send, however many processes send."""
    output, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    rates = [f"--fault={name}={rate}" for name, rate in FAULTS.items()]
    with simulated(*rates, "--retry-after", "0.05", "--seed", "4") as provider:
        run = ["run", write_input(tmp_path / "in.jsonl", ROWS), "-o", output, "-m", "custom/m", "--no-progress"]
        run += ["--base-url", provider.base_url, "--timeout", 3, "--summary", summary, "--processes", processes]
        done = penstock(*run)
        seen = provider.stats()
    assert done.returncode == 0, done.stderr
    assert wrong_lines(output, ROWS) == []
    assert all(seen["failed"][name] > 0 for name in FAULTS if name != "throttle")
    assert seen["throttled"] > 0
    told = json.loads(summary.read_bytes())
    assert [told[name] for name in ("rows", "ok", "failed", "left", "reused")] == [ROWS, ROWS, 0, 0, 0]
    assert (told["sent"], told["throttled"]) == (seen["arrived"], seen["throttled"])
    assert told["ambiguous"] == sum(seen["failed"][name] for name in UNANSWERED)
    assert told["retried"] == told["ambiguous"] + seen["failed"]["error_500"]
    assert (seen["answered"], seen["duplicates"], seen["abandoned"]) == (ROWS, 0, 0)
    assert (told["input_tokens"], told["output_tokens"]) == (seen["input_tokens"], seen["output_tokens"])
    verified = penstock("verify", output)
    assert verified.returncode == 0, verified.stdout
    assert f"{told['ambiguous']:,} sends may be billed without an answer" in verified.stdout
