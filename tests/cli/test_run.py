"""`penstock run`, `results`, `verify`, `generate` and `demo` against providers on loopback: what is sent, told and written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.simulator.behaviour import expected_text
from tests.kit.command import Command, Ran, Recorder, in_process_of_its_own, json_lines, on_a_terminal, read_lines
from tests.kit.simulated import Simulated, simulated

KEYS = ["id", "index", "text", "finish_reason", "model", "usage", "cost", "attempts", "latency_s", "error"]
USAGE = ["input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"]
SUMMARY = [
    *("rows", "ok", "failed", "left", "sent", "throttled", "retried", "reused", "ambiguous", "input_tokens"),
    *("output_tokens", "cost", "rows_without_cost", "wall_s", "requests_per_s", "calls"),
]
PROMPTS = ["one", "two", "three"]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")


def rows_of(*rows: Any) -> None:
    """Write in.jsonl."""
    Path("in.jsonl").write_bytes(json_lines(rows))


def prompts(*texts: str) -> None:
    """Write in.jsonl with a prompt a row."""
    rows_of(*({"prompt": text} for text in texts))


def run_over(base_url: str, *options: str, source: str = "in.jsonl") -> list[str]:
    """The command line that most tests use."""
    return ["run", source, "-o", "out.jsonl", "-m", "openai/m", "--base-url", base_url, *options]


def texts() -> list[str | None]:
    """What OUTPUT says, row by row."""
    return [line["text"] for line in read_lines("out.jsonl")]


def answers(*asked: str) -> list[str]:
    """What the recording provider says."""
    return [f"answer to {prompt}" for prompt in asked]


# -- what is written


def test_every_row_has_its_line(penstock: Command, sim: Simulated) -> None:
    """Exit 0; a line for each row in input order, its keys in the order that was promised, its answer its own."""
    prompts(*PROMPTS)
    ran = penstock(*run_over(sim.base_url))
    lines = read_lines("out.jsonl")
    assert (ran.status, ran.out) == (0, "")
    assert "3 rows = 3 ok + 0 failed + 0 left" in ran.err
    assert [list(line) for line in lines] == [KEYS] * 3
    assert [list(line["usage"]) for line in lines] == [USAGE] * 3
    assert [(line["id"], line["index"], line["text"]) for line in lines] == [
        (index, index, expected_text(prompt)) for index, prompt in enumerate(PROMPTS)
    ]
    told = [(line["finish_reason"], line["model"], line["cost"], line["attempts"], line["error"]) for line in lines]
    assert told == [("stop", "m", None, 1, None)] * 3
    assert all(line["latency_s"] >= 0 for line in lines)


def test_names_and_kept_columns(penstock: Command, provider: Recorder) -> None:
    """--id names the rows, --keep copies columns to the end of the lines as they are."""
    rows_of({"key": "k1", "text": "one", "n": 1}, {"key": "k2", "text": "two", "n": None})
    ran = penstock(*run_over(provider.base_url, "--prompt", "{text}", "--id", "key", "--keep", "n", "--keep", "key"))
    lines = read_lines("out.jsonl")
    assert ran.status == 0
    assert [line["id"] for line in lines] == ["k1", "k2"]
    assert [list(line) for line in lines] == [[*KEYS, "n", "key"]] * 2
    assert [(line["n"], line["key"]) for line in lines] == [(1, "k1"), (None, "k2")]


@pytest.mark.parametrize("name", ["id", "custom_id"])
def test_a_row_is_named_by_its_own_id(name: str, penstock: Command, provider: Recorder) -> None:
    """`id` or `custom_id` of a row stands in its line, and is not sent."""
    rows_of({name: "x", "prompt": "one"}, {name: 7, "messages": [{"role": "user", "content": "two"}]})
    assert penstock(*run_over(provider.base_url)).status == 0
    assert [line["id"] for line in read_lines("out.jsonl")] == ["x", 7]
    assert all(name not in body for body in provider.bodies)


def test_options_reach_the_body(penstock: Command, provider: Recorder) -> None:
    """--param as JSON or text, --max-tokens under the provider's name, --temperature, --system before the prompt."""
    prompts("one")
    options = ["--param", "top_p=0.5", "--param", "user=me", "--param", 'stop=["a"]', "--max-tokens", "9"]
    assert penstock(*run_over(provider.base_url, *options, "--temperature", "0", "--system", "Be brief.")).status == 0
    assert provider.bodies == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}],
            "top_p": 0.5,
            "user": "me",
            "stop": ["a"],
            "max_completion_tokens": 9,
            "temperature": 0,
        }
    ]


