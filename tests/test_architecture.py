"""The house's own rules: who may import what, what purity means, what an import may load, where packages come from."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "penstock"

PURE_MODULES = frozenset(
    [
        "__future__",
        "array",
        "bisect",
        "collections",
        "collections.abc",
        "contextlib",
        "dataclasses",
        "datetime",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "html",
        "html.parser",
        "itertools",
        "math",
        "msgspec",
        "operator",
        "re",
        "string",
        "struct",
        "typing",
        "urllib.parse",
        "zlib",
    ]
)
PURE_ROOMS = (
    *("penstock.errors", "penstock.records", "penstock.options", "penstock.ports", "penstock.rules"),
    *("penstock.providers", "penstock.simulator"),
)
IMPURE_SIMULATOR = frozenset({"penstock.simulator.server", "penstock.simulator.local", "penstock.simulator.clock"})
ENGINE_MODULES = PURE_MODULES | {"asyncio"}
ENGINE_ROOMS = (
    "penstock.errors",
    "penstock.records",
    "penstock.options",
    "penstock.ports",
    "penstock.rules",
    "penstock.engine",
)
BANNED_CALLS = frozenset({"open", "print", "input", "eval", "exec", "compile", "__import__", "breakpoint"})
BANNED_METHODS = frozenset(
    {"now", "utcnow", "today", "uuid1", "uuid4", "urandom", "urlopen", "read_text", "read_bytes"}
)
BANNED_OWNERS = frozenset({"time", "random", "os", "secrets", "socket", "uuid"})


def impurities(source: str, modules: frozenset[str], rooms: tuple[str, ...]) -> list[str]:
    """What a module does that its room may not, each as `line: what`."""
    found = []
    tree = ast.parse(source)
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [f"{node.lineno}: import {name}" for name in _imported(node) if not _allowed(name, modules, rooms)]
        elif isinstance(node, ast.Call) and (call := _banned(node.func, arguments)):
            found.append(f"{node.lineno}: {call}()")
    return found


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    module = "." * node.level + (node.module or "")
    # `from penstock.simulator import server` names a module too.
    inside = [f"{module}.{alias.name}" for alias in node.names if f"{module}.{alias.name}" in IMPURE_SIMULATOR]
    return [module, *inside]


def _allowed(name: str, modules: frozenset[str], rooms: tuple[str, ...]) -> bool:
    if name in IMPURE_SIMULATOR:
        return False
    return name in modules or any(name == room or name.startswith(f"{room}.") for room in rooms)


def _banned(called: ast.expr, arguments: set[str]) -> str | None:
    """The name of a call that reaches the world, None for any other; an argument called `time` is no module."""
    if isinstance(called, ast.Name):
        return called.id if called.id in BANNED_CALLS else None
    if not isinstance(called, ast.Attribute):
        return None
    owner = called.value.id if isinstance(called.value, ast.Name) else ""
    # The engine's own clock is asked by the same name: `self._clock.now()` is how time is passed in.
    clock = isinstance(called.value, ast.Attribute) and called.value.attr.lstrip("_") == "clock"
    if (owner in BANNED_OWNERS - arguments) or (called.attr in BANNED_METHODS and not clock and owner != "clock"):
        return f"{owner or '...'}.{called.attr}"
    return None


PURE_SIMULATOR = (
    "account",
    "answers",
    "behaviour",
    "budgets",
    "chance",
    "engine",
    "extractive",
    "foreign",
    "plans",
    "schemas",
    "settings",
    "windows",
)
PURE_FILES = sorted(
    [
        *(PACKAGE / "rules").glob("*.py"),
        *(PACKAGE / "providers").glob("*.py"),
        *(PACKAGE / "simulator" / f"{name}.py" for name in PURE_SIMULATOR),
        *(PACKAGE / f"{name}.py" for name in ("errors", "records", "options", "ports")),
    ]
)
ENGINE_FILES = sorted((PACKAGE / "engine").glob("*.py"))
ALL_FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """A file as the reader knows it."""
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", PURE_FILES, ids=name_of)
def test_decisions_cannot_reach_the_world(path: Path) -> None:
    """No event loop, clock, chance, network or disk in a pure room: all of it comes in as an argument."""
    assert impurities(path.read_text(), PURE_MODULES, PURE_ROOMS) == []


@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_the_engine_touches_nothing(path: Path) -> None:
    """It may use asyncio's primitives; time and chance come from the clock that it is given."""
    assert impurities(path.read_text(), ENGINE_MODULES, ENGINE_ROOMS) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", "1: import time"),
        ("import asyncio", "1: import asyncio"),
        ("import os.path", "1: import os.path"),
        ("from random import random", "1: import random"),
        ("from pathlib import Path", "1: import pathlib"),
        ("from . import clock", "1: import ."),
        ("def f():\n    import socket", "2: import socket"),
        ("from penstock.edges import clock", "1: import penstock.edges"),
        ("from penstock.engine.gate import Gate", "1: import penstock.engine.gate"),
        ("from penstock.simulator import server", "1: import penstock.simulator.server"),
        ("from penstock.simulator.clock import run", "1: import penstock.simulator.clock"),
        ("open('x')", "1: open()"),
        ("print(1)", "1: print()"),
        ("x = eval('1')", "1: eval()"),
        ("datetime.now()", "1: datetime.now()"),
        ("datetime.datetime.utcnow()", "1: ....utcnow()"),
        ("date.today()", "1: date.today()"),
        ("uuid.uuid4()", "1: uuid.uuid4()"),
        ("time.monotonic()", "1: time.monotonic()"),
        ("random.choice(x)", "1: random.choice()"),
        ("class A:\n    x = os.getenv('x')", "2: os.getenv()"),
    ],
)
def test_the_check_of_purity_finds_what_it_should(source: str, found: str) -> None:
    """Each bad snippet is found, with its line."""
    assert found in impurities(source, PURE_MODULES, PURE_ROOMS)


