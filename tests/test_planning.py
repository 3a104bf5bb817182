"""What a plan tells, and that runs come out as it told: the same engine, providers that differ from all that was supposed."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from genai_prices import Usage as Counts
from genai_prices import calc_price
from hypothesis import given as given_values
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from penstock import planning
from penstock.client import Client
from penstock.edges.ledger import LedgerFile, RunRecord
from penstock.engine.gate import Rules
from penstock.engine.source import raw_rows
from penstock.errors import InputError, NotSent, RunStopped, UsageError
from penstock.options import Limits, Retry, Timeouts
from penstock.planning import Forecast, simulation
from penstock.planning.sample import Sampler, shape_of
from penstock.planning.words import BATCH_SERVICES
from penstock.records import HttpCall, Request, Result, Usage
from penstock.rules.asking import Asking
from penstock.rules.cost import Rates, cost_of
from penstock.rules.forecast import Range
from penstock.rules.tally import Tally
from penstock.simulator.chance import Spread
from penstock.simulator.clock import run
from penstock.simulator.settings import Settings
from penstock.testing import MemoryLedger, no_network
from tests.kit.rows import VirtualClient

RATES = Rates(input=1.0, output=4.0, cached=0.1)
WORDS = ("pipe", "carries", "water", "under", "control", "to", "a", "turbine", "and", "nothing", "spills")
MOST = 1_000


class Priced:
    """Prices that load nothing; the model `unpriced` has none."""

    def cost(self, model: str, usage: Usage | None) -> float | None:
        return None if usage is None or model == "unpriced" else cost_of(usage, RATES)


def conditions(
    client: Client, limits: Limits, most: int | None = None, timeout: float | None = None
) -> planning.Conditions:
    rules = Rules(limits=limits, max_concurrency=most or MOST, service=client.provider.name, adaptive=most is None)
    return planning.Conditions(
        provider=client.provider,
        model=client.model,
        prices=Priced(),
        rules=rules,
        retry=Retry(),
        timeouts=Timeouts(total=timeout),
    )


def planned(
    rows: Any,
    limits: Limits | None = None,
    *,
    past: planning.Past = planning.NO_PAST,
    model: str = "openai/m",
    most: int | None = None,
    timeout: float | None = None,
    limit: int | None = None,
    **asking: Any,
) -> Forecast:
    """The plan of rows, by a client without a key."""
    client = Client(model, transport=planning.Unconnected())
    parts = conditions(client, limits or Limits(), most, timeout)
    work = planning.plan(parts, client.render(Asking(**asking)), planning.given(rows), past=past, limit=limit)
    return asyncio.run(work)


def texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [f"{index} " + " ".join(chance.choices(WORDS, k=chance.randint(20, 100))) for index in range(count)]


def holds(figures: Range, value: float) -> bool:
    return figures.low <= value <= figures.high


@pytest.fixture(autouse=True, scope="module")
def few_rows_are_simulated() -> Iterator[None]:
    """A fifth of the usual number, so that the tests are quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "ROWS", 300)
        yield


# -- the sample


@given_values(st.integers(0, 2_000), st.integers(1, 50), st.integers(0, 5))
@hypothesis_settings(max_examples=60)
def test_a_sample_is_even_whatever_the_length(rows: int, size: int, seed: int) -> None:
    """All rows where there are few; else between `size` and twice as many, in order, one of each stratum."""
    sampler: Sampler[int] = Sampler(size, seed)
    for row in range(rows):
        if sampler.wants():
            sampler.add(row)
    assert sampler.seen == rows
    if sampler.whole:
        assert sampler.items == list(range(rows))
        return
    stride = rows // size
    assert size - 1 <= len(sampler.items) <= 2 * size
    gaps = [after - before for before, after in zip(sampler.items, sampler.items[1:], strict=False)]
    assert all(0 < gap <= 2 * stride for gap in gaps)


@pytest.mark.parametrize(
    ("content", "params", "text_bytes", "others", "most"),
    [
        ("abcd", {}, 4, 0, None),
        ("häß", {"max_tokens": 7}, 5, 0, 7),
        ([{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {"url": "data:xyz"}}], {}, 3, 1, None),
        (None, {"max_completion_tokens": 9, "tools": ["t"]}, 5, 0, 9),
        ("x", {"max_tokens": "many"}, 1, 0, None),
    ],
)
def test_a_row_is_measured_by_its_text(
    content: Any, params: dict[str, Any], text_bytes: int, others: int, most: int | None
) -> None:
    """Images are counted and not measured; tools are read by the model too; only a whole number is a limit."""
    shape = shape_of(Request([{"role": "user", "content": content}], None, params), "m")
    assert (shape.text_bytes, shape.other_parts, shape.most_output, shape.messages) == (text_bytes, others, most, 1)


