"""Bad input and bad usage: exit 2, a message that says what to do, nothing sent, no file touched."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kit.command import (
    Command,
    Recorder,
    in_process_of_its_own,
    json_lines,
    snapshot,
)

ROWS = json_lines([{"prompt": "one"}, {"prompt": "two"}])
TABLE = b"name,text\na,first\nb,second\n"
SECRET = "sk-canary-4711"


class Folder:
    """Stands for a folder among the files of a case."""


class Link(NamedTuple):
    """Stands for a symbolic link among the files of a case."""

    to: str


class Case(NamedTuple):
    """`penstock run INPUT -o OUTPUT ... OPTIONS` over some files, and words that its message must have.

    `model` and `base_url` stand for -m and --base-url; without a base URL of its own a case gets the recording provider's.
    """

    name: str
    says: str
    options: tuple[str, ...] = ()
    files: dict[str, Any] = {"in.jsonl": ROWS}  # noqa: RUF012 - read only
    input: str = "in.jsonl"
    output: str = "out.jsonl"
    model: str = "vllm/m"
    base_url: str | None = None
    env: dict[str, str] = {}  # noqa: RUF012 - read only


def content(name: str, says: str, file: str, data: bytes, *options: str) -> Case:
    """A case whose input file is at fault."""
    return Case(name, says, options, {file: data}, file)


def row(name: str, says: str, values: Any, *options: str) -> Case:
    """A case whose second row is at fault: the message names its line."""
    return content(name, f"in.jsonl:2: {says}", "in.jsonl", json_lines([{"prompt": "one", "c": 1}, values]), *options)


def usage(name: str, says: str, *options: str) -> Case:
    """A case whose options are at fault."""
    return Case(name, says, options)


def chat(**changes: Any) -> dict[str, Any]:
    """A line of the OpenAI batch format with some of its keys changed; None leaves one out."""
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "hello"}]},
    }
    return {key: value for key, value in (line | changes).items() if value is not None}


UTF16 = "name,text\na,first\n".encode("utf-16")
KEYED = {"OPENAI_API_KEY": SECRET}

INPUTS = [
    Case("missing input", "INPUT is a file, a folder or -", files={}, input="nowhere.jsonl"),
    content("unknown suffix", "must end in one of .jsonl", "in.docx", ROWS),
    content("no suffix", "must end in one of .jsonl", "rows", ROWS),
    content("gz of an unknown kind", "must end in one of .jsonl", "in.gz", gzip.compress(ROWS)),
    content("empty file", "in.jsonl: there are no rows in it", "in.jsonl", b""),
    content("blank lines only", "there are no rows in it", "in.txt", b"\n  \n\n"),
    content("CSV with a header only", "there are no rows in it", "in.csv", b"name,text\n", "--prompt", "{text}"),
    Case("empty folder", "there is no file in this folder", files={"rows": Folder()}, input="rows"),
    Case(
        "folder of hidden files", "hidden ones do not count", files={"rows/.x": b"x", "rows/.d/y": b"y"}, input="rows"
    ),
    Case(
        "folder with a picture",
        "pic.png: not UTF-8 text",
        ("--prompt", "{text}"),
        {"rows/a.txt": b"a", "rows/pic.png": b"\x89PNG\xff"},
        "rows",
    ),
    content("invalid UTF-8", "in.jsonl:1: not valid UTF-8", "in.jsonl", b'{"prompt": "caf\xe9"}\n'),
    content("invalid UTF-8 in text", "in.txt:2: not valid UTF-8", "in.txt", b"one\ncaf\xe9\n"),
    content("UTF-16", "convert it to UTF-8", "in.csv", UTF16, "--prompt", "{text}"),
    content("gzip cut off", "cut off or damaged", "in.jsonl.gz", gzip.compress(os.urandom(2000))[:-900]),
    content("not gzip", "not a gzip file", "in.jsonl.gz", ROWS),
    content("JSON syntax error", "in.jsonl:3: not valid JSON", "in.jsonl", ROWS + b'{"prompt": }\n'),
    content("a line that is an array", "in.jsonl:3: a row must be a JSON object", "in.jsonl", ROWS + b"[1]\n"),
    content("a file that is one array", "not an array", "in.jsonl", b'[{"prompt": "one"}]\n'),
    content("CSV with a nameless column", "column 2 has no name", "in.csv", b"name,\na,b\n", "--prompt", "{name}"),
    content("empty CSV", "first line must name the columns", "in.csv", b"", "--prompt", "{text}"),
    content("CSV header twice", "column names must differ", "in.csv", b"a,b,a\n1,2,3\n", "--prompt", "{a}"),
    content(
        "CSV row too long",
        "in.csv:3: 3 fields where the header has 2",
        "in.csv",
        b"a,b\n1,2\n1,2,3\n",
        "--prompt",
        "{a}",
    ),
    content("CSV row too short", "in.csv:2: 1 fields where", "in.csv", b"a,b\n1\n", "--prompt", "{a}"),
    content("CSV quote never closed", "never closed", "in.csv", b'a,b\n1,"2\n', "--prompt", "{a}"),
    content(
        "same id twice",
        "in.jsonl:2: the id 'x' is also that of in.jsonl:1",
        "in.jsonl",
        json_lines([{"id": "x", "prompt": "1"}, {"id": "x", "prompt": "2"}]),
    ),
    row("prompt of another type", "prompt must be text", {"prompt": 7}),
    row("empty prompt in a row", "the prompt is empty", {"prompt": " "}),
    row("no prompt and no messages", "no prompt and no messages; give --prompt with {column} fields", {"text": "two"}),
    row("row without the prompt's column", "there is no column 'c'", {"d": 1}, "--prompt", "Say {c}"),
    row("null column", "column 'c' is null", {"c": None}, "--prompt", "Say {c}"),
    row("all columns empty", "nothing to ask about", {"c": ""}, "--prompt", "Say {c}"),
    row("id of another type", "'id' must be a whole number or a text", {"id": 1.5, "prompt": "two"}),
    row("id column missing in a row", "there is no column 'c' to take the id from", {"prompt": "two"}, "--id", "c"),
    row("kept column missing in a row", "there is no column 'c' to keep", {"prompt": "two"}, "--keep", "c"),
    row("messages empty", "messages must be a list that is not empty", {"messages": []}),
    row("messages not a list", "messages must be a list", {"messages": "hello"}),
    row("message without role", "each message must be an object with a role", {"messages": [{"content": "x"}]}),
    row("stream in a row", "stream must be left out", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
    row("params of another type", "params must be an object", {"prompt": "two", "params": [1]}),
    row("model of another type", "model must be text", {"prompt": "two", "model": 4}),
    row("batch line to another url", "url must be /v1/chat/completions", chat(url="/v1/embeddings")),
    row("batch line with another method", "method must be POST", chat(method="GET")),
    row("batch line without method", "a batch line needs method", chat(method=None)),
    row("batch line without messages", "messages must be a list", chat(body={"model": "m"})),
    Case(
        "model of another provider in a row",
        "in.jsonl:1: the model 'mistral/small' is of another provider",
        files={"in.jsonl": json_lines([{"prompt": "one", "model": "mistral/small"}])},
        model="openai/m",
        env=KEYED,
    ),
]

TEMPLATES = [
    Case("prompt that names no column", "names no column", ("--prompt", "Summarise."), {"in.csv": TABLE}, "in.csv"),
    Case("columns without a prompt", "in.csv:2: no prompt and no messages", (), {"in.csv": TABLE}, "in.csv"),
    Case("a column that is not there", "no column 'txt'", ("--prompt", "{txt}"), {"in.csv": TABLE}, "in.csv"),
    usage("attribute in the prompt", "fields are plain names", "--prompt", "{a.b}"),
    usage("conversion in the prompt", "fields are plain names", "--prompt", "{a!r}"),
    usage("index in the prompt", "fields are plain names", "--prompt", "{a[0]}"),
    usage("format in the prompt", "fields are plain names", "--prompt", "{a:>9}"),
    usage("open brace in the prompt", "write {{ and }}", "--prompt", "say { this"),
    usage("closed brace in the prompt", "write {{ and }}", "--prompt", "say } this"),
    usage("empty field in the prompt", "fields are plain names", "--prompt", "{}"),
    usage("empty prompt", "the prompt is empty", "--prompt", "  "),
    usage("prompt twice", "give --prompt or --prompt-file, not both", "--prompt", "x", "--prompt-file", "x.txt"),
    usage("prompt file missing", "--prompt-file x.txt cannot be read", "--prompt-file", "x.txt"),
    Case("prompt file empty", "the prompt is empty", ("--prompt-file", "p"), {"in.jsonl": ROWS, "p": b"\n"}),
    Case("prompt file not UTF-8", "cannot be read", ("--prompt-file", "p"), {"in.jsonl": ROWS, "p": b"\xff"}),
    Case("prompt file a folder", "cannot be read", ("--prompt-file", "p"), {"in.jsonl": ROWS, "p": Folder()}),
    usage("kept column of the output's own", "the output has a text of its own", "--keep", "text"),
    usage("kept column in no row", "no column 'author' to keep", "--keep", "author"),
    usage("id column in no row", "no column 'key' to take the id from", "--id", "key"),
]

MODELS = [
    Case("unknown provider", "known are openai", model="opnai/gpt", base_url=""),
    Case("no model name", "no model name in 'openai/'", model="openai/"),
    Case("empty model", "no model name", model=""),
    Case("no key", "OPENAI_API_KEY", model="openai/m", base_url=""),
    Case("blank key", "OPENAI_API_KEY", model="openai/m", base_url="", env={"OPENAI_API_KEY": "  "}),
    Case(
        "key with a control character",
        "OPENAI_API_KEY has a character",
        model="openai/m",
        env={"OPENAI_API_KEY": f"{SECRET}\x01"},
    ),
    Case(
        "key with a line break",
        "OPENAI_API_KEY has a character",
        model="openai/m",
        env={"OPENAI_API_KEY": f"{SECRET}\nx"},
    ),
    Case("provider without an address", "give its --base-url", model="custom/m", base_url=""),
    Case("base URL without scheme", "write http(s)://HOST", base_url="localhost:8000/v1"),
    Case("base URL by FTP", "write http(s)://HOST", base_url="ftp://localhost/v1"),
    Case("base URL with a password", "write http(s)://HOST", base_url=f"http://me:{SECRET}@localhost/v1"),
    Case("base URL with a query", "must not have a query", base_url=f"http://localhost/v1?key={SECRET}"),
    Case("base URL with a blank", "write http(s)://HOST", base_url="http://local host/v1"),
]

OUTPUTS = [
    Case("output is the input", "may be yours", output="in.jsonl"),
    Case(
        "output is the input, which has a ledger",
        "is the input itself",
        files={"in.jsonl": ROWS, "in.jsonl.ledger": b""},
        output="in.jsonl",
    ),
    Case("output links to the input", "may be yours", files={"in.jsonl": ROWS, "out.jsonl": Link("in.jsonl")}),
    Case(
        "output links to the input, with a ledger",
        "is the input itself",
        files={"in.jsonl": ROWS, "out.jsonl": Link("in.jsonl"), "out.jsonl.ledger": b""},
    ),
    Case("output without a ledger", "move it or choose another name", files={"in.jsonl": ROWS, "out.jsonl": b"mine"}),
    Case("output is a folder", "name a file in it", files={"in.jsonl": ROWS, "out.jsonl": Folder()}),
    Case("folder of the output missing", "create it first", output="no/such/out.jsonl"),
    Case(
        "output in the input folder",
        "would become a row of it",
        ("--prompt", "{text}"),
        {"rows/a.txt": b"a"},
        "rows",
        "rows/out.jsonl",
    ),
    Case("output to standard output", "OUTPUT must be a file", output="-"),
    Case(
        "ledger is another program's text",
        "is not a ledger of Penstock",
        files={"in.jsonl": ROWS, "out.jsonl.ledger": b"my notes, long enough to be one\n" * 40},
    ),
    usage("summary in a missing folder", "create it first", "--summary", "no/such/summary.json"),
    Case("summary is a folder", "name a file", ("--summary", "s"), {"in.jsonl": ROWS, "s": Folder()}),
    usage("summary is the input", "--summary in.jsonl", "--summary", "in.jsonl"),
    usage("summary is the output", "--summary ./out.jsonl", "--summary", "./out.jsonl"),
    usage("summary is the ledger", "--summary out.jsonl.ledger", "--summary", "out.jsonl.ledger"),
]

OPTIONS = [
    usage("rpm zero", "--rpm", "--rpm", "0"),
    usage("rpm negative", "--rpm", "--rpm", "-5"),
    usage("rpm not a number", "must be a", "--rpm", "nan"),
    usage("rpm infinite", "must be a", "--rpm", "inf"),
    usage("rpm a word", "'fast' is not a valid float", "--rpm", "fast"),
    usage("tpm zero", "--tpm", "--tpm", "0"),
    usage("concurrency zero", "--max-concurrency", "--max-concurrency", "0"),
    usage("concurrency not whole", "is not a valid integer", "--max-concurrency", "2.5"),
    usage("concurrency beyond the system's files", "or raise the limit (ulimit -n)", "--max-concurrency", "999999999"),
    usage("limit zero", "--limit", "--limit", "0"),
    usage("max-tokens zero", "--max-tokens", "--max-tokens", "0"),
    usage("temperature negative", "--temperature", "--temperature", "-1"),
    usage("temperature not a number", "--temperature", "--temperature", "nan"),
    usage("temperature infinite", "--temperature", "--temperature", "inf"),
    usage("retries negative", "--max-retries", "--max-retries", "-1"),
    usage("timeout zero", "--timeout", "--timeout", "0"),
    usage("deadline not a number", "must be a", "--deadline", "nan"),
    usage("grace negative", "--grace", "--grace", "-1"),
    usage("grace infinite", "--grace", "--grace", "inf"),
    usage("param without a sign", "--param takes KEY=VALUE", "--param", "top_p"),
    usage("param without a key", "--param takes KEY=VALUE", "--param", "=1"),
    usage("param twice", "--param top_p is given twice", "--param", "top_p=1", "--param", "top_p=2"),
    usage("param twice with a blank", "--param top_p is given twice", "--param", "top_p=1", "--param", "top_p =2"),
    usage("max-tokens twice", "max_tokens is given twice", "--max-tokens", "9", "--param", "max_tokens=9"),
    usage("temperature twice", "temperature is given twice", "--temperature", "0", "--param", "temperature=1"),
    usage("model as a param", "set the model with -m", "--param", "model=x"),
    usage("messages as a param", "use a prompt, or rows with messages", "--param", "messages=[]"),
    usage("stream as a param", "stream must be left out", "--param", "stream=true"),
    usage("update and fresh", "give --update or --fresh, not both", "--update", "--fresh"),
    usage("unknown option", "No such option", "--colour"),
    usage("an option without its value", "requires an argument", "--rpm"),
    usage("two inputs", "unexpected extra argument", "more.jsonl"),
    Case("proxy that is no URL", "use http://host:port", env={"http_proxy": "ftp://proxy:1"}),
]

CASES = INPUTS + TEMPLATES + MODELS + OUTPUTS + OPTIONS


def lay_out(folder: Path, files: dict[str, Any]) -> None:
    """Make the files of a case."""
    for name, made in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(made, Folder):
            path.mkdir()
        elif isinstance(made, Link):
            path.symlink_to(made.to)
        else:
            path.write_bytes(made)


def arguments_of(case: Case, base_url: str) -> list[str]:
    """The command line of a case."""
    address = base_url if case.base_url is None else case.base_url
    where = ["--base-url", address] if address else []
    return ["run", case.input, "-o", case.output, "-m", case.model, *where, *case.options]


def test_the_table_has_what_was_promised() -> None:
    """No kind stands there twice by mistake."""
    assert len({case.name for case in CASES}) == len(CASES) >= 45


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_bad_usage_of_run(
    case: Case, penstock: Command, provider: Recorder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, told what to do on standard error, nothing sent, no file made or changed, no secret shown."""
    for name, value in case.env.items():
        monkeypatch.setenv(name, value)
    lay_out(folder, case.files)
    before = snapshot(folder)
    ran = penstock(*arguments_of(case, provider.base_url))
    assert (ran.status, ran.out) == (2, ""), ran.err
    assert case.says in ran.err
    assert SECRET not in ran.err
    assert provider.connections == 0
    assert snapshot(folder) == before


