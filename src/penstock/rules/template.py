"""Row and template into a request: what of a row is asked, what is its name, what is kept for the output.

A row is taken for the first of these that it is:

    bare text       a prompt; with a prompt template it fills `{text}` (or `{prompt}`)
    batch line      `custom_id`, `method`, `url`, `body`: the body is sent
    messages row    has `messages`: every key but `id`, `custom_id` and the id column goes into the body
    prompt row      has `prompt`: that text, or the template filled from its columns; its `params` go into the body
    any other row   needs a template, which is filled from its columns

A key of the row wins over the same parameter of the run, and a row's `model` over the run's (null or empty is none).
A column enters a prompt as it stands where it is text, else as JSON. Null is refused: nobody means "null" in a prompt.
Refused too are a prompt whose columns are all empty, and a template that names no column of rows that have some, for
every row would ask the same.

This module reads no file and never judges whether a provider takes what is asked.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, pairwise
from typing import Any, NoReturn

import msgspec

from penstock.errors import InputError, UsageError
from penstock.records import RawRow, Request, Row

OUTPUT_KEYS = frozenset(
    {"id", "index", "text", "value", "finish_reason", "model", "usage", "cost", "attempts", "latency_s", "error"}
)
"""The keys of an output line, which a kept column may not overwrite."""

WORKFLOW_KEYS = OUTPUT_KEYS - {"text", "finish_reason", "model"}
"""The same of a workflow's line."""

_BATCH_KEYS = frozenset({"custom_id", "method", "url", "body"})
_BATCH_URLS = ("/v1/chat/completions", "/chat/completions")
_INSTRUCTIONS = frozenset({"system", "developer"})
_OWN_OPTIONS = {"model": "set the model with -m", "messages": "use a prompt, or rows with messages"}
_PIECE = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_FIELD = re.compile(r"\{([^.\[\]!:{}]+)\}")


def _refuse(where: str, reason: str) -> NoReturn:
    raise InputError(where, reason)


def _listed(names: Iterable[object]) -> str:
    """At most twenty names, for a message."""
    return ", ".join(map(str, islice(names, 20)))


class Prompt:
    """A prompt with `{column}` fields, parsed once. `columns` are the names it asks for.

    Fields are plain names, spaces included; `{{` and `}}` are braces. Raises `UsageError` for anything else in braces.
    """

    def __init__(self, template: str) -> None:
        if not template.strip():
            raise UsageError("the prompt is empty")
        self._texts = [""]
        fields: list[str] = []
        for piece in _PIECE.findall(template):
            if piece[0] not in "{}" or piece in ("{{", "}}"):
                self._texts[-1] += piece[0] if piece in ("{{", "}}") else piece
            else:
                fields.append(_field(piece))
                self._texts.append("")
        self._fields = fields
        self.columns = tuple(dict.fromkeys(fields))

    def fill(self, values: Mapping[str, Any], where: str) -> str:
        """The prompt of one row; raises `InputError` where a column is missing, null, or all of them are empty."""
        pieces = [self._texts[0]]
        empty = bool(self._fields)
        for field, text in zip(self._fields, self._texts[1:], strict=True):
            value = _rendered(values, field, where)
            empty = empty and (not value or value.isspace())
            pieces += (value, text)
        if empty:
            _refuse(where, f"nothing to ask about: {_listed(self.columns)} is empty; fill it in or leave the row out")
        return "".join(pieces)


def _field(piece: str) -> str:
    match = _FIELD.fullmatch(piece)
    if match is None or match[1].isspace():
        raise UsageError(
            f"the prompt has {piece!r}, which is no column: fields are plain names such as {{text}};"
            " write {{ and }} for braces that are text"
        )
    return match[1].strip()


def _rendered(values: Mapping[str, Any], column: str, where: str) -> str:
    """One column as text of a prompt."""
    value = values.get(column)
    if type(value) is str:
        return value
    # Tables hold NaN, the one value that differs from itself, where they have none.
    if value is None or (isinstance(value, float) and value != value):
        if column in values:
            _refuse(where, f"column {column!r} is null; give it a value or leave the row out")
        _refuse(where, f"there is no column {column!r}; the row has: {_listed(values)}")
    try:
        plain = msgspec.to_builtins(value)
        return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(where, f"column {column!r} cannot be put into a prompt: {error}") from error