# -- what is told


@pytest.fixture(scope="module")
def bounded() -> Forecast:
    """A plan that is bound by requests a minute."""
    return planned(texts(600), Limits(requests_per_minute=60, tokens_per_minute=10_000_000))


def test_a_plan_needs_no_key_and_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that it is made with reaches nobody, and says so to whoever sends by it."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with no_network():
        assert planned(["one", "two"]).left == 2
    call = HttpCall("https://api.openai.com/v1/chat/completions", (), b"{}")
    with pytest.raises(NotSent, match="sends nothing"):
        asyncio.run(planning.Unconnected().send(call, Timeouts()))


def test_the_binding_limit_is_the_one_whose_doubling_shortens(bounded: Forecast) -> None:
    """600 rows at 60 a minute take ten minutes less the burst; twice as many a minute take half of it."""
    assert bounded.bound_by.startswith("requests a minute")
    assert bounded.seconds.likely == pytest.approx(575, rel=0.06)
    (change,) = bounded.changes
    assert change.change == "twice the requests a minute (120)"
    assert change.seconds == pytest.approx(bounded.seconds.likely / 2, rel=0.1)


def test_ranges_are_in_order_and_the_batch_price_is_half(bounded: Forecast) -> None:
    for name in ("requests", "input_tokens", "output_tokens", "cost", "batch_cost", "seconds"):
        figures = getattr(bounded, name)
        assert 0 < figures.low <= figures.likely <= figures.high, name
    assert bounded.cost is not None
    assert bounded.batch_cost == bounded.cost.times(0.5)
    assert bounded.cost.likely == pytest.approx(
        cost_of(Usage(round(bounded.input_tokens.likely), round(bounded.output_tokens.likely)), RATES), rel=0.01
    )


def test_tokens_are_those_of_the_text_in_the_likely_case(bounded: Forecast) -> None:
    """A quarter of the bytes and four for each message; the truth of any tokenizer lies in the range."""
    text = sum(len(row) for row in texts(600))
    assert bounded.input_tokens.likely == pytest.approx(text / 4 + 600 * 4, rel=0.01)
    assert holds(bounded.input_tokens, text / 3)
    assert holds(bounded.input_tokens, text / 5)


def test_every_assumption_is_told(bounded: Forecast) -> None:
    told = "\n".join(bounded.assumptions)
    for words in ("bytes of text a token", "tokens an answer", "s an answer", "60 requests a minute", "batch price"):
        assert words in told
    assert bounded.learned_from == 0


def test_the_text_has_all_of_it(bounded: Forecast) -> None:
    """The figures in columns, the cause, what helps, the assumptions and the first request."""
    lines = str(bounded).splitlines()
    assert lines[0] == "600 rows for openai/m; nothing was sent"
    assert lines[1].split() == ["low", "likely", "high"]
    assert [line.split()[0] for line in lines[2:8]] == ["requests", "tokens", "tokens", "cost", "at", "time"]
    assert len({len(line) for line in lines[1:8]}) == 1
    assert "the time is set by requests a minute (60)" in lines
    assert "the first request:" in lines
    assert msgspec.json.decode("\n".join(lines[lines.index("the first request:") + 1 :])) == bounded.first_request


def test_it_goes_through_json_and_back(bounded: Forecast) -> None:
    assert msgspec.json.decode(msgspec.json.encode(bounded), type=Forecast) == bounded


def test_a_long_text_of_the_first_request_is_cut_with_a_note() -> None:
    forecast = planned(["y" * 1_000], system="short", params={"temperature": 0})
    request = forecast.first_request
    assert request["messages"][0] == {"role": "system", "content": "short"}
    assert request["messages"][1]["content"].endswith("[cut: 600 more characters]")
    assert (request["model"], request["temperature"]) == ("m", 0)


def test_an_unknown_price_is_unknown_and_never_nothing() -> None:
    """Of the whole, as soon as one row's is unknown."""
    forecast = planned(["one", {"prompt": "two", "model": "unpriced"}])
    assert (forecast.cost, forecast.batch_cost) == (None, None)
    assert "unknown" in str(forecast)
    assert "$" not in str(forecast)


