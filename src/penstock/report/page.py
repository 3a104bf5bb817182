"""A report as one page of HTML that needs nothing else: the charts' program is in it, and the page may reach no network.

Whatever a row or a provider wrote is escaped. Beyond that a policy in the page lets the browser run its own two scripts and
no other, named by their hashes, and fetch nothing at all.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from html import escape

import msgspec
from plotly.offline import get_plotlyjs

from penstock.report.drawing import charts
from penstock.report.reading import Report

SHARES = (0.5, 0.9, 0.95, 0.99)
LONGEST_TEXT = 300

_DRAW = """
const REMOVED = ["sendDataToCloud", "sendChartToCloud", "select2d", "lasso2d", "autoScale2d"];
for (const [place, figure] of Object.entries(JSON.parse(document.getElementById("figures").textContent)))
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false, modeBarButtonsToRemove: REMOVED});
"""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2321; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; unicode-bidi: isolate; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
.state { color: #56605d; margin: .2rem 0 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 0 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #dfe4e2; }
td { overflow-wrap: anywhere; unicode-bidi: isolate; }
th { font-weight: 600; color: #56605d; } td.number { text-align: right; white-space: nowrap; }
"""


def to_html(report: Report, title: str, made: float) -> str:
    """The page; `title` names the run, `made` is the time of its making in Unix seconds."""
    figures = charts(report)
    places = {f"figure-{number}": name for number, name in enumerate(figures)}
    data = ",".join(f'"{place}":{_json(figures[name].to_json())}' for place, name in places.items())
    program = get_plotlyjs()
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="state">{_text(_state(report))}; made {_date(made)}</p>',
        _table("Account", ("", ""), _account(report)),
        '<div class="figures">',
        *(f'<section><h2>{_text(name)}</h2><div id="{place}"></div></section>' for place, name in places.items()),
        "</div>",
        _undated(report),
        _table("Errors", ("kind", "status", "code", "rows", "first rows", "first message"), _errors(report)),
        _table("Slowest rows", ("row", "seconds"), _slowest(report)),
        f'<script type="application/json" id="figures">{{{data}}}</script>',
        f"<script>{program}</script>",
        f"<script>{_DRAW}</script>",
    ]
    return _HEAD.format(policy=_policy(program, _DRAW), title=_text(title), style=_STYLE) + "\n".join(parts) + _TAIL


_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""
_TAIL = "\n</body>\n</html>\n"


def _policy(*scripts: str) -> str:
    """What the browser may do: run these scripts, apply styles, show pictures that a chart is saved as."""
    hashes = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


def _json(text: str | None) -> str:
    """JSON that no parser of HTML takes for anything but text."""
    assert text is not None, "a figure has a form in JSON"
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(value: object) -> str:
    """A text as it is shown, its end left out where it is long."""
    shown = str(value)
    return escape(shown if len(shown) <= LONGEST_TEXT else f"{shown[:LONGEST_TEXT]}...")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _state(report: Report) -> str:
    what = f"{report.provider}/{report.model}, {report.done:,} rows over"
    if report.left is None:
        return f"{what}; how many there are is not known"
    return what if report.left == 0 else f"{what}, {report.left:,} left"


def _account(report: Report) -> list[tuple[object, ...]]:
    totals = report.totals
    lines: list[tuple[object, ...]] = [
        ("rows", "not known" if report.rows is None else report.rows),
        ("ok", totals.ok),
        ("failed", totals.failed),
        ("left", "not known" if report.left is None else report.left),
        ("sends that may be billed and left no answer", report.ambiguous),
        ("sends under way, or cut by a crash", report.under_way),
        ("input tokens", totals.input_tokens),
        ("output tokens", totals.output_tokens),
        ("cost", _cost(report)),
    ]
    if report.began is not None and report.ended is not None:
        lines += [("first send", _date(report.began)), ("last end", _date(report.ended))]
    lines += [(f"latency, {share:.0%} within", _seconds(report.latencies.at(share))) for share in SHARES]
    if totals.calls is not None:
        lines += [(f"calls: {name}", value) for name, value in msgspec.structs.asdict(totals.calls).items()]
    lines += [("damaged, to be sent again", report.damaged)] if report.damaged else []
    lines += [("lost by a crash of the system, and sent again", report.lost)] if report.lost else []
    return lines


def _cost(report: Report) -> str:
    known = f"${report.totals.known_cost:,.4f}"
    unpriced = report.totals.rows_without_cost
    return known if not unpriced else f"not known ({known}, and {unpriced:,} answers of unknown price)"


def _seconds(value: float | None) -> str:
    return "no answer yet" if value is None else f"{value:.3g} s"


def _errors(report: Report) -> list[tuple[object, ...]]:
    failures = sorted(report.failures.values(), key=lambda failure: -failure.rows)
    return [
        (each.kind, each.status, each.code, each.rows, ", ".join(map(str, each.ids)), each.message) for each in failures
    ]


def _slowest(report: Report) -> list[tuple[object, ...]]:
    return [(name, f"{seconds:.3f}") for seconds, name in sorted(report.slowest, reverse=True)]


def _undated(report: Report) -> str:
    """What is missing where rows have no time."""
    if not report.undated:
        return ""
    return f"<p>{report.undated:,} rows were recorded without a time: what is shown over time is without them.</p>"


def _table(title: str, heads: tuple[str, ...], lines: list[tuple[object, ...]]) -> str:
    if not lines:
        return ""
    head = "".join(f"<th>{_text(name)}</th>" for name in heads) if any(heads) else ""
    body = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines)
    return f"<h2>{_text(title)}</h2>\n<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{'' if value is None else _text(value)}</td>"