def test_the_check_of_purity_lets_pass_what_it_should() -> None:
    """Pure modules, pure rooms and a clock that was passed in."""
    source = "import re\nfrom penstock.records import Row\nfrom datetime import datetime\ndatetime.fromtimestamp(now)"
    assert impurities(source, PURE_MODULES, PURE_ROOMS) == []
    assert impurities("import asyncio\nself._clock.now()\nclock.now()", ENGINE_MODULES, ENGINE_ROOMS) == []
    assert impurities("import time", ENGINE_MODULES, ENGINE_ROOMS) == ["1: import time"]


def test_there_is_something_to_check() -> None:
    """The rooms are where the checks look for them."""
    assert {"rules", "providers", "simulator"} <= {path.parent.name for path in PURE_FILES}
    assert {"run.py", "call.py", "gate.py"} <= {path.name for path in ENGINE_FILES}


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """It opens with a docstring, and it is small enough to be read at once."""
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source))
    assert len(source.splitlines()) <= 400


HEAVY = (
    *("rich", "genai_prices", "pydantic", "httpx2", "httpx", "fastapi", "uvicorn", "sqlite3", "pandas", "pyarrow"),
    *("datasets", "langchain_core", "aiohttp", "openai"),
)


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import penstock", (*HEAVY, "asyncio", "click", "msgspec", "httptools", "uvloop", "ssl")),
        ("from penstock import PenstockError", (*HEAVY, "asyncio", "click", "httptools", "uvloop", "ssl")),
        ("from penstock.cli import status_of; status_of(['--help'])", (*HEAVY, "asyncio", "httptools", "uvloop")),
        ("from penstock.cli import status_of; status_of(['run', '--help'])", (*HEAVY, "asyncio", "httptools")),
        ("from penstock import Client; Client('vllm/m')", HEAVY),
    ],
)
def test_what_is_heavy_is_loaded_when_it_is_used(program: str, absent: tuple[str, ...]) -> None:
    """In a fresh interpreter none of these modules is there after it."""
    script = f"{program}\nimport sys\nprint('LOADED', *sorted({set(absent)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED"


FIRST_CALL = """
import asyncio, sys, httptools, msgspec, uvloop
needed = set(sys.modules)
from penstock import Client
imported = set(sys.modules)

ANSWER = b'{"choices":[{"message":{"content":"Hi."},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
HEAD = b"HTTP/1.1 200 OK\\r\\nx-ratelimit-limit-requests: 60\\r\\nx-ratelimit-reset-requests: 6m0s\\r\\n"

async def answer(reader, writer):
    await reader.readuntil(b"}")
    writer.write(HEAD + b"Content-Length: %d\\r\\n\\r\\n" % len(ANSWER) + ANSWER)
    await writer.drain()
    writer.close()

async def call():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, Client("vllm/m", base_url=f"http://{host}:{port}/v1") as client:
        assert (await client.generate("Hello")).text == "Hi."

asyncio.run(call())
print("IMPORTED", *sorted(imported - needed))
print("LATER", *sorted(set(sys.modules) - imported))
"""
NOT_FOR_A_FIRST_CALL = frozenset(
    [
        # runs, their ledger, forecasts of them
        *("penstock.recording", "penstock.edges.ledger", "penstock.engine.run", "penstock.engine.recorder"),
        *("penstock.engine.single", "penstock.engine.source", "penstock.engine.workflow", "penstock.planning"),
        *("penstock.rules.entries", "penstock.rules.identity", "penstock.simulator", "penstock.jobs"),
        # streams, forms of answers, errors, prices
        *("penstock.streaming", "penstock.engine.stream", "penstock.engine.streamed_rows"),
        *("penstock.providers.streams", "penstock.engine.structured", "penstock.rules.schema"),
        *("penstock.providers.failures", "penstock.providers.error_bodies", "penstock.providers.error_kinds"),
        *("penstock.rules.cost", "penstock.edges.processes"),
        # what these bring along
        *("sqlite3", "mmap", "shutil", "pathlib", "hashlib", "html", "random", "statistics", "tempfile"),
    ]
)