@pytest.mark.parametrize(
    ("service", "provider", "model"),
    [
        ("openai", "openai", "gpt-5-mini"),
        ("anthropic", "anthropic", "claude-haiku-4-5"),
        ("gemini", "google", "gemini-2.5-flash"),
        ("mistral", "mistral", "mistral-small-latest"),
    ],
)
def test_half_the_price_is_what_the_batch_lists_say(service: str, provider: str, model: str) -> None:
    counts = Counts(input_tokens=1_000_000, output_tokens=1_000_000)
    usual = calc_price(counts, model, provider_id=provider).total_price
    batch = calc_price(counts, model, provider_id=provider, price_context={"processing": "batch"}).total_price
    assert service in BATCH_SERVICES
    assert batch == usual / 2


def test_a_service_without_a_batch_api_has_no_batch_price() -> None:
    assert planned(["one"], model="deepseek/m").batch_cost is None


def test_a_few_rows_are_bound_by_nothing() -> None:
    """Ten rows under a high limit take as long as the slowest answer."""
    forecast = planned(texts(10), Limits(requests_per_minute=60_000))
    assert forecast.bound_by.startswith("the input itself")
    assert forecast.changes == ()


def test_without_limits_concurrency_and_latency_set_the_time() -> None:
    """With the range that not knowing deserves, and a word about it."""
    forecast = planned(texts(400), most=10)
    assert forecast.bound_by.startswith("concurrency x latency (10 at once")
    assert forecast.seconds.likely == pytest.approx(400 * 5.0 / 10, rel=0.15)
    assert "twice as many at once (20)" in [change.change for change in forecast.changes]
    assert any("limits are not known" in words for words in forecast.assumptions)


def test_how_many_go_at_once_is_supposed_where_nobody_says() -> None:
    forecast = planned(texts(400))
    assert any("100 (20 to 1,000) requests at once" in words for words in forecast.assumptions)
    assert forecast.seconds.high > 400 * 60 / 20


def test_a_wide_max_tokens_is_told_where_lowering_it_helps() -> None:
    """4,096 tokens are reserved for answers of some 300, of 100,000 a minute."""
    forecast = planned(texts(200), Limits(tokens_per_minute=100_000), params={"max_tokens": 4_096})
    assert any(change.change.startswith("max_tokens ") for change in forecast.changes)
    assert forecast.changes[0].seconds < 0.5 * forecast.seconds.likely


def test_a_days_limit_is_added_up() -> None:
    """1,000 rows at 300 a day are over on the fourth day, however fast they go."""
    forecast = planned(texts(1_000), Limits(requests_per_day=300, requests_per_minute=6_000))
    assert forecast.seconds.likely == pytest.approx((1_000 / 300 - 1) * 86_400)
    assert forecast.bound_by == "a day's limit"


def test_rows_that_fit_no_limit_are_warned_of() -> None:
    """Half of the rows need more than a whole minute's tokens."""
    rows = [text for pair in zip(texts(20), ["z" * 60_000] * 20, strict=True) for text in pair]
    (warning,) = planned(rows, Limits(tokens_per_minute=5_000)).warnings
    assert warning.startswith("50.0% of the rows need more than a whole limit")


def test_a_time_out_that_is_too_short_is_warned_of() -> None:
    """Answers are supposed to take some five seconds; nearly none comes within one."""
    warnings = planned(texts(30), most=30, timeout=1.0).warnings
    assert any("time-out" in warning for warning in warnings)


# -- which rows


def test_only_the_first_rows_up_to_the_limit() -> None:
    """Rows beyond it are not even drawn."""
    drawn = []

    def rows() -> Iterator[str]:
        for index in range(100):
            drawn.append(index)
            yield f"row {index}"

    forecast = planned(rows(), limit=7)
    assert (forecast.rows, forecast.left, forecast.looked_at) == (7, 7, 7)
    assert len(drawn) == 8


async def test_rows_may_come_from_an_asynchronous_iterable() -> None:
    async def rows() -> Any:
        for index in range(9):
            yield f"row {index}"

    client = Client("openai/m", transport=planning.Unconnected())
    work = planning.plan(conditions(client, Limits()), client.render(Asking()), planning.given(rows()))
    assert (await work).rows == 9


