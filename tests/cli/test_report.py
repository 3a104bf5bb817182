"""`penstock report`: the page says what the ledger says, also of a run under way, needs nothing else, and runs nothing foreign."""

from __future__ import annotations

import json
import re
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import jobs
from penstock.edges.ledger import LedgerFile, LedgerReader, RunRecord
from penstock.errors import Kind, UsageError, request_error
from penstock.records import Calls, Entry, Response, Result, Usage
from penstock.report import Report, charts, read_report, to_html
from penstock.report.reading import EXAMPLES, MOST_FAILURES, SLOWEST
from penstock.rules.entries import meta_of, to_entry
from tests.examples.pages import blocks
from tests.kit.command import Command, json_lines, started
from tests.kit.environment import ROOT
from tests.kit.simulated import Simulated, simulated

NOW = 1_795_000_000.0
RECORD = RunRecord(None, {"provider": "openai", "model": "gpt-5-mini"}, rows=10)

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</ScRiPt ><img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--<script>alert(1)//-->",
    "]]><iframe srcdoc='<script>alert(1)</script>'>",
    "javascript:alert(1)",
    "\u2028\u2029\x00\x1b[31m\u202e",
    "{{constructor.constructor('alert(1)')()}}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>@import 'http://evil.example/x.css'</style>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<base href='http://evil.example/'>",
]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")


