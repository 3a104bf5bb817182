"""The lines of a batch's input, checked one after the other, and the lines of its output for rows that have no answer.

A row that was answered, or failed, is told by `rules.lines`. Nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import msgspec

from penstock.errors import InputError
from penstock.records import RawRow
from penstock.rules.batches import BatchError
from penstock.rules.template import Template

MOST_ERRORS = 100
"""Told of one input; whoever made more of them made the same one many times."""

Reason: TypeAlias = Literal["batch_expired", "batch_cancelled"]
NOT_ANSWERED: dict[Reason, str] = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}

_encode = msgspec.json.Encoder().encode


class InputCheck:
    """Checks the lines of one input in order; `errors` is what is wrong, `rows` how many were seen, `model` whose they are.

    `model_of` gives the public name of a model that is served, by any of its names, and None for any other.
    """

    def __init__(self, endpoint: str, model_of: Callable[[str], str | None], most_rows: int) -> None:
        self._endpoint, self._model_of, self._most_rows = endpoint, model_of, most_rows
        self._template = Template()
        self._lines: dict[bytes, int] = {}
        """Where each `custom_id` stood first, by its digest: an id may be as long as a line."""
        self.model: str | None = None
        self.rows = 0
        self.errors: list[BatchError] = []

    def take(self, number: int, raw: RawRow) -> bool:
        """Check one line, `number` from 1; false once there is no use in reading on."""
        self.rows += 1
        if self.rows > self._most_rows:
            most = f"the input has more than the {self._most_rows:,} lines that a batch may have here"
            self.errors = [BatchError("too_many_tasks", most)]
            return False
        try:
            self._check(number, raw)
        except _Wrong as wrong:
            self.errors.append(BatchError(wrong.code, wrong.message, wrong.param, number))
        return len(self.errors) < MOST_ERRORS

    def end(self) -> None:
        """There are no more lines."""
        if not self.rows:
            self.errors.append(BatchError("empty_batch", "the input has no line"))

    def _check(self, number: int, raw: RawRow) -> None:
        values = raw.values
        if raw.error is not None or not isinstance(values, dict):
            raise _Wrong("invalid_json_line", raw.error or "a line must be a JSON object")
        self._check_id(number, values.get("custom_id"))
        if values.get("method") != "POST":
            raise _Wrong("invalid_request", "method must be POST", "method")
        if values.get("url") != self._endpoint:
            raise _Wrong("url_mismatch", f"url must be {self._endpoint}, the endpoint of the batch", "url")
        body = values.get("body")
        if not isinstance(body, dict):
            raise _Wrong("invalid_request", "body must be an object", "body")
        self._check_model(body.get("model"))
        try:
            self._template.row(asked(raw))
        except InputError as error:
            raise _Wrong("invalid_request", error.reason, "body") from error

    def _check_id(self, number: int, custom_id: object) -> None:
        if not isinstance(custom_id, str) or not custom_id:
            raise _Wrong("invalid_request", "custom_id must be a text that is not empty", "custom_id")
        digest = blake2b(custom_id.encode(errors="surrogatepass"), digest_size=16).digest()
        first = self._lines.setdefault(digest, number)
        if first != number:
            raise _Wrong("duplicate_custom_id", f"line {first} has this custom_id too", "custom_id")

    def _check_model(self, named: object) -> None:
        if not isinstance(named, str) or not named:
            raise _Wrong("invalid_request", "body.model must name a model", "body.model")
        if (model := self._model_of(named)) is None:
            raise _Wrong("model_not_found", f"the model {named[:80]!r} does not exist here", "body.model")
        if self.model is None:
            self.model = model
        elif model != self.model:
            raise _Wrong(
                "model_mismatch", f"one batch is for one model: this is {model!r}, not {self.model!r}", "body.model"
            )


class _Wrong(Exception):
    """What is wrong with a line."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def asked(raw: RawRow) -> RawRow:
    """The row without its model's name: which model it goes to was decided for the whole batch, by a name of ours."""
    values: Mapping[str, Any] = raw.values
    body = {name: value for name, value in values["body"].items() if name != "model"}
    return msgspec.structs.replace(raw, values={**values, "body": body})


def unanswered_line(index: int, custom_id: str, reason: Reason) -> bytes:
    """The line of a row that has no answer, without a line end; the id is as `rules.lines` makes it."""
    error = {"code": reason, "message": NOT_ANSWERED[reason]}
    return _encode({"id": f"batch_req_{index}", "custom_id": custom_id, "response": None, "error": error})