OTHER = {
    "unknown command": (["rnu"], "No such command 'rnu'"),
    "run without arguments": (["run"], "Missing argument 'INPUT'"),
    "run without output": (["run", "in.jsonl", "-m", "vllm/m"], "Missing option '-o'"),
    "run without model": (["run", "in.jsonl", "-o", "out.jsonl"], "Missing option '-m'"),
    "results of nothing": (["results", "out.jsonl"], "give the OUTPUT of an earlier `penstock run`"),
    "results of no ledger": (["results", "mine"], "mine.ledger is not a ledger of Penstock"),
    "results without arguments": (["results"], "Missing argument 'OUTPUT'"),
    "verify of nothing": (["verify", "out.jsonl"], "give the OUTPUT of an earlier `penstock run`"),
    "verify of no ledger": (["verify", "mine"], "mine.ledger is not a ledger of Penstock"),
    "verify of a foreign database": (["verify", "other"], "other.ledger is not a ledger of Penstock"),
    "results of an empty ledger": (["results", "empty"], "empty.ledger is not a ledger of Penstock"),
    "generate without a key": (["generate", "hi", "-m", "openai/m"], "OPENAI_API_KEY"),
    "generate without a model": (["generate", "hi"], "Missing option '-m'"),
    "generate with an empty prompt": (["generate", " ", "-m", "vllm/m"], "prompt"),
    "generate by an unknown provider": (["generate", "hi", "-m", "opnai/m"], "known are openai"),
    "generate with a param of no value": (
        ["generate", "hi", "-m", "vllm/m", "--param", "x"],
        "--param takes KEY=VALUE",
    ),
    "generate without an address": (["generate", "hi", "-m", "custom/m"], "give its --base-url"),
    "generate with a temperature that is none": (
        ["generate", "hi", "-m", "vllm/m", "--temperature", "nan"],
        "--temperature",
    ),
    "simulate an unknown fault": (["simulate", "--port", "0", "--fault", "boom=1"], "use one of error_500"),
    "simulate a rate of two": (["simulate", "--port", "0", "--fault", "reset=2"], "from 0 to 1"),
    "simulate on port 70000": (["simulate", "--port", "70000"], "--port"),
    "simulate no latency": (["simulate", "--port", "0", "--latency", "fast"], "write 0.5, or 0.3..1.5"),
    "demo with an argument": (["demo", "again"], "unexpected extra argument"),
}


