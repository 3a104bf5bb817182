"""What the documents tell to type works as it is printed: every curl of the server, and the same with the openai client.

Only the port is another one, and ids that are printed as dots are those of the answer before.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from penstock.simulator.behaviour import expected_text
from tests.conformance.gateway import Gateway, serving
from tests.kit.command import in_process_of_its_own
from tests.kit.environment import OFFLINE, PATIENCE_SECONDS, ROOT, environment
from tests.kit.simulated import simulated

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

README = (ROOT / "README.md").read_text()
PRINTED = "localhost:8000"
SERVE = re.compile(r"^penstock serve (-m .*)$", re.MULTILINE)
CURL = re.compile(r"^ *(curl (?:.*\\\n)*.*)$", re.MULTILINE)
CLIENT = re.compile(r"^```python\n(from openai import OpenAI\n.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_IN_THE_DOCUMENT = {"GET /openapi.json"}
QUESTION = "Why is the sky blue?"
ROW = {
    "custom_id": "mine-1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "gpt-5-mini", "messages": [{"role": "user", "content": QUESTION}]},
}
NEVER_ANSWERED = json.dumps(ROW).replace(QUESTION, "[[simulate:stall]]")


class Told(NamedTuple):
    """What a curl printed, and the status of its answer."""

    status: int
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Shell:
    """Types the commands of a document. `ids` are the last ids of files and batches that were answered."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self.port = int(gateway.url.rpartition(":")[2])
        self.folder = folder
        self.ids = {"file-": "", "batch_": ""}
        self.write(json.dumps(ROW))

    def write(self, row: str) -> None:
        """The file that is uploaded from now on."""
        (self.folder / "questions.jsonl").write_text(f"{row}\n")

    def __call__(self, command: str) -> Told:
        command = self.here(command)
        for kind, name in self.ids.items():
            command = command.replace(f"{kind}...", name)
        command = command.replace("curl ", "curl -sS -w '\\n%{http_code}' ", 1)
        done = subprocess.run(["/bin/bash", "-c", command], **self._options())
        assert done.returncode == 0, done.stderr
        body, _, status = done.stdout.rpartition("\n")
        self._remember(body)
        return Told(int(status), body)

    def here(self, text: str) -> str:
        """What is printed, for the port that there is."""
        return text.replace(PRINTED, f"localhost:{self.port}")

    def python(self, program: str) -> str:
        """What a program prints in the environment of the openai client."""
        done = subprocess.run([environment("openai3"), "-c", self.here(program)], **self._options())
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def _options(self) -> dict[str, Any]:
        env = OFFLINE | {"NO_PROXY": "localhost,127.0.0.1"}
        return {"cwd": self.folder, "env": env, "capture_output": True, "text": True, "timeout": PATIENCE_SECONDS}

    def _remember(self, body: str) -> None:
        for kind in self.ids:
            if found := re.match(rf'\{{"id":"({kind}[0-9a-f]+)"', body):
                self.ids[kind] = found[1]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A server that was started as the README says, but at a provider on this machine."""
    [options] = SERVE.findall(README)
    with simulated() as provider:
        env = {"OPENAI_API_KEY": "sk-right"}
        where = ["--base-url", provider.base_url, "--data", str(tmp_path / "data"), "--grace", "1"]
        with serving(*shlex.split(options), *where, env=env) as gateway:
            yield Shell(gateway, tmp_path)
    assert gateway.failures == []


def route(command: str) -> str:
    """The path that a curl asks for."""
    return re.findall(rf"{PRINTED}(\S*)", command)[0]


def operation(command: str) -> str:
    """What a curl asks for, with its method."""
    told = re.search(r" -X (\w+)", command)
    sends = " -d " in command or " -F " in command
    return f"{told[1] if told is not None else 'POST' if sends else 'GET'} {route(command)}"


def operations(document: Any) -> set[str]:
    """All that a server has, as patterns of `operation`."""
    found = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    return {re.sub(r"\\{\w+\\}", "[^/]+", re.escape(known)) for known in found | NOT_IN_THE_DOCUMENT}


@pytest.fixture
def told(shell: Shell) -> dict[str, Told]:
    """The answers to the curls of the README, typed in their order. The batch that one cancels is another, which lasts."""
    commands = {operation(command): command for command in CURL.findall(README)}
    told = {}
    for asked, command in commands.items():
        if asked.endswith("/cancel"):
            assert at_its_end(shell)["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
            shell.write(NEVER_ANSWERED)
            shell(commands["POST /v1/files"])
            shell(commands["POST /v1/batches"])
        told[asked] = shell(command)
    return told


def test_the_readme_has_a_curl_for_each_route(told: dict[str, Told]) -> None:
    """Of all that the server itself says that it has; each is answered well."""
    assert {answer.status for answer in told.values()} == {200}
    patterns = operations(told["GET /openapi.json"].json)
    assert {pattern for pattern in patterns if not any(re.fullmatch(pattern, asked) for asked in told)} == set()
    assert len(patterns) == len(told)


def test_the_curls_of_the_readme_give_what_it_promises(told: dict[str, Told]) -> None:
    """Answers to the questions in them."""
    assert told["POST /generate"].json["generated_text"] == expected_text(QUESTION)
    assert told["POST /generate/stream"].body.startswith('data: {"text":"')
    assert told["POST /generate/stream"].body.endswith("data: [DONE]\n\n")
    lines = [json.loads(line) for line in told["POST /generate/batch"].body.splitlines()]
    assert sorted(line["index"] for line in lines) == [0, 1]
    assert all(line["error"] is None for line in lines)
    assert [model["id"] for model in told["GET /v1/models"].json["data"]] == ["gpt-5-mini"]
    assert told["GET /v1/models/gpt-5-mini"].json["id"] == "gpt-5-mini"
    [choice] = told["POST /v1/chat/completions"].json["choices"]
    assert choice["message"]["content"] == expected_text(QUESTION)
    assert [told[f"GET /{name}"].json["status"] for name in ("healthz", "readyz")] == ["ok", "ok"]
    assert "penstock_requests_total{" in told["GET /metrics"].body


def test_the_curls_on_files_and_batches_go_together(told: dict[str, Told]) -> None:
    """What was uploaded is answered, listed, read and deleted; a batch that lasts is cancelled."""
    file, batch = told["POST /v1/files"].json["id"], told["POST /v1/batches"].json
    assert batch["input_file_id"] == file
    assert told["GET /v1/batches/batch_..."].json["id"] == batch["id"]
    assert [listed["id"] for listed in told["GET /v1/batches"].json["data"]] == [batch["id"]]
    assert file in {listed["id"] for listed in told["GET /v1/files"].json["data"]}
    assert told["GET /v1/files/file-..."].json["id"] == file
    assert json.loads(told["GET /v1/files/file-.../content"].body) == ROW
    cancelled = told["POST /v1/batches/batch_.../cancel"].json
    assert cancelled["id"] != batch["id"]
    assert cancelled["status"] in ("cancelling", "cancelled")
    assert told["DELETE /v1/files/file-..."].json == {
        "id": cancelled["input_file_id"],
        "object": "file",
        "deleted": True,
    }


def at_its_end(shell: Shell) -> Any:
    """The last batch, once it is completed."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (batch := shell(f"curl {PRINTED}/v1/batches/batch_...").json)["status"] != "completed":
        assert time.monotonic() < until, batch
        time.sleep(0.1)
    return batch


