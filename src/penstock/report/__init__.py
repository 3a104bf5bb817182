"""How a run went, from its ledger: read in one pass into sums that stay small, drawn by plotly, put on one page of HTML.

    from penstock.report import charts, read_report

    report = read_report("answers.jsonl.ledger")
    charts(report)["Latency over time"]

`charts` and `to_html` need the extra `report`; reading a report does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.report.reading import Report, read_report

if TYPE_CHECKING:
    from penstock.report.drawing import charts as charts
    from penstock.report.page import to_html as to_html

__all__ = ["Report", "charts", "read_report", "to_html"]

_HOMES = {"charts": "drawing", "to_html": "page"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'penstock.report' has no attribute {name!r}")
    return getattr(import_module(f"penstock.report.{_HOMES[name]}"), name)
