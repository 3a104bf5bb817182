"""Ctrl-C and SIGTERM: nothing more is sent, what came back is recorded, the same command goes on."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.kit.command import Command, Ran, Recorder, ended, json_lines, read_lines, read_until, recorder, started

ROWS = 8
IN_FLIGHT = 2


def command(base_url: str, *options: str) -> list[str]:
    """A run of eight rows, two at a time, with ids that are not their places."""
    Path("in.jsonl").write_bytes(json_lines({"prompt": f"row {number}"} for number in range(ROWS)))
    own = ["--max-concurrency", str(IN_FLIGHT), *options]
    return ["run", "in.jsonl", "-o", "out.jsonl", "-m", "vllm/m", "--base-url", base_url, *own]


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal and wait until the process has told that it got it."""
    process.send_signal(number)
    read_until(process, "stopping:")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_lets_what_is_in_flight_finish(number: signal.Signals, status: int, penstock: Command) -> None:
    """Its status, no OUTPUT yet, the resume command told; then every row is sent exactly once over both sessions."""
    with recorder(hold_from=4) as provider:
        arguments = command(provider.base_url)
        with started(*arguments) as process:
            provider.wait_for(5)  # three are answered, two are held
            interrupt(process, number)
            provider.released.set()
            ran = ended(process)
        assert ran.status == status
        assert "8 rows = 5 ok + 0 failed + 3 left" in ran.err
        assert f"resume with: penstock {' '.join(arguments)}" in ran.err
        assert not Path("out.jsonl").exists()
        assert len(penstock("results", "out.jsonl").out.splitlines()) == 5
        assert penstock(*arguments).status == 0
        assert sorted(provider.prompts) == [f"row {number}" for number in range(ROWS)]
    assert [line["text"] for line in read_lines("out.jsonl")] == [f"answer to row {n}" for n in range(ROWS)]


def test_the_second_signal_gives_up_what_is_in_flight(penstock: Command) -> None:
    """Exit 130 with answers still due; what came back is recorded, the rows given up are sent again and told as maybe billed."""
    with recorder(hold_from=4) as provider:
        arguments = command(provider.base_url)
        assert twice_interrupted(arguments, provider).status == 130
        assert len(penstock("results", "out.jsonl").out.splitlines()) == 3
        provider.released.set()
        assert penstock(*arguments).status == 0
        assert len(provider.bodies) == ROWS + IN_FLIGHT
    verified = penstock("verify", "out.jsonl")
    assert verified.status == 0
    assert f"{IN_FLIGHT} sends may be billed without an answer" in verified.out


def test_the_account_after_the_second_signal_is_that_of_the_ledger() -> None:
    """The rows that are recorded count as ok, and the sends that were given up as maybe billed, at once."""
    with recorder(hold_from=4) as provider:
        ran = twice_interrupted(command(provider.base_url), provider)
    assert f"{IN_FLIGHT} that may be billed without an answer" in ran.err
    assert "8 rows = 3 ok + 0 failed + 5 left" in ran.err


def twice_interrupted(arguments: list[str], provider: Recorder) -> Ran:
    """How a run ends that gets two signals while two requests are held."""
    with started(*arguments) as process:
        provider.wait_for(5)
        interrupt(process, signal.SIGINT)
        process.send_signal(signal.SIGINT)
        return ended(process)


def test_the_grace_bounds_the_wait(penstock: Command) -> None:
    """With --grace 0 one signal is enough, whatever is in flight."""
    with recorder(hold_from=1) as provider:
        arguments = command(provider.base_url, "--grace", "0")
        with started(*arguments) as process:
            provider.wait_for(IN_FLIGHT)
            process.send_signal(signal.SIGTERM)
            ran = ended(process)
        assert ran.status == 143
        assert "8 rows = 0 ok + 0 failed + 8 left" in ran.err
        provider.released.set()
        assert penstock(*arguments).status == 0


def test_results_can_be_read_while_the_run_is_under_way(penstock: Command) -> None:
    """`results` shows what is recorded so far, and a second run over the same OUTPUT is refused."""
    with recorder(hold_from=4) as provider:
        arguments = command(provider.base_url)
        with started(*arguments) as process:
            provider.wait_for(5)
            shown = penstock("results", "out.jsonl")
            assert shown.status == 0
            assert len(shown.out.splitlines()) <= 3
            assert penstock(*arguments).status == 2
            assert len(provider.bodies) == 5
            provider.released.set()
            assert ended(process).status == 0