@pytest.mark.parametrize("name", OTHER)
def test_bad_usage_of_the_commands(name: str, penstock: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 2, told what to do, and the folder as it was."""
    arguments, says = OTHER[name]
    lay_out(folder, {"in.jsonl": ROWS, "mine.ledger": b"my notes\n" * 100, "empty.ledger": b""})
    with closing(sqlite3.connect(folder / "other.ledger")) as database:
        database.execute("CREATE TABLE runs (run, record)")
    before = snapshot(folder)
    ran = penstock(*arguments)
    assert (ran.status, ran.out) == (2, ""), ran.err
    assert says in ran.err
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("name", "says"),
    [("demo-topics.jsonl", "run the demo in another folder"), ("demo-summaries.jsonl", "move it or choose another")],
)
def test_the_demo_overwrites_nothing_of_the_users(name: str, says: str, penstock: Command, folder: Path) -> None:
    """A file of the demo's name that is not the demo's: exit 2, and nothing is written, not even the other file."""
    lay_out(folder, {name: b"mine\n"})
    before = snapshot(folder)
    ran = penstock("demo")
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", ["missing input", "no key", "output without a ledger", "JSON syntax error"])
def test_a_process_of_its_own_ends_the_same_way(name: str, provider: Recorder, folder: Path) -> None:
    """The status is the process's, the message has no traceback, and standard output stays empty."""
    case = next(case for case in CASES if case.name == name)
    lay_out(folder, case.files)
    before = snapshot(folder)
    ran = in_process_of_its_own(*arguments_of(case, provider.base_url))
    assert provider.connections == 0
    assert (ran.status, ran.out) == (2, "")
    assert case.says in ran.err
    assert "Traceback" not in ran.err
    assert snapshot(folder) == before


# -- with an earlier run


def made(penstock: Command, provider: Recorder, *options: str) -> list[str]:
    """An earlier run of three rows, finished; the command line that made it."""
    Path("in.jsonl").write_bytes(json_lines({"id": name, "text": name} for name in "abc"))
    arguments = ["run", "in.jsonl", "-o", "out.jsonl", "-m", "vllm/m", "--base-url", provider.base_url, *options]
    assert penstock(*arguments).status == 0
    assert len(provider.bodies) == 3
    return arguments


def refused(penstock: Command, provider: Recorder, folder: Path, arguments: list[str]) -> str:
    """The message of a command that must send and touch nothing."""
    before, sent = snapshot(folder), len(provider.bodies)
    ran = penstock(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert len(provider.bodies) == sent
    assert snapshot(folder) == before
    return ran.err


def test_changed_rows_are_refused_with_their_count(penstock: Command, provider: Recorder, folder: Path) -> None:
    """One row changed and one new: 2 of 4 have no answer; told of --update and --fresh."""
    arguments = made(penstock, provider, "--prompt", "Say {text}")
    Path("in.jsonl").write_bytes(json_lines({"id": name, "text": name} for name in "aXcd"))
    said = refused(penstock, provider, folder, arguments)
    assert "the rows changed" in said
    assert "2 of 4 rows have no answer" in said
    assert "--update sends just what has no answer yet" in said
    assert "--fresh starts over" in said


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (["--prompt", "Tell {text}"], "prompt changed since"),
        (["--prompt", "Say {text}", "--temperature", "1"], "params changed since"),
        (["--prompt", "Say {text}", "--system", "Be brief."], "system changed since"),
        (["--prompt", "Say {text}", "-m", "vllm/other"], "model changed since"),
    ],
)
def test_changed_options_are_refused_by_name(
    changed: list[str], says: str, penstock: Command, provider: Recorder, folder: Path
) -> None:
    """What shapes the requests changed: told which, and how many rows it concerns."""
    arguments = made(penstock, provider, "--prompt", "Say {text}")
    said = refused(penstock, provider, folder, [*arguments[:-2], *changed])
    assert says in said
    assert "3 of 3 rows have no answer" in said