def test_a_row_wins_over_the_options(penstock: Command, provider: Recorder) -> None:
    """A row's own parameters, model and instructions are kept."""
    system = {"role": "system", "content": "Mine."}
    rows_of({"messages": [system, {"role": "user", "content": "one"}], "temperature": 1, "model": "other"})
    assert penstock(*run_over(provider.base_url, "--temperature", "0", "--system", "Yours.")).status == 0
    body = provider.bodies[0]
    assert (body["model"], body["temperature"], body["messages"][0]) == ("other", 1, system)


def _folder() -> str:
    Path("rows").mkdir()
    Path("rows/b.txt").write_text("two")
    Path("rows/a.txt").write_text("one")
    return "rows"


def _file(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (lambda: _file("in.txt", b"one\n\ntwo\n"), []),
        (lambda: _file("in.csv", b"text,n\none,1\ntwo,2\n"), ["--prompt", "{text}"]),
        (lambda: _file("in.tsv", b"text\tn\none\t1\ntwo\t2\n"), ["--prompt", "{text}"]),
        (lambda: _file("in.jsonl.gz", gzip.compress(b'{"prompt":"one"}\n"two"\n')), []),
        (lambda: _file("in.csv.gz", gzip.compress(b"text\none\ntwo\n")), ["--prompt-file", "ask.txt"]),
        (_folder, ["--prompt", "{text}"]),
    ],
    ids=["txt", "csv", "tsv", "jsonl.gz", "csv.gz", "folder"],
)
def test_inputs(source: Any, options: list[str], penstock: Command, provider: Recorder) -> None:
    """Every format gives the same two rows, and a second run sends nothing."""
    Path("ask.txt").write_text("{text}\n")
    arguments = run_over(provider.base_url, *options, source=source())
    assert penstock(*arguments).status == 0
    assert sorted(provider.prompts) == ["one", "two"]
    assert texts() == answers("one", "two")
    again = penstock(*arguments)
    assert again.status == 0
    assert "0 sent" in again.err
    assert len(provider.bodies) == 2


def test_standard_input(provider: Recorder) -> None:
    """`-` reads JSON Lines; a bad line is an error on its row, and the others are answered."""
    ran = in_process_of_its_own(*run_over(provider.base_url, source="-"), stdin=b'{"prompt": "one"}\n{\n"two"\n')
    lines = read_lines("out.jsonl")
    assert ran.status == 1
    assert [line["text"] for line in lines] == ["answer to one", None, "answer to two"]
    assert lines[1]["error"]["kind"] == "input"
    assert "-:2" in lines[1]["error"]["message"]
    assert (lines[1]["attempts"], lines[1]["error"]["status"]) == (0, None)


def test_batch_lines_are_answered_in_their_format(penstock: Command, sim: Simulated) -> None:
    """Each line has id, custom_id, response and error; a refused one has the provider's status and body."""
    rows_of(*(batch_line(name, text) for name, text in [("a", "one"), ("b", "no [[simulate:400]]")]))
    ran = penstock(*run_over(sim.base_url))
    good, bad = read_lines("out.jsonl")
    assert ran.status == 1
    assert list(good) == list(bad) == ["id", "custom_id", "response", "error"]
    assert [good["custom_id"], good["error"], bad["custom_id"], bad["error"]] == ["a", None, "b", None]
    assert list(good["response"]) == ["status_code", "request_id", "body"]
    assert good["response"]["status_code"] == 200
    assert good["response"]["request_id"].startswith("req_")
    assert good["response"]["body"]["choices"][0]["message"]["content"] == expected_text("one")
    assert bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["message"]


