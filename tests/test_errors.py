"""The error tree: typed by kind, plain fields, whole after a trip to another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from penstock import errors
from penstock.errors import (
    KINDS,
    InputError,
    Kind,
    LedgerFailed,
    PenstockError,
    RequestError,
    RunStopped,
    request_error,
)
from penstock.records import Result
from penstock.rules.entries import state_of
from penstock.rules.identity import REFUSED
from penstock.rules.retry import ADVICE


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_request_error_keeps_its_type_and_fields_when_pickled(kind: Kind) -> None:
    error = request_error(kind, "why", status=503, code="c", request_id="r", retry_after=1.5, maybe_billed=True)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) is KINDS[kind]
    assert again.__dict__ == error.__dict__
    assert str(again) == "why"


@pytest.mark.parametrize("error", [InputError("f:1", "bad"), RunStopped("auth", "no"), LedgerFailed("full")])
def test_the_others_survive_it_too(error: PenstockError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


def test_the_tree_in_the_docstring_names_every_class() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PenstockError)]
    assert len(classes) >= 16
    assert all(cls.__name__ in (errors.__doc__ or "") for cls in classes)


def test_a_repr_shows_kind_and_status() -> None:
    assert repr(request_error("auth", "no", status=401)) == "Refused('auth', 'no', status=401)"
    assert repr(RequestError("timeout", "late")) == "RequestError('timeout', 'late')"


def test_the_page_of_errors_names_every_class_kind_and_reason() -> None:
    page = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
    classes = [
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, PenstockError)
    ]
    missing = [
        name for name in (*classes, *KINDS, *ADVICE) if f"`{name}`" not in page and f"penstock.{name}`" not in page
    ]
    assert missing == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_page_of_errors_says_of_each_kind_what_a_resume_does(kind: Kind) -> None:
    page = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
    kinds = page.partition("## Kinds of a request's error")[2]
    row = next(line for line in kinds.splitlines() if line.startswith("| `") and f"`{kind}`" in line.split("|")[1])
    assert f"`{KINDS[kind].__name__}`" in row
    state = state_of(Result(0, 0, error=request_error(kind, "x")))
    assert row.rstrip(" |").endswith("kept" if state == REFUSED else "sent")