def test_bad_rows_are_refused_in_an_update_too(penstock: Command, provider: Recorder, folder: Path) -> None:
    """--update and --fresh check the rows before they touch the ledger."""
    arguments = made(penstock, provider, "--prompt", "Say {text}")
    with Path("in.jsonl").open("ab") as rows:
        rows.write(b"{}\n")
    for again in ("--update", "--fresh"):
        assert "in.jsonl:4: there is no column 'text'" in refused(penstock, provider, folder, [*arguments, again])


def test_a_locked_ledger_is_refused(penstock: Command, provider: Recorder, folder: Path) -> None:
    """While another run holds the ledger: exit 2, whatever the option, and told to wait or choose another output."""
    arguments = made(penstock, provider, "--prompt", "Say {text}")
    with Path("out.jsonl.ledger.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for again in ([], ["--update"], ["--fresh"]):
            said = refused(penstock, provider, folder, [*arguments, *again])
            assert "another run is using out.jsonl.ledger" in said


def test_a_foreign_database_is_no_ledger(penstock: Command, provider: Recorder, folder: Path) -> None:
    """Another program's SQLite file under the ledger's name is left as it is."""
    Path("in.jsonl").write_bytes(ROWS)
    with closing(sqlite3.connect("out.jsonl.ledger")) as database:
        database.execute("CREATE TABLE mine (value)")
        database.commit()
    arguments = ["run", "in.jsonl", "-o", "out.jsonl", "-m", "vllm/m", "--base-url", provider.base_url]
    assert "another program's database" in refused(penstock, provider, folder, arguments)


def test_many_bad_rows_are_told_together(penstock: Command, folder: Path) -> None:
    """The first twenty by line, and that there may be more: nobody mends a file one error at a time."""
    Path("in.jsonl").write_bytes(json.dumps({"prompt": "ok"}).encode() + b"\n" + b"{\n" * 30)
    ran = penstock("run", "in.jsonl", "-o", "out.jsonl", "-m", "vllm/m")
    assert ran.status == 2
    assert [f"in.jsonl:{line}:" in ran.err for line in (1, 2, 21, 22)] == [False, True, True, False]
    assert "there may be more" in ran.err
