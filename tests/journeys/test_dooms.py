"""What dooms a whole run, what dooms one row, and what dooms nothing: seen from outside, through the command."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kit.journey import finish, output_lines, penstock, under_way, wait_until, write_input, wrong_lines
from tests.kit.simulated import Simulated, simulated

ROWS = 400
CONCURRENCY = 16
ROWS_BEFORE_THE_OUTAGE = 100
PROBES = 1
"""Each further one doubles the wait."""


class Doom(msgspec.Struct, frozen=True, kw_only=True):
    """A cause that no row survives: the provider's options while it holds, the key then, and what the user is told."""

    options: tuple[str, ...]
    key: str = "right"
    answered: int = 0
    advice: str


DOOMS = {
    "refused key": Doom(options=("--api-key", "right"), key="wrong", advice="refused the key"),
    "key refused later": Doom(options=("--key-refused-after", "100"), answered=100, advice="refused the key"),
    "no credit": Doom(options=("--credit-gone-after", "0"), advice="no credit"),
    "credit gone later": Doom(options=("--credit-gone-after", "100"), answered=100, advice="no credit"),
    "unknown model": Doom(options=("--model", "another"), advice="does not know the model"),
}


class Journey:
    """One run of `ROWS` rows on one OUTPUT; `sit` starts or resumes it."""

    def __init__(self, folder: Path, concurrency: int = CONCURRENCY) -> None:
        self.output = folder / "out.jsonl"
        self._summary = folder / "summary.json"
        self._arguments: list[object] = ["run", folder / "in.jsonl", "-o", self.output, "-m", "custom/m"]
        self._arguments += ["--no-progress", "--max-concurrency", concurrency, "--summary", self._summary]

    def arguments(self, base_url: str) -> list[object]:
        return [*self._arguments, "--base-url", base_url]

    def sit(self, base_url: str, *more: str, key: str = "right") -> tuple[int, str]:
        """Exit status, and what was told."""
        done = penstock(*self.arguments(base_url), *more, env={"PENSTOCK_API_KEY": key})
        return done.returncode, done.stderr

    def summary(self) -> dict[str, Any]:
        account: dict[str, Any] = json.loads(self._summary.read_bytes())
        return account


@pytest.mark.parametrize("doom", DOOMS.values(), ids=DOOMS.keys())
def test_what_dooms_every_row_stops_the_run_and_fails_none(tmp_path: Path, doom: Doom) -> None:
    """Exit 3 after no more refused sends than were in flight; once the cause is gone, the rest is sent and nothing else."""
    write_input(tmp_path / "in.jsonl", ROWS)
    journey = Journey(tmp_path)
    with simulated(*doom.options) as provider:
        port = provider.port
        status, told = journey.sit(provider.base_url, key=doom.key)
        seen = provider.stats()
    assert (status, doom.advice in told) == (3, True), told
    assert seen["answered"] == doom.answered
    assert 1 <= seen["arrived"] - seen["answered"] <= CONCURRENCY
    assert not journey.output.exists()
    stopped = journey.summary()
    assert [stopped[name] for name in ("ok", "failed", "left")] == [doom.answered, 0, ROWS - doom.answered]
    assert (stopped["sent"], stopped["ambiguous"]) == (seen["arrived"], 0)
    recorded = penstock("results", journey.output).stdout.splitlines()
    assert [json.loads(line)["error"] for line in recorded] == [None] * doom.answered
    assert port is not None
    with simulated("--api-key", "right", port=port) as provider:
        status, told = journey.sit(provider.base_url)
        assert provider.stats()["arrived"] == ROWS - doom.answered
    assert status == 0, told
    assert wrong_lines(journey.output, ROWS) == []


