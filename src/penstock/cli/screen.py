"""The account of a run as a person reads it, once the run is over. How it goes meanwhile is told by `jobs.progress`."""

from __future__ import annotations

from penstock.jobs.progress import duration, money
from penstock.rules.tally import CallTotals, Summary, Tally


def account(summary: Summary, tally: Tally, output: str | None) -> str:
    """The closing account, several lines."""
    reused = f"   ({summary.reused:,} of them from earlier sessions or equal rows)" if summary.reused else ""
    unknown = f" ({summary.rows_without_cost:,} answers of unknown price)" if summary.rows_without_cost else ""
    sends = f"{summary.sent:,} sent, {summary.throttled:,} throttled, {summary.retried:,} retried"
    lines = [
        f"{summary.rows:,} rows = {summary.ok:,} ok + {summary.failed:,} failed + {summary.left:,} left{reused}",
        f"{sends}, {summary.ambiguous:,} that may be billed without an answer",
        f"{summary.input_tokens:,} tokens in, {summary.output_tokens:,} out, cost {money(summary.cost)}{unknown}",
        f"{duration(summary.wall_s)}, {summary.requests_per_s:,.1f} requests/s{_latencies(tally)}",
    ]
    if summary.calls is not None:
        lines.append(calls_told(summary.calls))
    if tally.errors:
        lines.append("failed: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.errors.items())))
    if output is not None:
        lines.append(f"answers: {output}")
    return "\n".join(lines)


def calls_told(calls: CallTotals) -> str:
    """The account of a workflow's calls."""
    told = f"{calls.answers:,} answers to the calls of rows"
    if calls.dropped:
        told += f", {calls.dropped:,} of them not of the form that was asked for"
    if calls.unused:
        told += f", {calls.unused:,} recorded and not asked for again (cost {money(calls.unused_cost)})"
    return told


def _latencies(tally: Tally) -> str:
    half, most = tally.latency(0.5), tally.latency(0.95)
    return "" if half is None or most is None else f", latency p50 {half:.2g} s, p95 {most:.2g} s"
