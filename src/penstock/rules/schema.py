"""Structured answers: the form that is asked for, how it is asked, and whether what came has it.

A form is made of a pydantic model, a dataclass, a TypedDict, a msgspec Struct, whatever else msgspec decodes (lists and
unions of those), a pydantic TypeAdapter, or a JSON schema as a mapping. A class decides itself what fits it; data for a
JSON schema is held against the keywords that `rules.json_schema` names.

An answer is read whole, else as the only JSON object in it: models put fences and a sentence around what they were asked
for, and some servers do not keep the native form that they accepted. What is not one object that fits is an error and
never guessed at. This holds for every form alike: where the provider keeps it, the first reading is the only one.

This module sends nothing and never decides whether to ask again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, TypeAlias

import msgspec

from penstock.errors import RequestError, UsageError
from penstock.records import Request
from penstock.rules.json_schema import DEFINITIONS, MOST_TOLD, Schema, mismatches, resolve, shown, well_formed
from penstock.rules.strict_schema import strict

Native: TypeAlias = Literal["json_schema", "json_object", "none"]
"""What a service itself keeps to: a schema, some JSON object, or nothing, so that instructions have to do."""

UNNAMED = "answer"
_ROOT = "value"
_LONGEST_NAME = 64


class Unfit(ValueError):
    """An answer that has not the form; the message says where and what, for the model to read."""


class Form(msgspec.Struct, frozen=True):
    """What an answer must be. `schema` has an object at its root; `strict` is the same for strict mode, None if it has none.

    What is no object itself (a list, a union, a number) stands as `value` in one: no provider takes another root.
    """

    name: str
    schema: Schema
    strict: Schema | None
    decode: Callable[[bytes], Any]
    """The value of a JSON object; raises `Unfit`."""

    def read(self, text: str) -> Any:
        """The value that an answer holds. Raises `Unfit`, and what a validator of the caller's raises that is no ValueError."""
        try:
            whole = text.encode().strip()
        except UnicodeEncodeError as cause:
            raise Unfit("the answer is not valid Unicode") from cause
        if not whole:
            raise Unfit("the answer is empty")
        if (trouble := _not_json(whole)) is None:
            return self.decode(whole)
        objects = list(islice((found for found in map(str.encode, _objects(text)) if _not_json(found) is None), 2))
        if len(objects) == 1:
            return self.decode(objects[0])
        if not objects:
            raise Unfit(f"the answer is not JSON: {trouble}")
        raise Unfit("the answer has more than one JSON object in it, and one was asked for")


def form_of(response_model: Any) -> Form:
    """The form of a model; one that is made already is itself. Raises `UsageError` for what no answer can be checked by."""
    if isinstance(response_model, Form):
        return response_model
    if isinstance(response_model, Mapping):
        return _schema_form(response_model)
    try:
        hash(response_model)
    except TypeError:
        return _class_form(response_model)
    return _known_form(response_model)


# -- classes


def _class_form(model: Any) -> Form:
    name = model.__name__ if isinstance(model, type) else UNNAMED
    if isinstance(model, type) and hasattr(model, "__pydantic_validator__") and not hasattr(model, "model_json_schema"):
        raise UsageError(f"give TypeAdapter({name}) as response_model: only pydantic can check its own dataclasses")
    try:
        schema, decode = _reading(model)
        return _form(schema.get("title", name) if name == UNNAMED else name, schema, decode)
    except (TypeError, ValueError, RuntimeError, NameError) as cause:
        why = str(getattr(cause, "message", cause)).splitlines()[-1:] or [type(cause).__name__]
        if isinstance(cause, NameError):
            why[0] += " at the top of the module, where its annotations are looked up"
        raise UsageError(
            f"response_model cannot be {model!r}: {why[0]}; give a pydantic model (for lists and unions of them a "
            "TypeAdapter), a dataclass, a TypedDict, a msgspec Struct, lists or unions of those, or a JSON schema"
        ) from cause


_known_form = lru_cache(maxsize=256)(_class_form)


