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
from collections.abc import Iterable, Mapping
from itertools import islice
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
        self._takes_text_as_it_is = prompt is None and id_column is None and not self._keep
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
        if self._takes_text_as_it_is and type(raw.values) is str and raw.error is None:
            # What programs pass in most: the way of all other rows would add a twentieth to a whole call.
            return Row(raw.index, raw.index, self._asking(_not_empty(raw.values, raw.where), {}, raw.where))
        values, where = _values(raw), raw.where
        batch = "body" in values and _is_batch_line(values)
        if batch:
            request = self._batch_request(values, where)
        elif "messages" in values:
            own = {key: value for key, value in values.items() if key not in self._outside_body}
            request = self._request(_jsonable(_messages(values["messages"], where), where), own, where)
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
        _refuse(raw.where, f"{column!r} must be a whole number or a text that is not empty, not {shown(value)}")

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
            _refuse(where, f"method must be POST, not {shown(values['method'])}")
        if values["url"] not in _BATCH_URLS:
            _refuse(where, f"url must be /v1/chat/completions, not {shown(values['url'])}; split such lines off")
        body = values["body"]
        if not isinstance(body, Mapping):
            _refuse(where, f"body must be an object, not {shown(body)}")
        own = {key: value for key, value in body.items() if key != "messages"}
        return self._request(_jsonable(_messages(body.get("messages"), where), where), own, where)

    def _prompt_request(self, values: Mapping[str, Any], where: str) -> Request:
        own: dict[str, Any] = {}
        if "prompt" in values and values.get("params") is not None:
            own = _row_params(values["params"], where)
        if values.get("model"):
            own["model"] = values["model"]
        return self._asking(self._text(values, where), own, where)

    def _asking(self, text: str, own: dict[str, Any], where: str) -> Request:
        if not text.isascii():
            _require_json(text, where)  # it may hold half of a surrogate pair
        return self._request([{"role": "user", "content": text}], own, where)

    def _text(self, values: Mapping[str, Any], where: str) -> str:
        if self._prompt is None:
            return _own_prompt(values, where)
        if not self._prompt.columns and not values.keys() <= self._not_asked:
            columns = _listed(key for key in values if key not in self._not_asked)
            _refuse(where, f"the prompt names no column, so every row would ask the same; put one in braces: {columns}")
        return self._prompt.fill(values, where)

    def _request(self, messages: list[dict[str, Any]], own: dict[str, Any], where: str) -> Request:
        if self._system and not any(message["role"] in _INSTRUCTIONS for message in messages):
            messages = self._system + messages
        if not own:
            return Request(messages, None, self._params.copy())
        params = {**self._params, **own}
        for name in ("stream", "stream_options"):
            if params.pop(name, None):
                _refuse(where, f"{name} must be left out: the answers of a run are whole")
        model = params.pop("model", None) or None
        if model is not None and not isinstance(model, str):
            _refuse(where, f"model must be text, not {shown(model)}")
        _require_json(own, where)
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
    return {name: value for name, value in params.items() if name not in ("stream", "stream_options")}


def _row_params(params: Any, where: str) -> dict[str, Any]:
    if not isinstance(params, Mapping):
        _refuse(where, f"params must be an object, not {shown(params)}")
    if "messages" in params:
        _refuse(where, "params must not have messages beside a prompt; make it a row with messages")
    return dict(params)


def _own_prompt(values: Mapping[str, Any], where: str) -> str:
    if "prompt" not in values:
        _refuse(where, f"no prompt and no messages; give --prompt with {{column}} fields, of: {_listed(values)}")
    text = values["prompt"]
    if not isinstance(text, str):
        _refuse(where, f"prompt must be text, not {shown(text)}")
    return _not_empty(text, where)


def _not_empty(text: str, where: str) -> str:
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
    _refuse(raw.where, f"a row must be text or an object, not {shown(values)}")


def _is_batch_line(values: Mapping[str, Any]) -> bool:
    """Of a row with a `body`: true of the four keys, and of messages in it; what such a line lacks is then told by name."""
    body = values["body"]
    return (isinstance(body, Mapping) and "messages" in body) or values.keys() >= _BATCH_KEYS


def _messages(messages: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        _refuse(where, f"messages must be a list that is not empty, not {shown(messages)}")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            _refuse(where, f"each message must be an object with a role, not {shown(message)}")
    return messages


def _jsonable(messages: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    _require_json(messages, where)
    return messages


def _require_json(values: Any, where: str) -> None:
    try:
        msgspec.json.encode(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(where, f"cannot be written as JSON: {error}") from error


def shown(value: Any) -> str:
    """A value for a message, short."""
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
