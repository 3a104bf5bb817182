"""`penstock simulate`: it says where it listens, serves, and ends with its account."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from penstock.cli.simulate import simulate
from tests.kit.simulated import simulated

ASK = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_then_tells_its_account(number: int) -> None:
    """Exit 0, and the account printed is that of the requests made."""
    with simulated("--seed", "3") as sim:
        assert sim.fetch("POST", "/v1/chat/completions", ASK)[0] == 200
        assert sim.stats()["answered"] == 1
        status, rest = sim.stop(number)
    assert status == 0
    assert f"--base-url {sim.base_url}" in rest
    assert json.loads(rest[rest.index("{") :])["answered"] == 1


def test_options_reach_the_settings() -> None:
    """Limits, faults, keys, models and lengths as given."""
    options = ["--rpm", "2", "--tpm", "5000", "--burst", "60", "--output-tokens", "30", "--fault", "error_500=1"]
    with simulated(*options, "--model", "m", "--latency", "0.001..0.002", "--token-latency", "0.00001,0.1") as sim:
        statuses = [sim.fetch("POST", "/v1/chat/completions", ASK)[0] for _ in range(3)]
        unknown = sim.fetch("POST", "/v1/chat/completions", ASK.replace(b'"m"', b'"n"'))[0]
        models = json.loads(sim.fetch("GET", "/v1/models")[1])
    assert (statuses, unknown) == ([500, 500, 429], 404)
    assert [model["id"] for model in models["data"]] == ["m"]
    with simulated("--rpm", "1", "--window", "fixed", "--headers", "none", "--slots", "1", "--latency", "0.01") as sim:
        assert [sim.fetch("POST", "/v1/chat/completions", ASK)[0] for _ in range(2)] == [200, 429]
    with simulated("--credit-gone-after", "1", "--api-key", "k") as sim:
        assert sim.fetch("POST", "/v1/chat/completions", ASK)[0] == 401


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--fault", "boom=0.1"], "use one of error_500"),
        (["--fault", "reset"], "reset=0.05"),
        (["--fault", "reset=0.6", "--fault", "stall=0.6"], "at most 1"),
        (["--latency", "fast"], "write 0.5, or 0.3..1.5"),
        (["--latency", "2..1"], "larger"),
        (["--window", "open"], "'bucket', 'fixed', 'sliding'"),
        (["--slots", "0"], "x>=1"),
        (["--headers", "false"], "'right', 'none', 'tenfold', 'tenth', 'spent', 'garbage'"),
        (["--rpm", "0"], "requests_per_minute must be a positive number"),
        (["--port", "70000"], "0<=x<=65535"),
        (["--host", "203.0.113.1", "--port", "0"], "--host"),
    ],
)
def test_bad_values_are_usage_errors_that_say_what_to_do(options: list[str], advice: str) -> None:
    """Exit 2 before anything is served."""
    result = CliRunner().invoke(simulate, options)
    assert result.exit_code == 2
    assert advice in result.output


def test_a_taken_port_is_told_with_the_way_out() -> None:
    """Exit 2, naming the port and --port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(simulate, ["--port", port])
    assert result.exit_code == 2
    assert f"port {port}: address already in use" in result.output
    assert "--port (0 takes a free one)" in result.output


def test_it_can_come_back_on_its_port_at_once() -> None:
    """A provider that was down and is up again is found where it was."""
    with simulated() as first:
        assert first.fetch("POST", "/v1/chat/completions", ASK)[0] == 200
        assert first.stop()[0] == 0
    assert first.port is not None
    with simulated(port=first.port) as second:
        assert (second.base_url, second.stats()["arrived"]) == (first.base_url, 0)


def test_the_command_is_light_until_it_runs() -> None:
    """Importing it for the list of commands loads neither an event loop nor the simulator."""
    script = (
        "import sys, penstock.cli.simulate; print({'asyncio', 'uvloop', 'msgspec', 'httptools'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_help_has_examples() -> None:
    """A reader of --help can start at once."""
    result = CliRunner().invoke(simulate, ["--help"])
    assert result.exit_code == 0
    assert "penstock simulate --rpm 600 --tpm 100000 --latency 0.3..1.5" in result.output