def _reading(model: Any) -> tuple[Schema, Callable[[bytes], Any]]:
    """The schema of a class and what reads it. Pydantic is told by its methods: it is not imported."""
    if isinstance(model, type) and hasattr(model, "model_json_schema"):
        return model.model_json_schema(), _pydantic(getattr(model, "model_validate_json"))  # noqa: B009  mypy sees a type
    if hasattr(model, "validate_json") and hasattr(model, "json_schema"):
        return model.json_schema(), _pydantic(model.validate_json)
    return msgspec.json.schema(model), _msgspec(model)


def _msgspec(model: Any) -> Callable[[bytes], Any]:
    decoder = msgspec.json.Decoder(model)

    def decode(data: bytes) -> Any:
        try:
            return decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as cause:
            raise Unfit(str(cause)) from cause

    return decode


def _pydantic(validate: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        try:
            return validate(data)
        except (ValueError, RecursionError, OverflowError) as cause:
            raise Unfit(_told_by_pydantic(cause)) from cause

    return decode


def _told_by_pydantic(cause: Exception) -> str:
    """Its errors as ours read; the links that its own text has are no help to a model."""
    if not hasattr(cause, "errors"):
        return str(cause)
    errors = cause.errors(include_url=False, include_context=False, include_input=False)
    told = [f"at {_place(error['loc'])}: {error['msg']}" for error in errors[:MOST_TOLD]]
    return "; ".join(told)


def _place(steps: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


# -- JSON schemas


def _schema_form(given: Mapping[str, Any]) -> Form:
    try:
        schema = msgspec.json.decode(msgspec.json.encode(dict(given)))
    except (TypeError, ValueError, RecursionError) as cause:
        raise UsageError(f"response_model is no JSON schema: {cause}") from cause
    well_formed(schema)
    if "type" not in schema and "properties" in schema:
        schema["type"] = "object"

    def decode(data: bytes) -> Any:
        try:
            value = msgspec.json.decode(data)
            told = mismatches(value, schema)
        except (ValueError, RecursionError, OverflowError) as cause:
            raise Unfit(str(cause)) from cause
        if told:
            raise Unfit("; ".join(told))
        return value

    title = schema.get("title")
    return _form(title if isinstance(title, str) else UNNAMED, schema, decode)


# -- the root


def _form(name: str, schema: Schema, decode: Callable[[bytes], Any]) -> Form:
    """Only letters, digits, `_` and `-` may name a schema, and 64 of them (OpenAI's API reference, `json_schema.name`)."""
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_")[:_LONGEST_NAME] or UNNAMED
    root = _at_the_root(schema)
    if root.get("type") != "object":
        root, decode = _in_an_object(root), _unwrapped(decode)
    return Form(name, root, strict(root), decode)


def _at_the_root(schema: Schema) -> Schema:
    """A root that only refers to a definition, as it stands there; the definition goes where nothing else needs it."""
    reference = schema.get("$ref")
    if reference is None or reference == "#":
        return schema
    target = resolve(reference, schema)
    if not isinstance(target, dict):
        return schema
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    name = reference.removeprefix("#/$defs/")
    others = {key: part for key, part in rest.get("$defs", {}).items() if key != name}
    if others != rest.get("$defs", {}) and reference not in _references([target, others]):
        rest["$defs"] = others
    return {key: value for key, value in (target | rest).items() if key != "$defs" or value}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for part in node.values():
            yield from _references(part)
    elif isinstance(node, list):
        for part in node:
            yield from _references(part)


def _in_an_object(schema: Schema) -> Schema:
    inner = {key: value for key, value in schema.items() if key not in DEFINITIONS}
    outer = {key: value for key, value in schema.items() if key in DEFINITIONS}
    wrapped = {"type": "object", "properties": {_ROOT: inner}, "required": [_ROOT], "additionalProperties": False}
    moved: Schema = _moved(wrapped | outer)
    return moved


def _moved(node: Any) -> Any:
    """References to the old root, and to what is not a definition, name what now lies one object deeper."""
    if isinstance(node, list):
        return [_moved(part) for part in node]
    if not isinstance(node, dict):
        return node
    moved = {key: _moved(part) for key, part in node.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and not reference.startswith(tuple(f"#/{name}/" for name in DEFINITIONS)):
        moved["$ref"] = f"#/properties/{_ROOT}{reference[1:]}"
    return moved


def _unwrapped(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def decode_value(data: bytes) -> Any:
        try:
            outer = fields.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as cause:
            raise Unfit(str(cause)) from cause
        if list(outer) != [_ROOT]:
            raise Unfit(f"the object must have {shown(_ROOT)} and nothing else, not {shown(list(outer))}")
        try:
            return decode(bytes(outer[_ROOT]))
        except Unfit as cause:
            raise Unfit(f"in {shown(_ROOT)}: {cause}") from cause

    return decode_value


# -- JSON in a text


def _not_json(data: bytes) -> str | None:
    """What keeps it from being JSON."""
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError) as cause:
        return str(cause)
    return None


# A text that is never closed reaches to the end: one pass, however many quotes there are.
_STRING_OR_BRACE = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|\Z)|[{}]', re.DOTALL)


def _objects(text: str) -> Iterator[str]:
    """The outermost `{...}` of a text, one after the other, whether they are JSON or not; one that stays open ends it."""
    start = text.find("{")
    while start >= 0:
        depth = 0
        for token in _STRING_OR_BRACE.finditer(text, start):
            depth += {"{": 1, "}": -1}.get(token[0], 0)
            if depth == 0:
                yield text[start : token.end()]
                start = text.find("{", token.end())
                break
        else:
            return


# -- asking


def ask_for(request: Request, form: Form, native: Native, correction: list[dict[str, Any]] | None = None) -> Request:
    """The request that asks for the form as the service knows it; `correction` are messages that follow its own.

    Raises `UsageError` where the request has a `response_format` of its own.
    """
    require_no_other_form(request.params)
    messages, params = request.messages, request.params
    if native == "json_schema":
        params = params | {"response_format": {"type": "json_schema", "json_schema": _native(form)}}
    else:
        messages = _instructed(messages, form)
    if native == "json_object":
        params = params | {"response_format": {"type": "json_object"}}
    return Request(messages + (correction or []), request.model, params)


def require_no_other_form(params: Mapping[str, Any]) -> None:
    """Raise `UsageError` for parameters that ask for a form themselves."""
    if "response_format" in params:
        raise UsageError("give response_model or response_format, not both: each says what form the answer must have")


def _native(form: Form) -> dict[str, Any]:
    return {"name": form.name, "strict": form.strict is not None, "schema": form.strict or form.schema}


def instructions(form: Form) -> str:
    """What a model is told that has no native form."""
    return (
        "Answer with one JSON object and nothing else: no explanation before or after it, no Markdown. "
        f"It must fit this JSON schema:\n{msgspec.json.encode(form.schema).decode()}"
    )


def _instructed(messages: list[dict[str, Any]], form: Form) -> list[dict[str, Any]]:
    """With the instructions in the first system message: many models take one, and only there."""
    told = instructions(form)
    first = messages[0] if messages else {}
    content = first.get("content")
    if first.get("role") not in ("system", "developer") or not isinstance(content, str | list):
        return [{"role": "system", "content": told}, *messages]
    if isinstance(content, str):
        return [first | {"content": f"{content}\n\n{told}"}, *messages[1:]]
    return [first | {"content": [*content, {"type": "text", "text": told}]}, *messages[1:]]


def correction_of(text: str, unfit: Unfit, form: Form, native: Native) -> list[dict[str, Any]]:
    """What shows a model its answer and what is wrong with it.

    The schema is repeated where it was told by the native form only: a service that drops it has never shown it.
    """
    told = f"This answer cannot be used: {unfit}.\nAnswer again, with the whole corrected JSON object and nothing else."
    if native == "json_schema":
        told += f" {instructions(form)}"
    return [{"role": "assistant", "content": text or "(empty)"}, {"role": "user", "content": told}]


_WEAKER: dict[Native, Native] = {"json_schema": "json_object", "json_object": "none"}
_OF_FORMS = re.compile(r"response.?(format|schema)|json.?(schema|object|mode)|structured.?output", re.IGNORECASE)


def weaker(native: Native, error: RequestError) -> Native | None:
    """What to ask for instead where the service refuses the form itself: not every model of a service takes its forms.

    Such a refusal costs nothing. None where the error is about something else, or there is nothing weaker.
    """
    if error.kind != "invalid_request" or not (error.param == "response_format" or _OF_FORMS.search(error.message)):
        return None
    return _WEAKER.get(native)
