"""`penstock serve`: what the file and the options may say, and every mistake told before anything is opened."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import serve as command
from penstock.server import running
from penstock.server.app import Server
from tests.kit.command import Command, Recorder, ended, snapshot
from tests.kit.serving import serving_process

LOOKS_LIKE_A_KEY = [
    "sk-proj-canary0123456789",
    "canarycanarycanary0123456789",
    "CANARY0123456789ABCDEF",
    "sk_live_canary0123",
]
MODEL = '[models."openai/m"]\nendpoint = "there"\n'
THERE = '[endpoints.there]\nbase_url = "http://127.0.0.1:9/v1"\n'
GOOD = MODEL + THERE

# The file, and the words that the message must have: the place in the file, and what is wrong or what to do.
MISTAKES: list[tuple[str, tuple[str, ...]]] = [
    ("", ("no model to serve", "-m", "[models.NAME]")),
    ("[server]\nport = 1\n", ("no model to serve",)),
    ("nonsense", ("penstock.toml", "not valid TOML", "end of document")),
    ("[server\n" + GOOD, ("not valid TOML", "line 1")),
    (GOOD + MODEL, ("not valid TOML",)),
    ("[sever]\n" + GOOD, ("sever",)),
    ("[server]\nprot = 8000\n" + GOOD, ("server", "prot")),
    ('[server]\nport = "8000"\n' + GOOD, ("server.port", "int")),
    ("[server]\nport = 70000\n" + GOOD, ("server.port", "65535")),
    ("[server]\nport = -1\n" + GOOD, ("server.port",)),
    ("[server]\nhost = 8000\n" + GOOD, ("server.host", "str")),
    ("[server]\ngrace = 0\n" + GOOD, ("server.grace", "positive")),
    ("[server]\ngrace = nan\n" + GOOD, ("server.grace", "positive")),
    ("[server]\ngrace = inf\n" + GOOD, ("server.grace", "positive")),
    ("[server]\nmax_wait = -1\n" + GOOD, ("server.max_wait", "positive")),
    ("[server]\nmax_waiting = 0\n" + GOOD, ("server.max_waiting", "positive")),
    ("[server]\nmax_body_mib = 0\n" + GOOD, ("server.max_body_mib", "positive")),
    ("[server]\nmax_upload_mib = -5\n" + GOOD, ("server.max_upload_mib", "positive")),
    ("[server]\nmax_batch_lines = 0\n" + GOOD, ("server.max_batch_lines", "positive")),
    ('[server]\nhosts = "a"\n' + GOOD, ("server.hosts", "array")),
    ('[server]\nrequest_log = "yes"\n' + GOOD, ("server.request_log", "bool")),
    ('[server]\nafter = ["nothing"]\n' + GOOD, ("server.after", "module:function")),
    ('[server]\nafter = ["no_such_module:f"]\n' + GOOD, ("server.after", "no_such_module")),
    ('[server]\nhost = "0.0.0.0"\n' + GOOD, ("0.0.0.0", "key", "127.0.0.1")),
    ('[server]\nhost = "::"\n' + GOOD, ("without a key",)),
    ('[server]\nhost = ""\n' + GOOD, ("without a key",)),
    ('[server]\nhost = "example.com"\n' + GOOD, ("without a key",)),
    (THERE + '[models."openai/m"]\nendpoint = "elsewhere"\n', ("models.openai/m.endpoint", "[endpoints.elsewhere]")),
    (THERE + '[models."openai/m"]\nrpm = 0\nendpoint = "there"\n', ("models.openai/m", "requests_per_minute")),
    (THERE + '[models."openai/m"]\nrpm = "many"\nendpoint = "there"\n', ("models.openai/m.rpm", "float")),
    (THERE + '[models."openai/m"]\nshare = 2\nendpoint = "there"\n', ("models.openai/m", "share")),
    (THERE + '[models."openai/m"]\nmax_concurrency = 0\nendpoint = "there"\n', ("models.openai/m", "max_concurrency")),
    (THERE + '[models."openai/m"]\nmax_retries = -1\nendpoint = "there"\n', ("models.openai/m", "max_retries")),
    (THERE + '[models."openai/m"]\ntimeout = 0\nendpoint = "there"\n', ("models.openai/m", "timeout")),
    (THERE + '[models."openai/m"]\nrps = 3\nendpoint = "there"\n', ("models.openai/m", "rps")),
    ('[models.a]\nmodel = "nobody/m"\n', ("models.a", "nobody")),
    ('[models."openai/m"]\n', ("models.openai/m", "OPENAI_API_KEY")),
    ('[models."custom/m"]\n', ("models.custom/m", "--base-url")),
    ('[models."openai/m"]\nkey = "NOT_SET"\n', ("models.openai/m", "NOT_SET", "not set")),
    (MODEL + "[endpoints.there]\n", ("endpoints.there", "base_url")),
    (MODEL + '[endpoints.there]\nbase_url = "ftp://x"\n', ("models.openai/m", "not a base URL")),
    (MODEL + '[endpoints.there]\nbase_url = "http://me:canary@x/v1"\n', ("models.openai/m", "not a base URL")),
    (MODEL + '[endpoints.there]\nbase_url = "http://x/v1"\nkey = "NOT_SET"\n', ("NOT_SET", "not set")),
    (GOOD + "[keys.team]\n", ("keys.team", "variable")),
    (GOOD + '[keys.team]\nvariable = "NOT_SET"\n', ("keys.team", "NOT_SET", "not set")),
    (GOOD + '[keys.team]\nvariable = "SHORT"\n', ("keys.team", "SHORT", "16")),
    (GOOD + '[keys.team]\nvariable = "LONG_ENOUGH"\nlane = "nobody"\n', ("keys.team.lane", "nobody", "interactive")),
    (GOOD + "[lanes.slow]\nweight = 0\n", ("lanes.slow.weight", "positive")),
    (GOOD + '[lanes.slow]\nweight = "x"\n', ("lanes.slow.weight", "float")),
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """The servers that would have been run."""
    servers: list[Server] = []

    def run(server: Server, tell: Any) -> int:
        servers.append(server)
        return 0

    monkeypatch.setattr(running, "run", run)
    return servers


@pytest.fixture
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "canary-too-short"[:15])
    monkeypatch.setenv("LONG_ENOUGH", "x" * 16)


@pytest.mark.usefixtures("_variables")
def test_every_mistake_in_the_file_is_told_with_its_place_before_anything_is_opened(
    penstock: Command, folder: Path, made: list[Server]
) -> None:
    """Exit 2, one line that says where and what; no port, no folder, no file."""
    for text, words in MISTAKES:
        (folder / "penstock.toml").write_text(text)
        before = snapshot(folder)
        ran = penstock("serve")
        assert ran.status == 2, (text, ran)
        assert all(word in ran.err for word in words), (text, ran.err)
        assert ran.err.count("\n") == 1, ran.err
        assert "canary" not in ran.err
        assert ran.out == ""
        assert snapshot(folder) == before
    assert made == []


@pytest.mark.parametrize("key", LOOKS_LIKE_A_KEY)
@pytest.mark.parametrize(
    "text",
    [
        GOOD + '[keys.team]\nvariable = "{}"\n',
        '[models."openai/m"]\nkey = "{}"\n',
        MODEL + '[endpoints.there]\nbase_url = "http://x/v1"\nkey = "{}"\n',
    ],
)
def test_a_key_in_place_of_its_variables_name_is_not_repeated(
    penstock: Command, folder: Path, text: str, key: str
) -> None:
    (folder / "penstock.toml").write_text(text.format(key))
    ran = penstock("serve")
    assert ran.status == 2
    assert key not in ran.err
    assert "variable" in ran.err


@pytest.mark.parametrize("key", LOOKS_LIKE_A_KEY)
def test_a_key_in_place_of_the_option_is_not_repeated(penstock: Command, key: str) -> None:
    ran = penstock("serve", "-m", "builtin/extractive", "--key", key)
    assert (ran.status, key in ran.err) == (2, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("no model to serve",)),
        (("-m", "openai/m"), ("OPENAI_API_KEY",)),
        (("-m", "nobody/m"), ("nobody",)),
        (("-m", "custom/m"), ("--base-url",)),
        (("-m", "custom/m", "--base-url", "ftp://x"), ("not a base URL",)),
        (("-m", "builtin/extractive", "--config", "x.toml"), ("-m or --config",)),
        (("--config", "missing.toml"), ("missing.toml", "No such file")),
        (("--config", "."), ("cannot be read",)),
        (("-m", "builtin/extractive", "--port", "70000"), ("70000",)),
        (("-m", "builtin/extractive", "--port", "x"), ("x",)),
        (("-m", "builtin/extractive", "--grace", "0"), ("--grace",)),
        (("-m", "builtin/extractive", "--host", "0.0.0.0"), ("without a key", "--key")),
        (("-m", "builtin/extractive", "--host", "192.0.2.1"), ("without a key",)),
        (("-m", "builtin/extractive", "--key", "NOT_SET"), ("NOT_SET", "not set")),
        (("-m", "builtin/extractive", "--rpm", "0"), ("--rpm",)),
        (("-m", "builtin/extractive", "extra"), ("extra",)),
    ],
)
def test_every_mistake_on_the_command_line_is_told(
    penstock: Command, folder: Path, made: list[Server], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    ran = penstock("serve", *arguments)
    assert ran.status == 2, ran
    assert all(word in ran.err for word in words), ran.err
    assert "Traceback" not in ran.err
    assert list(folder.iterdir()) == []


def test_a_port_that_is_taken_is_told_before_anything_is_opened(penstock: Command, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = penstock("serve", "-m", "builtin/extractive", "--port", port)
    assert ran.status == 2
    assert f"127.0.0.1:{port}" in ran.err
    assert "--port" in ran.err
    assert list(folder.iterdir()) == []


def test_a_host_that_is_not_ours_is_told(penstock: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SERVER_KEY", "k" * 20)
    ran = penstock("serve", "-m", "builtin/extractive", "--host", "192.0.2.1", "--port", "0")
    assert (ran.status, "192.0.2.1" in ran.err) == (2, True)


@pytest.mark.parametrize("taken", ["data", "data/requests.jsonl"])
def test_a_place_that_cannot_hold_the_state_is_told(penstock: Command, folder: Path, taken: str) -> None:
    """The folder is a file, the log is a folder: exit 2 and one line, no traceback."""
    if taken == "data":
        (folder / "data").write_text("a file")
    else:
        (folder / taken).mkdir(parents=True)
    ran = penstock("serve", "-m", "builtin/extractive", "--port", "0", "--data", "data")
    assert ran.status == 2, ran
    assert "data" in ran.err
    assert "Traceback" not in ran.err


def test_help_tells_how_to_begin_and_who_may_ask(penstock: Command) -> None:
    ran = penstock("serve", "--help")
    assert ran.status == 0
    for words in ("penstock serve -m builtin/extractive", "PENSTOCK_SERVER_KEY", "/healthz", "--data", "--allow-host"):
        assert words in ran.out


# -- what is made of file and options


def test_options_make_the_settings(penstock: Command, made: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several models share the address and the limits that the options give."""
    monkeypatch.setenv("MY_KEY", "k" * 20)
    limits = ("--rpm", "500", "--tpm", "1000", "--share", "0.5", "--max-concurrency", "7", "--max-retries", "1")
    ran = penstock(
        *("serve", "-m", "custom/a", "-m", "custom/b", "--base-url", "http://127.0.0.1:9/v1", *limits),
        *(
            "--timeout",
            "9",
            "--deadline",
            "99",
            "--host",
            "0.0.0.0",
            "--port",
            "9000",
            "--data",
            "there",
            "--grace",
            "3",
        ),
        *("--key", "MY_KEY", "--allow-host", "api.example.com"),
    )
    assert ran.status == 0, ran
    (server,) = made
    settings = server.serving.settings
    assert server.serving.models.names == ["a", "b"]
    for served in settings.models.values():
        assert (served.limits.requests_per_minute, served.limits.tokens_per_minute) == (500, 1000)
        assert (served.share, served.max_concurrency, served.max_retries) == (0.5, 7, 1)
        assert (served.timeout, served.deadline) == (9, 99)
    listening = settings.server
    assert (listening.host, listening.port, listening.data, listening.grace) == ("0.0.0.0", 9000, "there", 3)
    assert settings.host_names == {"localhost", "127.0.0.1", "[::1]", "api.example.com"}
    assert list(settings.keys) == ["default"]
    assert bool(server.serving.rules.keys)


