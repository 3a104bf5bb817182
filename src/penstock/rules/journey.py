"""The states of one request and what leads from one to the next: the table that the engine moves by, and its drawing.

    state = follow(state, "admitted")

Nothing else changes the state of a request, so what is not in the table cannot happen.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

State: TypeAlias = Literal["waiting", "sending", "answered", "failed", "left"]
Event: TypeAlias = Literal[
    "admitted", "never fits", "no turn", "answer", "throttled", "again", "given up", "deadline", "run stopped"
]

JOURNEY: dict[State, dict[Event, State]] = {
    "waiting": {
        "admitted": "sending",
        "never fits": "failed",
        "no turn": "failed",
        "deadline": "failed",
        "run stopped": "left",
    },
    "sending": {
        "answer": "answered",
        "throttled": "waiting",
        "again": "waiting",
        "given up": "failed",
        "deadline": "failed",
        "run stopped": "left",
    },
    "answered": {},
    "failed": {},
    "left": {},
}
"""`waiting` holds neither slot nor connection; `left` is resumed by the next session, the other ends are recorded."""

FIRST: State = "waiting"


def follow(state: State, event: Event) -> State:
    """The next state. Raises KeyError for what cannot happen."""
    return JOURNEY[state][event]


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {FIRST}"]
    for state, events in JOURNEY.items():
        lines += [f"    {state} --> {after}: {event}" for event, after in events.items()]
        if not events:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)