class Template:
    """What a run asks of every row.

    `prompt` has `{column}` fields; `system` is sent as it stands, before messages that have no instructions of their
    own; `params` are parameters of every body; `id_column` names the rows (else `id` or `custom_id`, else the index);
    `keep` are columns copied to the output, whose own keys are `taken`. Raises `UsageError` for what can be right for no row.
    """

    def __init__(
        self,
        *,
        prompt: str | None = None,
        system: str | None = None,
        params: Mapping[str, Any] | None = None,
        id_column: str | None = None,
        keep: Iterable[str] = (),
        taken: frozenset[str] = OUTPUT_KEYS,
    ) -> None:
        self._prompt = None if prompt is None else Prompt(prompt)
        self._system = [{"role": "system", "content": system}] if system else []
        self._params = _run_params(params or {})
        self._id_column = id_column
        self._keep = tuple(dict.fromkeys(keep))
        self._outside_body = frozenset({"id", "custom_id", "messages"} | ({id_column} if id_column else set()))
        self._not_asked = self._outside_body | {"model"}
        if overwritten := taken.intersection(self._keep):
            raise UsageError(
                f"the output has a {_listed(sorted(overwritten))} of its own; rename the column to keep it"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the prompt names, in order."""
        return self._prompt.columns if self._prompt else ()

    def row(self, raw: RawRow) -> Row:
        """The row ready to be sent; raises `InputError`, which says where and why, for one that cannot be."""
        values, where = _values(raw), raw.where
        batch = _is_batch_line(values)
        if batch:
            request = self._batch_request(values, where)
        elif "messages" in values:
            own = {key: value for key, value in values.items() if key not in self._outside_body}
            request = self._request(_messages(values["messages"], where), own, where)
        else:
            request = self._prompt_request(values, where)
        columns = self._kept(values, where) if self._keep else {}
        return Row(raw.index, self._id(values, batch, raw), request, columns, batch)

    def given(self, raw: RawRow) -> Row:
        """The row as it was given, with its name and what is kept of it: what is asked is for a workflow to decide.

        Raises `InputError` for one that cannot be recorded.
        """
        values, where = _values(raw), raw.where
        _require_json(dict(values), where)
        return Row(
            raw.index, self._id(values, False, raw), Request([]), self._kept(values, where) if self._keep else {}
        )

    def _id(self, values: Mapping[str, Any], batch: bool, raw: RawRow) -> str | int:
        column = "custom_id" if batch else self._id_column
        if column is None:
            column = "id" if "id" in values else "custom_id"
            if column not in values:
                return raw.index
        elif column not in values:
            _refuse(raw.where, f"there is no column {column!r} to take the id from; the row has: {_listed(values)}")
        value = values[column]
        if type(value) is int or (type(value) is str and value):
            return value
        _refuse(raw.where, f"{column!r} must be a whole number or a text that is not empty, not {_shown(value)}")

    def _kept(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        for column in self._keep:
            if column not in values:
                _refuse(where, f"there is no column {column!r} to keep; the row has: {_listed(values)}")
        kept = {column: values[column] for column in self._keep}
        _require_json(kept, where)
        return kept

    def _batch_request(self, values: Mapping[str, Any], where: str) -> Request:
        missing = sorted(_BATCH_KEYS - values.keys())
        if missing:
            _refuse(where, f"a batch line needs {_listed(missing)} too")
        if values["method"] != "POST":
            _refuse(where, f"method must be POST, not {_shown(values['method'])}")
        if values["url"] not in _BATCH_URLS:
            _refuse(where, f"url must be /v1/chat/completions, not {_shown(values['url'])}; split such lines off")
        body = values["body"]
        if not isinstance(body, Mapping):
            _refuse(where, f"body must be an object, not {_shown(body)}")
        own = {key: value for key, value in body.items() if key != "messages"}
        return self._request(_messages(body.get("messages"), where), own, where)

    def _prompt_request(self, values: Mapping[str, Any], where: str) -> Request:
        own: dict[str, Any] = {}
        if "prompt" in values and values.get("params") is not None:
            own = _row_params(values["params"], where)
        if values.get("model"):
            own["model"] = values["model"]
        return self._request([{"role": "user", "content": self._text(values, where)}], own, where)

    def _text(self, values: Mapping[str, Any], where: str) -> str:
        if self._prompt is None:
            return _own_prompt(values, where)
        if not self._prompt.columns and not values.keys() <= self._not_asked:
            columns = _listed(key for key in values if key not in self._not_asked)
            _refuse(where, f"the prompt names no column, so every row would ask the same; put one in braces: {columns}")
        return self._prompt.fill(values, where)

    def _request(self, messages: list[dict[str, Any]], own: dict[str, Any], where: str) -> Request:
        params = {**self._params, **own}
        for name in ("stream", "stream_options"):
            if params.pop(name, None):
                _refuse(where, f"{name} must be left out: the answers of a run are whole")
        model = params.pop("model", None) or None
        if model is not None and not isinstance(model, str):
            _refuse(where, f"model must be text, not {_shown(model)}")
        if self._system and not any(message["role"] in _INSTRUCTIONS for message in messages):
            messages = self._system + messages
        _require_json((messages, params), where)
        return Request(messages, model, params)


def _run_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of every row; raises `UsageError` for those that a run has other means for."""
    for name, instead in _OWN_OPTIONS.items():
        if name in params:
            raise UsageError(f"{name} is no parameter here; {instead}")
    for name in ("stream", "stream_options"):
        if params.get(name):
            raise UsageError(f"{name} must be left out: the answers of a run are whole")
    try:
        _require_json(params, "params")
    except InputError as error:
        raise UsageError(str(error)) from error
    return dict(params)


def _row_params(params: Any, where: str) -> dict[str, Any]:
    if not isinstance(params, Mapping):
        _refuse(where, f"params must be an object, not {_shown(params)}")
    if "messages" in params:
        _refuse(where, "params must not have messages beside a prompt; make it a row with messages")
    return dict(params)


def _own_prompt(values: Mapping[str, Any], where: str) -> str:
    if "prompt" not in values:
        _refuse(where, f"no prompt and no messages; give --prompt with {{column}} fields, of: {_listed(values)}")
    text = values["prompt"]
    if not isinstance(text, str):
        _refuse(where, f"prompt must be text, not {_shown(text)}")
    if not text or text.isspace():
        _refuse(where, "the prompt is empty; fill it in or leave the row out")
    return text


def _values(raw: RawRow) -> Mapping[str, Any]:
    """The row's columns; bare text is a prompt row whose text is also called `text`."""
    if raw.error is not None:
        _refuse(raw.where, raw.error)
    values = raw.values
    if type(values) is dict:
        return values
    if isinstance(values, str):
        return {"text": values, "prompt": values}
    if isinstance(values, Mapping):
        return values
    _refuse(raw.where, f"a row must be text or an object, not {_shown(values)}")


def _is_batch_line(values: Mapping[str, Any]) -> bool:
    """True of the four keys, and of a `body` with messages: what such a line lacks is then told by name."""
    body = values.get("body")
    return (isinstance(body, Mapping) and "messages" in body) or values.keys() >= _BATCH_KEYS


def _messages(messages: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        _refuse(where, f"messages must be a list that is not empty, not {_shown(messages)}")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            _refuse(where, f"each message must be an object with a role, not {_shown(message)}")
    return messages


def _require_json(values: Any, where: str) -> None:
    try:
        msgspec.json.encode(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(where, f"cannot be written as JSON: {error}") from error


def _shown(value: Any) -> str:
    """A value for a message, short."""
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


class InputCheck(msgspec.Struct, frozen=True):
    """What the first reading found: how many rows there are, and what is wrong; with errors it may have ended early."""

    rows: int
    errors: list[InputError]


def check_rows(read: Callable[[], Iterable[RawRow]], render: Callable[[RawRow], Row], at_most: int = 20) -> InputCheck:
    """Read all rows once; tell up to `at_most` that cannot be sent (`render` raises) or whose id another row has.

    `read` starts over each time; a second reading is made only where two ids may be equal. Memory is 8 bytes for each
    row that has an id of its own.
    """
    count, errors, ids = 0, [], _SeenIds()
    for raw in read():
        count += 1
        try:
            ids.add(raw.index, render(raw).id)
        except InputError as error:
            errors.append(error)
            if len(errors) >= at_most:
                return InputCheck(count, errors)
    suspects = ids.suspects()
    if suspects:
        errors += islice(_duplicates(read(), render, suspects), at_most - len(errors))
    return InputCheck(count, errors)


def _duplicates(rows: Iterable[RawRow], render: Callable[[RawRow], Row], suspects: set[int]) -> Iterator[InputError]:
    """The rows whose id an earlier one has, among ids whose hash is suspect: equal hashes need not be equal ids."""
    first: dict[str | int, str] = {}
    for raw in rows:
        try:
            row_id = render(raw).id
        except InputError:
            continue  # told by the first reading
        if _id_hash(row_id) not in suspects:
            continue
        if row_id in first:
            yield InputError(raw.where, f"the id {_shown(row_id)} is also that of {first[row_id]}; ids must differ")
        else:
            first[row_id] = raw.where


def _id_hash(row_id: str | int) -> int:
    """64 bits of an id. Whole numbers are hashed as text: their own hash is the number, which fills one part only."""
    return hash(row_id if type(row_id) is str else f"\0{row_id}") & 0xFFFF_FFFF_FFFF_FFFF


class _SeenIds:
    """Hashes of ids, 8 bytes each, in parts by their top byte so that one part at a time is sorted.

    As long as each id is the row's own index nothing is stored, for these differ by themselves.
    """

    _MAX_SUSPECTS = 1_000  # far more than are ever told; bounds the second reading where every id is a duplicate

    def __init__(self) -> None:
        self._natural = 0
        self._parts = [array("Q") for _ in range(256)]
        self._suspects: set[int] = set()

    def add(self, index: int, row_id: str | int) -> None:
        if type(row_id) is int and 0 <= row_id < self._natural:
            if len(self._suspects) < self._MAX_SUSPECTS:
                self._suspects.add(_id_hash(row_id))
        elif row_id == index == self._natural:
            self._natural += 1
        else:
            hashed = _id_hash(row_id)
            self._parts[hashed >> 56].append(hashed)

    def suspects(self) -> set[int]:
        """Hashes that came more than once: all of them, or about as many as `_MAX_SUSPECTS`."""
        suspects = set(self._suspects)
        for part in self._parts:
            if len(suspects) >= self._MAX_SUSPECTS:
                break
            suspects.update(hashed for hashed, following in pairwise(sorted(part)) if hashed == following)
        return suspects
