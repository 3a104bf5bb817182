"""A report's charts, as figures of plotly. They show numbers and our own words only: nothing that a provider or a row wrote."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go

from penstock.report.course import Stretch, upper_bound
from penstock.report.reading import MOST_SENDS, Report

HEIGHT_PX = 320
SIZES_A_BAR = 4
"""A bar of the latencies is a quarter of a doubling wide."""

GOOD, BAD, SECOND, THIRD = "#2a7f62", "#c0392b", "#3b6ea5", "#b8860b"
SHARES = ((0.5, "median", GOOD), (0.95, "95 %", THIRD), (0.99, "99 %", BAD))
MINUTE = 60.0


def charts(report: Report) -> dict[str, go.Figure]:
    """The charts by their titles, in order; those that would be empty are left out."""
    drawn: dict[str, go.Figure] = {}
    if report.course.stretches:
        drawn["Rows over time"] = _throughput(report)
        drawn["Latency over time"] = _latency_over_time(report)
    if report.latencies.counts:
        drawn["Latency"] = _latency(report)
    if report.course.stretches:
        drawn["Tokens over time"] = _tokens(report)
        if any(stretch.cost for stretch in report.course.stretches.values()):
            drawn["Cost over time"] = _cost(report)
    if report.failures:
        drawn["Rows that failed"] = _failures(report)
    if report.sends:
        drawn["Sends for a row"] = _sends(report)
    return drawn


def _figure(*traces: Any, x: str | None = None, y: str, **layout: Any) -> go.Figure:
    """A figure with its axes named."""
    figure = go.Figure(list(traces))
    figure.update_layout(
        template="plotly_white",
        height=HEIGHT_PX,
        margin={"l": 64, "r": 16, "t": 16, "b": 48},
        legend={"orientation": "h", "y": 1.12},
        xaxis={"title": {"text": x}},
        yaxis={"title": {"text": y}, "rangemode": "tozero"},
        **layout,
    )
    return figure


def _times(report: Report) -> tuple[list[datetime], list[Stretch], float]:
    """The middles of the stretches, the stretches, and their width in seconds."""
    width = report.course.width_s
    starts = report.course.in_order()
    return [datetime.fromtimestamp(start + width / 2, UTC) for start, _ in starts], [each for _, each in starts], width


def _throughput(report: Report) -> go.Figure:
    times, stretches, width = _times(report)
    bars = [
        go.Bar(
            x=times,
            y=[getattr(each, name) / width for each in stretches],
            width=width * 1000,
            name=shown,
            marker={"color": color, "line": {"width": 0}},
        )
        for name, shown, color in (("ok", "ok", GOOD), ("failed", "failed", BAD))
    ]
    return _figure(*bars, x="UTC", y="rows a second", barmode="stack")


def _latency_over_time(report: Report) -> go.Figure:
    times, stretches, _ = _times(report)
    lines = [
        go.Scatter(
            x=times,
            y=[each.latencies.at(share) for each in stretches],
            name=shown,
            mode="lines+markers",
            line={"color": color},
        )
        for share, shown, color in SHARES
    ]
    return _figure(*lines, x="UTC, when the answer came", y="seconds")


def _latency(report: Report) -> go.Figure:
    rows = Counter[int]()
    for number, count in report.latencies.counts.items():
        rows[-(-number // SIZES_A_BAR) * SIZES_A_BAR] += count
    ends = sorted(rows)
    bars = go.Bar(
        x=[upper_bound(end) for end in ends],
        y=[rows[end] for end in ends],
        width=[upper_bound(end) - upper_bound(end - SIZES_A_BAR) for end in ends],
        offset=[upper_bound(end - SIZES_A_BAR) - upper_bound(end) for end in ends],
        marker={"color": SECOND},
        name="rows",
    )
    figure = _figure(bars, x="seconds, first send to answer", y="rows")
    for share, shown, color in SHARES:
        figure.add_vline(x=report.latencies.at(share), line={"color": color, "dash": "dot"}, annotation_text=shown)
    return figure


def _tokens(report: Report) -> go.Figure:
    times, stretches, width = _times(report)
    lines = [
        go.Scatter(
            x=times,
            y=[getattr(each, name) / width * MINUTE for each in stretches],
            name=shown,
            line={"color": color, "shape": "hvh"},
        )
        for name, shown, color in (("input_tokens", "input", SECOND), ("output_tokens", "output", GOOD))
    ]
    return _figure(*lines, x="UTC", y="tokens a minute")


def _cost(report: Report) -> go.Figure:
    times, stretches, _ = _times(report)
    spent = list(accumulate(each.cost for each in stretches))
    line = go.Scatter(x=times, y=spent, name="spent", line={"color": THIRD, "shape": "hv"}, fill="tozeroy")
    return _figure(line, x="UTC", y="US dollars so far")


def _failures(report: Report) -> go.Figure:
    rows: dict[str, int] = {}
    for failure in report.failures.values():
        rows[failure.kind] = rows.get(failure.kind, 0) + failure.rows
    kinds = sorted(rows, key=lambda kind: -rows[kind])
    return _figure(go.Bar(x=kinds, y=[rows[kind] for kind in kinds], marker={"color": BAD}, name="failed"), y="rows")


def _sends(report: Report) -> go.Figure:
    numbers = sorted(report.sends)
    names = [f"{number} or more" if number == MOST_SENDS else str(number) for number in numbers]
    bars = go.Bar(x=names, y=[report.sends[number] for number in numbers], marker={"color": SECOND}, name="rows")
    return _figure(bars, x="sends", y="rows", xaxis_type="category")
