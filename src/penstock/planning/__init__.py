"""What a run would take, before it is sent: a sample of its rows through the real engine on virtual time.

`course` goes through the steps, `sample` looks at rows, `learning` at what is recorded, `simulation` runs the engine, `changes`
asks what would shorten it, `forecast` and `words` tell. Nothing here sends, needs a key or writes a file.
"""

from __future__ import annotations

from penstock.planning.course import Unconnected, plan
from penstock.planning.forecast import Change, Forecast
from penstock.planning.learning import NO_PAST, Past, past_in, past_of
from penstock.planning.sample import Source, given
from penstock.planning.simulation import Conditions

__all__ = [
    "NO_PAST",
    "Change",
    "Conditions",
    "Forecast",
    "Past",
    "Source",
    "Unconnected",
    "given",
    "past_in",
    "past_of",
    "plan",
]