def test_the_client_of_the_readme(shell: Shell) -> None:
    """The program that is printed asks and submits."""
    [program] = CLIENT.findall(README)
    said = shell.python(program + "\nprint(answer.choices[0].message.content)\nprint(batch.id)")
    text, batch = said.splitlines()
    assert text == expected_text(QUESTION)
    shell.ids["batch_"] = batch
    assert at_its_end(shell)["request_counts"]["completed"] == 1


def test_every_curl_of_the_chapter_on_batches(shell: Shell) -> None:
    """From upload to output; the cancellation comes too late, which is told."""
    *commands, cancel = CURL.findall((ROOT / "docs" / "batches.md").read_text())
    assert route(cancel).endswith("/cancel")
    assert len(commands) == 4
    for command in commands:
        if route(command).endswith("/content"):
            shell.ids["file-"] = at_its_end(shell)["output_file_id"]
        told = shell(command)
        assert told.status == 200, told
    assert told.json["response"]["body"]["choices"][0]["message"]["content"] == expected_text(QUESTION)
    assert shell(cancel).status == 409


def test_the_curl_of_the_help(shell: Shell) -> None:
    """`penstock serve --help` has one."""
    [command] = CURL.findall(in_process_of_its_own("serve", "--help").out)
    assert shell(command).json["generated_text"]