def test_the_usual_variable_makes_a_key_needed(
    penstock: Command, made: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is set; and a file with keys of its own does not get it besides."""
    penstock("serve", "-m", "builtin/extractive")
    monkeypatch.setenv(command.KEY_VARIABLE, "k" * 20)
    penstock("serve", "-m", "builtin/extractive")
    monkeypatch.setenv("TEAM", "t" * 20)
    Path("penstock.toml").write_text('[models."builtin/extractive"]\n[keys.team]\nvariable = "TEAM"\n')
    penstock("serve")
    assert [list(server.serving.settings.keys) for server in made] == [[], ["default"], ["team"]]


def test_options_win_over_the_file(penstock: Command, made: list[Server]) -> None:
    """Those of the server; and the file is taken by its usual name where no model is named."""
    Path("penstock.toml").write_text(
        '[server]\nport = 1\ngrace = 9\nhosts = ["a.example"]\n[models."builtin/extractive"]\n'
    )
    assert penstock("serve", "--port", "2", "--allow-host", "b.example").status == 0
    assert penstock("serve", "-m", "openai/other", "--base-url", "http://127.0.0.1:9/v1").status == 0
    first, second = (server.serving.settings for server in made)
    assert (first.server.port, first.server.grace, first.server.hosts) == (2, 9, ["a.example", "b.example"])
    assert (list(second.models), second.server.port) == (["openai/other"], 8000)


@pytest.mark.parametrize("option", [("--rpm", "5"), ("--base-url", "http://127.0.0.1:9/v1"), ("--deadline", "5")])
def test_an_option_that_the_file_would_silence_is_refused(
    penstock: Command, made: list[Server], option: tuple[str, str]
) -> None:
    """Limits and addresses of models are the file's: an option that changes nothing would mislead."""
    Path("penstock.toml").write_text('[models."builtin/extractive"]\n')
    ran = penstock("serve", *option)
    assert (ran.status, option[0] in ran.err) == (2, True), ran
    assert made == []


# -- the command itself


@contextmanager
def asking(port: int, target: str, body: Any = None, **headers: str) -> Iterator[Any]:
    data = json.dumps(body).encode() if body is not None else None
    given = {"content-type": "application/json", **headers}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{target}", data, given)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as told:
        yield json.loads(told.read())


def test_the_guides_example_works_at_once(folder: Path) -> None:
    """`penstock serve -m builtin/extractive`, no key, no network; state in the usual folder; Ctrl-C ends it."""
    with serving_process("-m", "builtin/extractive") as server:
        with asking(server.port, "/generate", {"prompt": "Summarise: The sky is blue. The sea is deep."}) as told:
            assert told["generated_text"]
        with asking(server.port, "/v1/models") as told:
            assert [card["id"] for card in told["data"]] == ["extractive"]
        server.process.send_signal(signal.SIGINT)
        assert ended(server.process).status == 130
    assert (folder / "penstock-data").stat().st_mode & 0o777 == 0o700
    (line,) = (
        each for each in (folder / "penstock-data" / "requests.jsonl").read_text().splitlines() if "/generate" in each
    )
    assert json.loads(line)["status"] == 200


def test_a_file_with_keys_and_lanes_works(provider: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model under a name of one's own, at one's own address, with keys both ways; the log on stderr is JSON without them."""
    monkeypatch.setenv("TEAM_KEY", "sk-team-0123456789")
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-0123456789")
    Path("penstock.toml").write_text(
        f"""
        [server]
        data = "state"
        [models.fast]
        model = "custom/llama"
        endpoint = "mine"
        rpm = 600
        [endpoints.mine]
        base_url = "{provider.base_url}"
        key = "UPSTREAM_KEY"
        [keys.team]
        variable = "TEAM_KEY"
        lane = "nightly"
        [lanes.nightly]
        weight = 2
        """
    )
    chat = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
    with serving_process() as server:
        with pytest.raises(urllib.error.HTTPError, match="401"), asking(server.port, "/v1/chat/completions", chat):
            pass
        with asking(server.port, "/v1/chat/completions", chat, authorization="Bearer sk-team-0123456789") as told:
            assert told["choices"][0]["message"]["content"] == "answer to hi"
        server.process.send_signal(signal.SIGTERM)
        ran = ended(server.process)
    assert ran.status == 143
    lines = [line for line in ran.err.splitlines() if line.startswith("{")]
    assert lines
    assert all(json.loads(line)["level"] for line in lines)
    logged = ran.err + Path("state/requests.jsonl").read_text()
    assert not re.search("sk-team|sk-upstream", logged)
    assert provider.bodies[0]["model"] == "llama"