def batch_line(name: str, text: str) -> dict[str, Any]:
    """A line of the OpenAI batch format."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


# -- what fails


@pytest.mark.parametrize(
    ("fate", "kind", "status"),
    [
        ("400", "invalid_request", 400),
        ("too-long", "context_too_long", 400),
        ("content-filter", "content_blocked", 400),
    ],
)
def test_a_refused_row_fails_alone(fate: str, kind: str, status: int, penstock: Command, sim: Simulated) -> None:
    """Exit 1; the row is sent once, its error is told by kind and status, its neighbours are answered."""
    prompts("one", f"bad [[simulate:{fate}]]", "three")
    before = sim.stats()["arrived"]
    ran = penstock(*run_over(sim.base_url, "-v"))
    lines = read_lines("out.jsonl")
    assert ran.status == 1
    assert sim.stats()["arrived"] - before == 3
    assert [line["text"] for line in lines] == [expected_text("one"), None, expected_text("three")]
    assert [line["error"] for line in (lines[0], lines[2])] == [None, None]
    error = lines[1]["error"]
    assert list(error) == ["kind", "status", "code", "message"]
    assert (error["kind"], error["status"], lines[1]["attempts"]) == (kind, status, 1)
    assert f"row 1 (1): {kind}" in ran.err
    assert f"failed: 1 {kind}" in ran.err


def test_failed_rows_are_told_one_by_one_only_if_asked(penstock: Command, sim: Simulated) -> None:
    """Without -v there is the account alone."""
    prompts("bad [[simulate:400]]")
    ran = penstock(*run_over(sim.base_url))
    assert ran.status == 1
    assert "row 0" not in ran.err


def test_rows_refused_for_good_are_kept_unless_asked(penstock: Command, sim: Simulated) -> None:
    """The same command sends nothing; --retry-failed sends just the refused row, and its answer takes its place."""
    prompts("one", "later [[simulate:400*1]]")
    arguments = run_over(sim.base_url)
    assert penstock(*arguments).status == 1
    before = sim.stats()["arrived"]
    assert penstock(*arguments).status == 1
    assert sim.stats()["arrived"] == before
    assert penstock(*arguments, "--retry-failed").status == 0
    assert sim.stats()["arrived"] == before + 1
    assert None not in texts()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--api-key", "another"], "key"),
        (["--credit-gone-after", "0"], "credit"),
        (["--model", "other"], "model"),
    ],
)
def test_what_dooms_every_row_stops_the_run(options: list[str], reason: str, penstock: Command) -> None:
    """Exit 3, told why; no row is recorded as failed, OUTPUT is not written, and the same command goes on elsewhere."""
    prompts(*PROMPTS)
    with simulated(*options) as bad:
        ran = penstock(*run_over(bad.base_url, "--max-concurrency", "1", "--summary", "summary.json"))
        assert bad.stats()["arrived"] == 1
    assert ran.status == 3
    assert reason in ran.err
    summary = json.loads(Path("summary.json").read_bytes())
    assert (summary["ok"], summary["failed"], summary["left"]) == (0, 0, 3)
    assert not Path("out.jsonl").exists()
    with simulated() as good:
        assert penstock(*run_over(good.base_url)).status == 0
    assert texts() == [expected_text(prompt) for prompt in PROMPTS]


# -- again


def test_a_limit_is_lifted_by_the_next_run(penstock: Command, provider: Recorder) -> None:
    """--limit 2 sends and writes two rows; without it only the rest is sent."""
    prompts(*PROMPTS)
    assert penstock(*run_over(provider.base_url, "--limit", "2")).status == 0
    assert (sorted(provider.prompts), texts()) == (["one", "two"], answers("one", "two"))
    assert penstock(*run_over(provider.base_url)).status == 0
    assert (provider.prompts[2:], texts()) == (["three"], answers(*PROMPTS))


def test_update_sends_what_has_no_answer(penstock: Command, provider: Recorder) -> None:
    """Rows changed, moved, new and gone: only changed and new ones are sent, and OUTPUT is the new input's."""
    prompts(*PROMPTS)
    assert penstock(*run_over(provider.base_url)).status == 0
    prompts("three", "one", "four")
    assert penstock(*run_over(provider.base_url, "--update")).status == 0
    assert (provider.prompts[3:], texts()) == (["four"], answers("three", "one", "four"))
    assert penstock("verify", "out.jsonl").status == 0


