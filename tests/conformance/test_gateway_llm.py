"""The `llm` command line talks to models through the gateway, by the few lines of its `extra-openai-models.yaml`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.simulator.answers import count_tokens
from penstock.simulator.behaviour import expected_text
from tests.conformance.gateway import KEY, Gateway, locked
from tests.kit.command import Ran
from tests.kit.environment import OFFLINE, PATIENCE_SECONDS, environment

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

MODELS = """
- model_id: {name}
  model_name: {model}
  api_base: {base_url}
  api_key_name: penstock
  supports_tools: true
  supports_schema: true
"""
CUT = "[[simulate:truncate]] Row 1 asks"
ADD = """
def add_numbers(a: int, b: int) -> int:
    return a + b
"""


class Llm:
    """`llm ARGUMENTS`, with the gateway's model as `x` and one that it does not have as `none`."""

    def __init__(self, folder: Path, gateway: Gateway) -> None:
        self._program = environment("llm").with_name("llm")
        self._env = OFFLINE | {"LLM_USER_PATH": str(folder), "HOME": str(folder)}
        known = {"x": "m", "none": "none"}
        listed = (MODELS.format(name=name, model=model, base_url=gateway.base_url) for name, model in known.items())
        (folder / "extra-openai-models.yaml").write_text("".join(listed))

    def __call__(self, *arguments: str) -> Ran:
        command = [self._program, *arguments]
        options: dict[str, Any] = {"env": self._env, "timeout": PATIENCE_SECONDS, "check": False}
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
        return Ran(done.returncode, done.stdout, done.stderr)

    def ask(self, prompt: str, *options: str, model: str = "x", key: str = KEY) -> Ran:
        return self("prompt", prompt, "-m", model, "--key", key, *options)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llm]:
    with locked(tmp_path_factory.mktemp("gateway")) as gateway:
        yield Llm(tmp_path_factory.mktemp("llm"), gateway)
    assert gateway.failures == []


def test_an_answer_is_streamed_to_the_terminal(llm: Llm) -> None:
    """Its text, and the tokens that `llm` always asks for; all of it goes into its log."""
    assert llm.ask("hi", "-u") == (
        0,
        expected_text("hi") + "\n",
        f"Token usage: {count_tokens('hi')} input, {count_tokens(expected_text('hi'))} output\n",
    )
    [logged] = json.loads(llm("logs", "-n", "1", "--json").out)
    assert (logged["response"], logged["response_json"]["model"]) == (expected_text("hi"), "m")


def test_an_answer_comes_whole_where_that_is_wanted(llm: Llm) -> None:
    """`--no-stream`."""
    assert llm.ask("hi", "--no-stream")[:2] == (0, expected_text("hi") + "\n")


def test_a_conversation_goes_on(llm: Llm) -> None:
    """`-c` sends what was said before."""
    assert llm.ask("hi").status == 0
    assert llm.ask("and then?", "-c", "-u").out == expected_text("and then?") + "\n"
    [logged] = json.loads(llm("logs", "-n", "1", "--json", "--usage").out)
    assert logged["input_tokens"] > count_tokens("and then?")


def test_the_models_are_listed(llm: Llm) -> None:
    """As models of the OpenAI API."""
    assert "OpenAI Chat: x\n" in llm("models").out


def test_a_tool_is_called(llm: Llm) -> None:
    """A function is called with its arguments, and its result goes back."""
    done = llm.ask("Please add_numbers: 3 and 4", "--functions", ADD, "--tools-debug")
    assert done.status == 0, done.err
    assert "add_numbers({'a': 3, 'b': 4})" in done.err
    assert done.out.endswith(expected_text("Please add_numbers: 3 and 4") + "\n")


def test_an_answer_by_a_schema(llm: Llm) -> None:
    """The fields that were asked for."""
    done = llm.ask("What is 3 + 4?", "--schema", "first int, second int")
    assert json.loads(done.out) == {"first": 3, "second": 4}


def test_errors_are_told(llm: Llm) -> None:
    """An unknown model, a refused request and a wrong key: status 1, and one line in the words of the gateway or the provider."""
    told = {
        "the model 'none' does not exist here; known are m": llm.ask("hi", model="none"),
        "maximum context length is 8192 tokens": llm.ask("[[simulate:too-long]]"),
        "that key is not known here": llm.ask("hi", key="sk-wrong-wrong-wrong"),
    }
    for words, done in told.items():
        assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
        assert words in done.err


def test_a_cut_stream_shows_what_came_and_fails(llm: Llm) -> None:
    """What had come by then is on the screen, so it was shown as it came; then status 1 and why."""
    done = llm.ask(CUT)
    assert done.status == 1
    assert done.out
    assert expected_text(CUT).startswith(done.out.strip())
    assert "closed inside the answer" in done.err