@pytest.mark.conformance
def test_an_address_where_nobody_listens_stops_the_run_within_forty_seconds(tmp_path: Path) -> None:
    """Exit 3, no row failed, and the run goes on once the address is right."""
    write_input(tmp_path / "in.jsonl", ROWS)
    journey = Journey(tmp_path)
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        wrong = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with under_way(*journey.arguments(wrong)) as process:
            _, told = process.communicate(timeout=40)
    assert (process.returncode, "never answered" in told) == (3, True), told
    stopped = journey.summary()
    assert [stopped[name] for name in ("sent", "failed", "left", "ambiguous")] == [0, 0, ROWS, 0]
    with simulated() as provider:
        status, told = journey.sit(provider.base_url)
    assert status == 0, told
    assert wrong_lines(journey.output, ROWS) == []


REFUSED = {
    20: ("[[simulate:400]] please", "invalid_request"),
    70: ("[[simulate:too-long]] please", "context_too_long"),
    333: ("[[simulate:content-filter]] please", "content_blocked"),
    399: ("[[simulate:400]] at the end", "invalid_request"),
}


def test_a_row_refused_for_good_fails_alone_and_is_not_sent_again(tmp_path: Path) -> None:
    """Exit 1, one attempt for each such row, all others ok; a second run sends nothing, --retry-failed just those."""
    write_input(tmp_path / "in.jsonl", ROWS, {row: {"prompt": prompt} for row, (prompt, _) in REFUSED.items()})
    journey = Journey(tmp_path)
    arrived = []
    with simulated() as provider:
        for more in ((), (), ("--retry-failed",)):
            status, told = journey.sit(provider.base_url, *more)
            arrived.append(provider.stats()["arrived"])
            assert status == 1, told
            assert wrong_lines(journey.output, ROWS, but=frozenset(REFUSED)) == []
    assert arrived == [ROWS, ROWS, ROWS + len(REFUSED)]
    lines = output_lines(journey.output, set(REFUSED))
    assert {row: (line.error or {})["kind"] for row, line in lines.items()} == {
        r: kind for r, (_, kind) in REFUSED.items()
    }
    assert {line.attempts for line in lines.values()} == {1}
    assert penstock("verify", journey.output).returncode == 0


def test_an_outage_in_mid_run_fails_no_row(tmp_path: Path) -> None:
    """The provider goes away, comes back with nothing but 503s, goes again and recovers: exit 0, every send accounted for.

    Few at once, so that few fail together and the wait for the next probe stays short.
    """
    write_input(tmp_path / "in.jsonl", ROWS)
    journey = Journey(tmp_path, concurrency=2)
    with simulated("--latency", "0.002") as provider:
        base_url, port = provider.base_url, provider.port
        assert port is not None
        with under_way(*journey.arguments(base_url)) as process:
            wait_until(provider, "answered", ROWS_BEFORE_THE_OUTAGE)
            accounts = [_account_at_end(provider)]
            with simulated("--fault", "error_503=1", "--retry-after", "0.01", port=port) as ailing:
                wait_until(ailing, "arrived", PROBES)
                accounts.append(_account_at_end(ailing))
            with simulated(port=port) as recovered:
                status, told = finish(process)
                accounts.append(_account_at_end(recovered))
    assert status == 0, told
    assert wrong_lines(journey.output, ROWS) == []
    arrived, unavailable = (sum(account[name] for account in accounts) for name in ("arrived", "error_503"))
    summary = journey.summary()
    # A provider that dies knows less than its client: of what it had not read yet, and of answers that it could not send.
    assert summary["sent"] >= arrived
    assert arrived - unavailable - ROWS <= summary["ambiguous"] <= summary["sent"] - ROWS
    assert penstock("verify", journey.output).returncode == 0


def _account_at_end(provider: Simulated) -> dict[str, int]:
    """Stop a provider; returns its last account, the failures in it by name."""
    status, told = provider.stop()
    assert status == 0, told
    account = json.loads(told[told.index("{") :])
    return {"error_503": 0, **account["failed"], "arrived": account["arrived"]}