def test_fresh_starts_over_and_keeps_the_old_ledger(penstock: Command, provider: Recorder) -> None:
    """--fresh sends every row again; the old ledger stands under another name, which is told."""
    prompts(*PROMPTS)
    assert penstock(*run_over(provider.base_url)).status == 0
    ran = penstock(*run_over(provider.base_url, "--fresh"))
    assert ran.status == 0
    assert sorted(provider.prompts) == sorted(PROMPTS * 2)
    assert "kept as out.jsonl.ledger.1" in ran.err
    assert Path("out.jsonl.ledger.1").exists()
    assert penstock("verify", "out.jsonl").status == 0


def test_dedupe_sends_equal_rows_once(penstock: Command, provider: Recorder) -> None:
    """Every row has its line and its answer; equal ones cost one request."""
    prompts("one", "two", "one", "one")
    ran = penstock(*run_over(provider.base_url, "--dedupe", "--summary", "summary.json"))
    assert ran.status == 0
    assert sorted(provider.prompts) == ["one", "two"]
    assert texts() == answers("one", "two", "one", "one")
    summary = json.loads(Path("summary.json").read_bytes())
    assert (summary["rows"], summary["sent"], summary["reused"]) == (4, 2, 2)


def test_the_summary_has_the_promised_keys(penstock: Command, sim: Simulated) -> None:
    """Exactly those keys; the account balances; an unknown price is null beside the number of rows without one."""
    prompts("one", "slow [[simulate:429*1]]", "bad [[simulate:400]]")
    assert penstock(*run_over(sim.base_url, "--summary", "summary.json")).status == 1
    summary = json.loads(Path("summary.json").read_bytes())
    assert list(summary) == SUMMARY
    assert [summary[name] for name in ("rows", "ok", "failed", "left", "sent", "throttled")] == [3, 2, 1, 0, 4, 1]
    assert [summary[name] for name in ("retried", "reused", "ambiguous")] == [0, 0, 0]
    assert (summary["cost"], summary["rows_without_cost"]) == (None, 2)
    assert summary["input_tokens"] > 0
    assert summary["output_tokens"] > 0


# -- telling


def test_progress_off_a_terminal_is_plain_lines(
    penstock: Command, monkeypatch: pytest.MonkeyPatch, provider: Recorder
) -> None:
    """A line with the counts now and then, without control characters; none with --no-progress."""
    from penstock.jobs import progress

    plain = progress.figures

    def figures(view: progress.View, rate: float) -> str:
        provider.released.set()  # the answers wait until there was a line
        return plain(view, rate)

    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.001)
    monkeypatch.setattr(progress, "figures", figures)
    provider.hold_from = 1
    prompts(*PROMPTS)
    ran = penstock(*run_over(provider.base_url))
    assert ran.status == 0
    assert "0/3 rows: 0 ok · 0 failed · 3 in flight" in ran.err
    assert "\x1b" not in ran.err
    assert "\r" not in ran.err
    quiet = penstock(*run_over(provider.base_url, "--fresh", "--no-progress"))
    assert "/3 rows:" not in quiet.err


def test_progress_on_a_terminal_is_a_bar(provider: Recorder) -> None:
    """A bar with how many rows are over, then the account."""
    prompts(*PROMPTS)
    status, screen = on_a_terminal(*run_over(provider.base_url))
    assert status == 0
    assert "━" in screen
    assert "3/3" in screen
    assert "3 rows = 3 ok + 0 failed + 0 left" in screen


# -- results, verify, generate, demo


def finished(penstock: Command, sim: Simulated) -> Ran:
    """A run of three rows of which the second is refused."""
    prompts("one", "bad [[simulate:400]]", "three")
    return penstock(*run_over(sim.base_url))