def test_a_long_input_is_counted_whole_and_looked_at_in_part() -> None:
    """The sample stands for the others: tokens are those of all rows, within a percent."""
    rows = [f"{index:06d}" + "x" * (index % 400) for index in range(20_000)]
    forecast = planned(iter(rows), Limits(requests_per_minute=6_000))
    assert forecast.rows == forecast.left == 20_000
    assert 2_000 <= forecast.looked_at <= 4_000
    assert forecast.input_tokens.likely == pytest.approx(sum(map(len, rows)) / 4 + 4 * 20_000, rel=0.01)
    assert any("rows were looked at" in words for words in forecast.assumptions)


def test_bad_rows_are_told_as_a_run_does() -> None:
    with pytest.raises(InputError, match="row 1: a row is a text") as told:
        planned(["good", 5, "good", None])
    assert "row 3" in str(told.value)
    assert "only some" not in str(told.value)


def test_bad_rows_of_a_sample_are_told_to_be_of_a_sample() -> None:
    """Others may be bad where nobody looked."""
    with pytest.raises(InputError, match="only some of 10,000 rows were looked at"):
        planned([5 if index % 1_000 == 0 else "good" for index in range(10_000)])


def test_reading_ends_where_enough_is_wrong() -> None:
    """Of a file of the wrong kind, twenty rows are told."""
    drawn: list[int] = []
    with pytest.raises(InputError, match="there may be more") as told:
        planned(drawn.append(index) for index in range(100_000))
    assert len(str(told.value).splitlines()) == 21
    assert len(drawn) < 100


def test_no_rows_cannot_be_planned() -> None:
    with pytest.raises(UsageError, match="no rows"):
        planned([])


# -- with a past


def answer_texts(mean: float, sigma: float) -> Callable[[str, int | None], str]:
    """Answers of log-normal length, drawn by the prompt."""

    def text(prompt: str, _: int | None) -> str:
        factor = math.exp(sigma * random.Random(prompt[:40]).gauss(0, 1) - sigma**2 / 2)
        return "word" * max(1, round(mean * factor))

    return text


class Session(msgspec.Struct):
    """What a run on virtual time sent and how long that took."""

    sent: list[Result]
    seconds: float

    @property
    def cost(self) -> float:
        return sum(cost_of(result.unwrap().usage or Usage(), RATES) for result in self.sent)


def session(
    server: Settings,
    limits: Limits,
    rows: Sequence[str],
    ledger: MemoryLedger,
    *,
    most: int | None = None,
    stop_after: int = 0,
    give_up: bool = False,
) -> Session:
    """Run the rows that are left; stop after so many answers, letting what is under way come in, or giving it up."""

    async def main() -> Session:
        async with VirtualClient(server, limits=limits, max_concurrency=most) as client:
            work = await client.start(raw_rows(iter(rows)), Asking(), Tally(), ledger=ledger, look_up=True)
            results: list[Result] = []
            try:
                async for result in work.results():
                    results.append(result)
                    if len(results) == stop_after:
                        if give_up:
                            break
                        work.stop(RunStopped("interrupted", "stopped by the test"))
            except RunStopped:
                pass
            await work.aclose()
            return Session([result for result in results if not result.reused], client.clock.now())

    return run(main(), seed=server.seed)


SERVERS = {
    "a clock minute, slow answers": (
        Settings(requests_per_minute=60, window="fixed", latency=Spread(9.0, 0.4), text=answer_texts(120, 0.4)),
        Limits(requests_per_minute=60),
        None,
    ),
    "a sliding minute of tokens, long answers": (
        Settings(
            tokens_per_minute=40_000,
            window="sliding",
            latency=Spread(2.0, 0.5),
            token_latency=0.03,
            text=answer_texts(600, 0.4),
        ),
        Limits(tokens_per_minute=40_000),
        None,
    ),
    "no limit, short answers": (
        Settings(latency=Spread(0.5, 0.3), token_latency=0.004, text=answer_texts(40, 0.4)),
        Limits(),
        8,
    ),
}
ROWS = 400


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("server", list(SERVERS))
def test_after_sixty_answers_the_rest_takes_what_the_plan_told(server: str, seed: int) -> None:
    """Time and money within 15 %, on servers whose window, latency and answers are not those that were supposed."""
    settings, limits, most = SERVERS[server]
    settings = msgspec.structs.replace(settings, seed=seed)
    rows, ledger = texts(ROWS, seed), MemoryLedger()
    before = session(settings, limits, rows, ledger, most=most, stop_after=60)
    forecast = planned(rows, limits, past=planning.past_of(ledger), most=most)
    rest = session(settings, limits, rows, ledger, most=most)
    assert forecast.learned_from == len(before.sent) >= 60
    assert forecast.left == len(rest.sent) == ROWS - len(before.sent)
    assert forecast.cost is not None
    assert forecast.cost.likely == pytest.approx(rest.cost, rel=0.15), f"seed {seed}"
    assert forecast.seconds.likely == pytest.approx(rest.seconds, rel=0.15), f"seed {seed}"
    assert holds(forecast.cost, rest.cost)
    assert holds(forecast.seconds, rest.seconds)


