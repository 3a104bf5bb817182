"""Penstock's client against a server of others: the LiteLLM proxy, whose models are mocked and need neither network nor key."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO, Any

import pytest

from tests.kit.command import read_lines
from tests.kit.environment import OFFLINE, PATIENCE_SECONDS, environment
from tests.kit.journey import penstock, write_input

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2 * PATIENCE_SECONDS)]

KEY = "sk-conformance-4f1c9a7be2d05836"
ANSWER = "an answer from elsewhere"
ROWS = 200
NARROW_ROWS = 6
MOCKED_INPUT_TOKENS, MOCKED_OUTPUT_TOKENS = 10, 20
"""What LiteLLM says that every mocked answer used, whatever was asked."""

READY = "Uvicorn running on "
SWITCHES = (
    "LITELLM_LOCAL_MODEL_COST_MAP",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
    "LITELLM_LOCAL_BLOG_POSTS",
    "LITELLM_LOCAL_POLICY_TEMPLATES",
)
"""What keeps it from looking for news in the network."""


def model(name: str, **params: Any) -> dict[str, Any]:
    """A mocked model as LiteLLM's configuration has it."""
    mocked = {"model": f"openai/{name}", "api_key": "unused", "mock_response": ANSWER, **params}
    return {"model_name": name, "litellm_params": mocked}


CONFIGURATION = {
    "model_list": [model("prompt"), model("narrow", mock_delay=0.05, max_parallel_requests=2)],
    "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    "general_settings": {"custom_auth": "litellm_door.admit"},
}


@contextmanager
def proxy(folder: Path) -> Iterator[str]:
    """A LiteLLM proxy on loopback, in a process of its own; gives its base URL."""
    shutil.copy(Path(__file__).with_name("litellm_door.py"), folder)
    configuration = folder / "config.yaml"
    configuration.write_text(json.dumps(CONFIGURATION))  # JSON is YAML
    program = environment("litellm").with_name("litellm")
    command = [program, "--config", configuration, "--host", "127.0.0.1", "--port", str(free_port())]
    env = OFFLINE | dict.fromkeys(SWITCHES, "true") | {"HOME": str(folder), "LITELLM_MASTER_KEY": KEY}
    with subprocess.Popen(
        [*command, "--telemetry", "False"],
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        # Whatever it says later is read and forgotten, so that it never has to wait for a reader.
        reader = threading.Thread(target=process.stderr.read)
        try:
            url = listening(process.stderr)
            reader.start()
            yield f"{url}/v1"
        finally:
            process.kill()
            if reader.is_alive():
                reader.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def listening(errors: IO[str]) -> str:
    """The URL that it says it serves; fails with what it said where it ends before."""
    said = ""
    for line in errors:
        said += line
        if READY in line:
            return line.partition(READY)[2].split()[0]
    raise AssertionError(f"LiteLLM ended before it served: {said}")


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with proxy(tmp_path_factory.mktemp("litellm")) as url:
        yield url


class Runs:
    """`penstock run` of so many rows against the proxy, and what it left."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.output = folder / "out.jsonl"
        self._folder = folder
        self._base_url = base_url

    def __call__(self, name: str, rows: int, *options: object, key: str = KEY) -> CompletedProcess[str]:
        rows_in = write_input(self._folder / "in.jsonl", rows)
        command = ["run", rows_in, "-o", self.output, "-m", f"custom/{name}", "--base-url", self._base_url, *options]
        summary = self._folder / "summary.json"
        return penstock(*command, "--no-progress", "--summary", summary, env={"PENSTOCK_API_KEY": key})

    def summary(self) -> dict[str, Any]:
        return json.loads((self._folder / "summary.json").read_bytes())


@pytest.fixture
def run(tmp_path: Path, base_url: str) -> Runs:
    return Runs(tmp_path, base_url)


def test_every_row_is_answered_counted_and_in_balance(run: Runs) -> None:
    """200 rows ok, each sent once, tokens as the server counts them, and `verify` agrees."""
    done = run("prompt", ROWS)
    assert done.returncode == 0, done.stderr
    lines = read_lines(run.output)
    assert [line["index"] for line in lines] == list(range(ROWS))
    assert {(line["text"], line["finish_reason"], line["attempts"]) for line in lines} == {(ANSWER, "stop", 1)}
    told = run.summary()
    assert [told[name] for name in ("rows", "ok", "failed", "sent", "ambiguous")] == [ROWS, ROWS, 0, ROWS, 0]
    assert told["input_tokens"] == ROWS * MOCKED_INPUT_TOKENS
    assert told["output_tokens"] == ROWS * MOCKED_OUTPUT_TOKENS
    assert penstock("verify", run.output).returncode == 0


def test_one_answer_is_printed(base_url: str) -> None:
    """`penstock generate` prints the server's text and nothing else."""
    ask = ["generate", "What follows?", "-m", "custom/prompt", "--base-url", base_url]
    done = penstock(*ask, env={"PENSTOCK_API_KEY": KEY})
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER + "\n", "")


def test_an_unknown_model_stops_the_run(run: Runs) -> None:
    """It says so by a 400 without a code of its own: exit 3, and no row is refused for good."""
    done = run("no-such-model", ROWS)
    assert done.returncode == 3, done.stderr
    assert "does not know the model" in done.stderr
    told = run.summary()
    assert (told["failed"], told["left"]) == (0, ROWS)


def test_a_refused_key_stops_the_run_and_the_right_one_resumes_it(run: Runs) -> None:
    """Exit 3 with every row left; then the same command with the right key answers them all."""
    refused = run("prompt", 20, key="sk-another")
    assert refused.returncode == 3, refused.stderr
    assert (run.summary()["failed"], run.summary()["left"]) == (0, 20)
    assert "sk-another" not in refused.stderr + refused.stdout
    resumed = run("prompt", 20)
    assert resumed.returncode == 0, resumed.stderr
    assert run.summary()["ok"] == 20


def test_a_throttle_costs_no_row(run: Runs) -> None:
    """Its 429s name no wait: the rows wait and are sent again, and every send is either an answer or a throttle."""
    done = run("narrow", NARROW_ROWS, "--max-concurrency", 4)
    assert done.returncode == 0, done.stderr
    told = run.summary()
    assert told["throttled"] > 0
    assert (told["ok"], told["sent"], told["retried"]) == (NARROW_ROWS, NARROW_ROWS + told["throttled"], 0)