def test_results_prints_what_is_recorded(penstock: Command, sim: Simulated) -> None:
    """The lines are those of OUTPUT; with --failed only the failed ones."""
    assert finished(penstock, sim).status == 1
    written = Path("out.jsonl").read_text()
    assert penstock("results", "out.jsonl") == Ran(0, written, "")
    assert penstock("results", "out.jsonl", "--failed") == Ran(0, written.splitlines()[1] + "\n", "")


def test_verify_balances(penstock: Command, sim: Simulated) -> None:
    """A finished run: exit 0, failed rows and all."""
    assert finished(penstock, sim).status == 1
    ran = penstock("verify", "out.jsonl")
    assert ran.status == 0
    assert "3 rows = 2 ok + 1 failed + 0 left" in ran.out
    assert "the account balances" in ran.out


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("out.jsonl", lambda text: text.replace(b"echo", b"Echo", 1), "1 lines of out.jsonl differ"),
        ("out.jsonl", lambda text: text + b"{}\n", "1 lines of out.jsonl differ"),
        ("out.jsonl", lambda text: text[text.index(b"\n") + 1 :], "lines of out.jsonl differ"),
        ("in.jsonl", lambda text: text + b'{"prompt": "four"}\n', "is not what the run was made with"),
    ],
    ids=["a line changed", "a line more", "a line gone", "the input changed"],
)
def test_verify_finds_what_does_not_balance(
    name: str, spoil: Any, says: str, penstock: Command, sim: Simulated
) -> None:
    """Exit 1, and which file is at fault."""
    assert finished(penstock, sim).status == 1
    Path(name).write_bytes(spoil(Path(name).read_bytes()))
    ran = penstock("verify", "out.jsonl")
    assert ran.status == 1
    assert "does not balance: " in ran.out
    assert says in ran.out
    assert "the account balances" not in ran.out


def test_generate_prints_the_answer(penstock: Command, provider: Recorder) -> None:
    """The answer alone on standard output; system and parameters reach the body."""
    options = ["-m", "openai/m", "--base-url", provider.base_url, "--system", "Be brief.", "--max-tokens", "9"]
    assert penstock("generate", "Why?", *options) == Ran(0, "answer to Why?\n", "")
    assert provider.bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert provider.bodies[0]["max_completion_tokens"] == 9


def test_generate_tells_of_an_answer_cut_off(penstock: Command, sim: Simulated) -> None:
    """Exit 0 with a word on standard error, so that nobody takes it for whole."""
    ran = penstock("generate", "tell [[simulate:length]]", "-m", "openai/m", "--base-url", sim.base_url)
    assert ran.status == 0
    assert "length" in ran.err


@pytest.mark.parametrize("fate", ["400", "401"])
def test_generate_that_fails(fate: str, penstock: Command, sim: Simulated) -> None:
    """Exit 1, the provider's reason on standard error, nothing on standard output, no key anywhere."""
    ran = penstock("generate", f"x [[simulate:{fate}]]", "-m", "openai/m", "--base-url", sim.base_url)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("penstock: ")
    assert "sk-canary" not in ran.err


def test_the_demo_summarises_every_topic_and_sends_nothing_twice(penstock: Command) -> None:
    """A summary for each topic of the manual, made of sentences that stand in its text; the second time nothing is sent."""
    from pydoc_data.topics import topics

    ran = penstock("demo")
    assert ran.status == 0, ran.err
    lines = read_lines("demo-summaries.jsonl")
    assert [line["id"] for line in lines] == sorted(topics)
    foreign = [line["id"] for line in lines if not _stands_in(line["text"], topics[line["id"]])]
    assert foreign == []
    assert "penstock run --help" in ran.out
    again = penstock("demo")
    assert again.status == 0
    assert "0 sent" in again.err


def _stands_in(summary: str, text: str) -> bool:
    """True where each sentence is in the text; white space apart, for a word may be broken at the end of a line."""
    sentences = ["".join(piece.split()) for piece in summary.replace(". ", ".\n").split("\n")]
    solid = "".join(text.split())
    return all(sentence and sentence in solid for sentence in sentences)