@pytest.mark.parametrize("answers", [0, 1, 8])
@pytest.mark.parametrize("server", list(SERVERS))
def test_before_that_the_truth_lies_in_the_range(server: str, answers: int) -> None:
    """With no answer, one or a few."""
    settings, limits, most = SERVERS[server]
    rows, ledger = texts(200), MemoryLedger()
    if answers:
        session(settings, limits, rows[:answers], ledger, most=most)
    forecast = planned(rows, limits, past=planning.past_of(ledger), most=most)
    rest = session(settings, limits, rows, ledger, most=most)
    assert forecast.learned_from == answers
    assert holds(forecast.seconds, rest.seconds)
    assert forecast.cost is not None
    assert holds(forecast.cost, rest.cost)
    assert holds(forecast.output_tokens, sum((result.unwrap().usage or Usage()).output_tokens for result in rest.sent))


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_was_cut_off_does_not_make_answers_look_short(seed: int) -> None:
    """The 60 answers that came first of 100 under way are the quick ones; the forecast still holds the truth."""
    settings = Settings(latency=Spread(3.0, 0.5), token_latency=0.02, text=answer_texts(200, 0.5), seed=seed)
    rows, ledger = texts(600, seed), MemoryLedger()
    before = session(settings, Limits(), rows, ledger, most=100, stop_after=60, give_up=True)
    forecast = planned(rows, past=planning.past_of(ledger), most=100)
    rest = session(settings, Limits(), rows, ledger, most=100)
    mean = sum((result.unwrap().usage or Usage()).output_tokens for result in before.sent) / 60
    assert forecast.output_tokens.likely > 1.1 * mean * forecast.left
    assert any("given up" in words for words in forecast.assumptions)
    assert holds(forecast.seconds, rest.seconds)
    assert forecast.cost is not None
    assert holds(forecast.cost, rest.cost)


def test_a_ledger_on_disk_teaches_the_same_as_one_in_memory(tmp_path: Path) -> None:
    """Read beside the run that has it open."""
    settings, limits, most = SERVERS["no limit, short answers"]
    rows, ledger, path = texts(150), MemoryLedger(), tmp_path / "out.jsonl.ledger"
    session(settings, limits, rows, ledger, most=most, stop_after=60)
    store = LedgerFile(path)
    store.begin(RunRecord(None, {"provider": "openai", "model": "m"}))

    async def both() -> planning.Past:
        await store.commit(list(ledger.entries.values()))
        return await planning.past_in(path)

    past = asyncio.run(both())
    on_disk, in_memory = (planned(rows, past=which, most=most) for which in (past, planning.past_of(ledger)))
    store.close()
    assert on_disk == in_memory
    assert on_disk.learned_from >= 60


def test_rows_that_changed_since_are_planned_again() -> None:
    """Their answers are to other requests: nothing is learned from them, and they count as left."""
    settings, limits, most = SERVERS["no limit, short answers"]
    rows, ledger = texts(40), MemoryLedger()
    session(settings, limits, rows, ledger, most=most)
    changed = [f"{row}!" if index < 10 else row for index, row in enumerate(rows)]
    forecast = planned(changed, past=planning.past_of(ledger), most=most)
    assert (forecast.left, forecast.recorded, forecast.learned_from) == (10, 30, 30)


def test_with_nothing_left_there_is_nothing_to_do() -> None:
    settings, limits, most = SERVERS["no limit, short answers"]
    rows, ledger = texts(20), MemoryLedger()
    session(settings, limits, rows, ledger, most=most)
    forecast = planned(rows, past=planning.past_of(ledger), most=most)
    assert (forecast.left, forecast.seconds.high, forecast.requests.high) == (0, 0, 0)
    assert forecast.cost == Range(0, 0, 0)
    assert "every row is recorded" in str(forecast)
    assert forecast.first_request is None