class Page(HTMLParser):
    """A page as a browser takes it apart: tags with their attributes, the text, the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.texts: list[str] = []
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            kind, before = self.scripts[-1]
            self.scripts[-1] = kind, before + data
        elif self._within != "style":
            self.texts.append(data)

    @property
    def policy(self) -> str:
        return next(str(given["content"]) for tag, given in self.tags if given.get("http-equiv"))

    @property
    def figures(self) -> dict[str, Any]:
        return dict(json.loads(next(text for kind, text in self.scripts if kind == "application/json")))


def page_in(place: str) -> Page:
    return Page(Path(place).read_text())


def answered(index: int, *, latency_s: float = 1.0, cost: float | None = 0.25, name: str | None = None) -> Result:
    response = Response("fine", "stop", "m", Usage(10, 5), raw=b"{}")
    return Result(index, name or f"r{index}", response=response, attempts=1, latency_s=latency_s, cost=cost)


def failed(index: int, kind: Kind = "invalid_request", message: str = "no", **fields: Any) -> Result:
    return Result(index, f"r{index}", error=request_error(kind, message, **fields), attempts=1)


def at(ended: float | None, result: Result) -> Entry:
    """A recorded row that ended at that time, or of which no time is known."""
    entry = to_entry(result, bytes(16))
    meta = {name: value for name, value in msgspec.json.decode(entry.meta).items() if name != "ended"}
    dated = meta if ended is None else meta | {"ended": ended}
    return msgspec.structs.replace(entry, meta=msgspec.json.encode(dated))


async def ledger_with(entries: Sequence[Entry], record: RunRecord = RECORD, output: str = "out.jsonl") -> Path:
    """A ledger that stands beside OUTPUT, at rest."""
    path = Path(f"{output}.ledger").resolve()
    store = LedgerFile(path)
    store.begin(record)
    await store.commit(entries)
    store.close()
    return path


# -- what is told


async def test_a_report_adds_up_what_is_recorded() -> None:
    """Rows, tokens, money, sends, times; what is not over is left."""
    rows = [at(NOW + index, answered(index, latency_s=index + 1.0)) for index in range(4)]
    found = read_report(await ledger_with([*rows, at(NOW + 9, failed(4))]))
    assert (found.rows, found.totals.ok, found.totals.failed, found.left) == (10, 4, 1, 5)
    assert (found.totals.input_tokens, found.totals.output_tokens, found.totals.cost) == (40, 20, 1.0)
    assert (found.began, found.ended, found.undated) == (NOW - 1, NOW + 9, 0)
    assert found.sends == {1: 5}
    assert [name for _, name in sorted(found.slowest)] == ["r0", "r1", "r2", "r3"]
    assert sum(stretch.failed for _, stretch in found.course.in_order()) == 1


async def test_rows_without_a_time_are_told_apart() -> None:
    """An older ledger has all figures but those over time, and the page says so."""
    found = read_report(await ledger_with([at(None, answered(0)), at(NOW, answered(1))]))
    assert (found.undated, len(found.course.stretches), found.totals.ok) == (1, 1, 2)
    assert "1 rows were recorded without a time" in to_html(found, "x", NOW)
    undated = read_report(await ledger_with([at(None, answered(0))]))
    assert [name for name in charts(undated) if "over time" in name] == []


async def test_failures_are_counted_by_kind_status_and_code() -> None:
    """With the first ids and the first message; codes without end share one place."""
    same = [failed(index, "rate_limited", f"wait {index}", status=429, code="slow") for index in range(7)]
    many = [failed(7 + index, code=f"code-{index}") for index in range(MOST_FAILURES + 20)]
    found = read_report(await ledger_with([at(NOW, each) for each in (*same, *many)]))
    first = found.failures["rate_limited", 429, "slow"]
    assert (first.rows, first.message, first.ids) == (7, "wait 0", [f"r{index}" for index in range(EXAMPLES)])
    assert len(found.failures) <= MOST_FAILURES + 1
    assert sum(failure.rows for failure in found.failures.values()) == found.totals.failed == 7 + len(many)


async def test_the_slowest_are_few() -> None:
    entries = [at(NOW, answered(index, latency_s=float(index))) for index in range(SLOWEST + 20)]
    slowest = read_report(await ledger_with(entries)).slowest
    assert sorted(slowest) == [(float(index), f"r{index}") for index in range(20, SLOWEST + 20)]


async def test_a_row_of_a_workflow_counts_by_its_calls() -> None:
    """Tokens, cost and sends over time are those of the calls of each row that is over."""
    row = Result(0, 0, value=1, attempts=3, cost=0.5, latency_s=2.0, calls=Calls(2, usage=Usage(20, 8)))
    found = read_report(await ledger_with([at(NOW, row)]))
    [(_, stretch)] = found.course.in_order()
    assert (stretch.input_tokens, stretch.output_tokens, stretch.cost, found.sends) == (20, 8, 0.5, {3: 1})


async def test_the_charts_have_the_figures() -> None:
    """Each row is in the bars over time, and the money adds up at the end of its line."""
    entries = [at(NOW + index, answered(index)) for index in range(5)]
    drawn = charts(read_report(await ledger_with([*entries, at(NOW + 5, failed(5))])))
    assert list(drawn) == [
        *("Rows over time", "Latency over time", "Latency", "Tokens over time", "Cost over time"),
        *("Rows that failed", "Sends for a row"),
    ]
    ok, bad = drawn["Rows over time"].data
    width_s = ok.width / 1000
    assert (sum(ok.y) * width_s, sum(bad.y) * width_s) == (5, 1)
    assert drawn["Cost over time"].data[0].y[-1] == 1.25
    assert (drawn["Rows that failed"].data[0].x, drawn["Rows that failed"].data[0].y) == (("invalid_request",), (1,))


async def test_an_empty_run_has_a_page_too() -> None:
    found = read_report(await ledger_with([]))
    assert charts(found) == {}
    assert "0 rows over, 10 left" in to_html(found, "x", NOW)


def test_unknown_prices_are_not_told_as_zero() -> None:
    report = Report("openai", "m", None, 1)
    report.add(to_entry(answered(0, cost=None), bytes(16)))
    assert "not known ($0.0000, and 1 answers of unknown price)" in to_html(report, "x", NOW)


# -- the command


def run_of(base_url: str, *rows: Any) -> list[str]:
    Path("in.jsonl").write_bytes(json_lines(rows))
    return ["run", "in.jsonl", "-o", "out.jsonl", "-m", "openai/gpt-5-mini", "--base-url", base_url, "--no-progress"]


def test_the_page_of_a_run_agrees_with_its_account(penstock: Command, sim: Simulated) -> None:
    """Exit 0; rows, failures and cost are those that `verify` finds; charts and tables are there."""
    rows = [{"prompt": f"Row {index}"} for index in range(20)] + [{"prompt": "[[simulate:400]]"}]
    assert penstock(*run_of(sim.base_url, *rows)).status == 1
    ran = penstock("report", "out.jsonl", "--html", "r.html")
    assert (ran.status, ran.err) == (0, "21 rows in r.html\n")
    account, found = jobs.verify("out.jsonl"), read_report("out.jsonl.ledger")
    assert (found.rows, found.totals.ok, found.totals.failed) == (account.rows, account.ok, account.failed)
    assert (found.left, found.ambiguous, found.totals.cost) == (account.left, account.ambiguous, account.cost)
    text = " ".join(page_in("r.html").texts)
    assert all(words in text for words in ("out.jsonl", "openai/gpt-5-mini", "Slowest rows", "invalid_request", "400"))


def test_the_page_needs_nothing_else(penstock: Command, sim: Simulated) -> None:
    """No address in any tag; the page forbids the browser to fetch anything, and to run any script but the two that it names."""
    penstock(*run_of(sim.base_url, {"prompt": "one"}))
    penstock("report", "out.jsonl", "--html", "r.html")
    page = page_in("r.html")
    assert [given for _, given in page.tags if {"src", "href", "action", "data", "srcset"} & given.keys()] == []
    programs = [text for kind, text in page.scripts if kind is None]
    hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in programs]
    assert "Plotly" in programs[0]
    assert len(programs) == 2
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    assert page.policy == f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    assert page.figures.keys() == {given["id"] for tag, given in page.tags if tag == "div" and given.get("id")}


def test_a_run_under_way_has_a_page(penstock: Command) -> None:
    """What is recorded so far, and what is left."""
    rows = [{"prompt": f"Row {index}"} for index in range(5)] + [{"prompt": "[[simulate:stall]]"}]
    with simulated() as provider, started(*run_of(provider.base_url, *rows)) as running:
        while not Path("out.jsonl.ledger").exists() or done() < 5:
            assert running.poll() is None
        assert penstock("report", "out.jsonl", "--html", "r.html").status == 0
    assert "openai/gpt-5-mini, 5 rows over, 1 left" in " ".join(page_in("r.html").texts)


def done() -> int:
    """Rows that are recorded; the ledger may only just have come to be."""
    try:
        return read_report("out.jsonl.ledger").done
    except UsageError:
        return 0


@pytest.mark.parametrize("place", ["out.jsonl", "in.jsonl", "out.jsonl.ledger", "out.jsonl.ledger-wal", "./out.jsonl"])
def test_a_file_of_the_run_is_not_overwritten(penstock: Command, sim: Simulated, place: str) -> None:
    penstock(*run_of(sim.base_url, {"prompt": "one"}))
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    ran = penstock("report", "out.jsonl", "--html", place)
    assert (ran.status, "is a file of the run itself" in ran.err) == (2, True)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize("place", ["missing/r.html", "folder"])
async def test_a_place_that_cannot_be_written_is_told(penstock: Command, place: str) -> None:
    """Exit 2, and nothing is left behind."""
    await ledger_with([at(NOW, answered(0))])
    Path("folder").mkdir()
    ran = penstock("report", "out.jsonl", "--html", place)
    assert (ran.status, f"--html {place}" in ran.err) == (2, True)
    assert [path.name for path in Path().iterdir() if path.name.endswith(".tmp")] == []


def test_without_a_ledger_there_is_no_page(penstock: Command) -> None:
    ran = penstock("report", "out.jsonl", "--html", "r.html")
    assert (ran.status, "there is no ledger out.jsonl.ledger" in ran.err) == (2, True)
    assert not Path("r.html").exists()


async def test_without_plotly_the_extra_is_named(penstock: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs it stands in the message."""
    await ledger_with([at(NOW, answered(0))])
    for name in [name for name in sys.modules if re.match(r"penstock\.report\.(drawing|page)$|plotly", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    ran = penstock("report", "out.jsonl", "--html", "r.html")
    assert (ran.status, "pip install 'penstock[report]'" in ran.err) == (2, True)


# -- what others wrote


async def test_nothing_that_others_wrote_becomes_part_of_the_page() -> None:
    """Ids, messages, codes, model, provider and title: the tags are those of a harmless page, and every text is shown as text."""

    async def page(corpus: list[str]) -> Page:
        rows = [answered(index, name=text) for index, text in enumerate(corpus)]
        bad = [failed(len(rows) + index, message=text, code=text) for index, text in enumerate(corpus)]
        bad += [
            msgspec.structs.replace(row, id=text, index=100 + row.index) for row, text in zip(bad, corpus, strict=True)
        ]
        record = RunRecord(None, {"provider": corpus[0], "model": corpus[1]}, rows=99)
        entries = [at(NOW, row) for row in (*rows[:SLOWEST], *bad)]
        found = read_report(await ledger_with(entries, record, f"out{len(corpus[0])}.jsonl"))
        return Page(to_html(found, corpus[0], NOW))

    hostile, harmless = await page(HOSTILE), await page([f"text {index}" for index in range(len(HOSTILE))])
    assert hostile.tags[3:] == harmless.tags[3:]
    assert hostile.policy == harmless.policy
    assert hostile.figures.keys() == harmless.figures.keys()
    assert hostile.scripts == harmless.scripts
    text = "".join(hostile.texts)
    assert all(each in text for each in HOSTILE if "\x00" not in each)


async def test_the_ledger_is_not_touched() -> None:
    path = await ledger_with([at(NOW, answered(0))])
    before = path.read_bytes()
    read_report(path)
    assert (path.read_bytes(), [each.name for each in path.parent.glob("out.jsonl.ledger-*")]) == (before, [])
    with closing(LedgerReader(path)) as reader:
        assert len(list(reader.entries())) == 1


async def test_what_the_document_shows_runs(penstock: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """The command and the program of docs/report.md, over a run of that name."""
    await ledger_with([at(NOW, answered(0)), at(NOW + 1, failed(1))], output="summaries.jsonl")
    command, program = blocks(ROOT / "docs" / "report.md")
    assert penstock(*command.body.split()[1:]).status == 0
    assert Path("report.html").exists()
    exec(compile(program.body, "report.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 1 8 ")


def test_every_row_of_a_run_has_its_time(penstock: Command, sim: Simulated) -> None:
    """What is recorded is dated when it was over, so that the page can show the run over time."""
    began = time.time()
    assert penstock(*run_of(sim.base_url, *({"prompt": text} for text in ("one", "two", "three")))).status == 0
    ledger = Path("out.jsonl.ledger")
    report = read_report(ledger)
    assert (report.undated, report.totals.ok) == (0, 3)
    with closing(LedgerReader(ledger)) as reader:
        ended = [meta_of(entry).ended for entry in reader.entries() if entry is not None]
    assert all(when is not None and began <= when <= time.time() for when in ended)