def test_the_client_loads_what_its_first_call_needs() -> None:
    """All that a plain call over HTTP needs is there after the import, and nothing of what only others need."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    imported, later = (set(line.split()[1:]) for line in done.stdout.splitlines())
    assert {"penstock.client", "penstock.engine.call", "penstock.providers.plain"} <= imported
    assert (imported | later) & (NOT_FOR_A_FIRST_CALL | set(HEAVY)) == set()
    assert {name for name in later if name.startswith("penstock")} == set()


def test_what_a_first_call_can_do_without_is_named_as_it_is() -> None:
    """A module that went by another name would never be found among those that were loaded."""
    ours = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in ALL_FILES}
    names = {name.removesuffix(".__init__") for name in ours}
    assert {name for name in NOT_FOR_A_FIRST_CALL if name.startswith("penstock.")} <= names


# -- packages

REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
REQUIREMENT = re.compile(r"^[A-Za-z0-9][\w.\[\]-]*==\S+")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")
INDEX = re.compile(r"index-url|find-links|trusted-host|https?://", re.IGNORECASE)


def requirements_of(text: str) -> list[str]:
    """The requirements of a lock file, continued lines joined, without comments."""
    joined = re.sub(r"(?m)^\s*#.*$", "", text).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_requirement_is_locked_by_hash_and_names_no_index(path: Path) -> None:
    """One version and its hashes for each package; where it comes from is the machine's own choice."""
    text = path.read_text()
    wrong = [line for line in requirements_of(text) if not (REQUIREMENT.match(line) and HASH.search(line))]
    assert requirements_of(text)
    assert wrong == []
    assert INDEX.search(text) is None


def test_the_locks_are_there() -> None:
    """For the installer, for users and for developers."""
    assert {"core.txt", "dev.txt", "uv.txt"} <= {path.name for path in REQUIREMENTS}


@pytest.mark.parametrize("name", ["pyproject.toml", "Makefile", "requirements/build.in", "requirements/dev.in"])
def test_no_build_file_names_an_index(name: str) -> None:
    """Neither a host nor an option that sets one."""
    text = (ROOT / name).read_text().replace("--no-emit-index-url", "")
    assert INDEX.search(text) is None


# -- import contracts


def contracts() -> list[dict[str, Any]]:
    """The import contracts of pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert settings["root_package"] == "penstock"
    assert settings["exclude_type_checking_imports"] is True
    return list(settings["contracts"])


def test_every_room_has_its_floor() -> None:
    """The layers name every top-level module of the package once, and nothing that is not there."""
    (layers,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    named = [name.strip() for layer in layers for name in re.split(r"[|:]", layer)]
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(named) == sorted(there - {"__init__", "__main__"})


def test_every_edge_is_independent() -> None:
    """The contract between the edges names each of them."""
    (edges,) = [contract["modules"] for contract in contracts() if contract["type"] == "independence"]
    there = {f"penstock.edges.{path.stem}" for path in (PACKAGE / "edges").iterdir() if not path.name.startswith("_")}
    assert set(edges) == there


def test_the_pure_rooms_are_forbidden_the_world() -> None:
    """There is a contract for the decisions and one for the engine, and both forbid time, chance, network and disk."""
    forbidden = [contract for contract in contracts() if contract["type"] == "forbidden"]
    sources = {source for contract in forbidden for source in contract["source_modules"]}
    assert {"penstock.rules", "penstock.providers", "penstock.simulator.behaviour", "penstock.engine"} <= sources
    for contract in forbidden:
        assert {"time", "random", "os", "socket", "sqlite3"} <= set(contract["forbidden_modules"])
