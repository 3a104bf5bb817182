"""A JSON schema as the strict mode of a provider takes it. Decides what is told there, never what fits.

The rules are those of OpenAI's "Structured Outputs", which others took over: every object is closed, all of its
properties are required, everything has a type, and only some keywords are known.
"""

from __future__ import annotations

from typing import Any

from penstock.rules.json_schema import DEFINITIONS, Schema, type_of, types_of

# Every other keyword only narrows what fits: it is left out here, and checked when the answer is read.
_KNOWN = frozenset(
    {"type", "description", "enum", "const", "pattern", "format", "minItems", "maxItems", "multipleOf"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
)
_KNOWN_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


class _NotStrict(Exception):
    """The schema says what strict mode cannot."""


def strict(schema: Schema) -> Schema | None:
    """The same in strict mode, where every object is closed and all its properties are required; None if it cannot be said.

    It cannot where an object has free keys, where something has no type, and where a property may be left out whose
    absence nothing else says (no default, neither null nor an empty list): the model would have to make up a value.
    """
    try:
        node = _strict(schema)
        for name in DEFINITIONS:
            if name in schema:
                node[name] = {key: _strict(part) for key, part in schema[name].items()}
    except _NotStrict:
        return None
    return node


def _strict(node: Any) -> Schema:
    if not isinstance(node, dict):
        raise _NotStrict
    if "$ref" in node:
        return _strict_reference(node)
    choices = node.get("anyOf", node.get("oneOf"))
    if choices is not None:
        return _strict_choice(node, choices)
    if "allOf" in node:
        return _strict_whole(node)
    kept = {key: value for key, value in node.items() if key in _KNOWN}
    if kept.get("format") not in _KNOWN_FORMATS:
        kept.pop("format", None)
    if "type" not in kept:
        kept["type"] = _told_by_values(node)
    types = types_of(kept)
    if "object" in types:
        kept |= _closed(node)
    if "array" in types:
        kept["items"] = _strict(node.get("items"))
    return kept


def _strict_reference(node: Schema) -> Schema:
    """A reference stands alone there, so what is said beside it goes around it."""
    alone = {"$ref": node["$ref"]}
    return {"anyOf": [alone], "description": node["description"]} if "description" in node else alone


def _strict_choice(node: Schema, choices: list[Any]) -> Schema:
    if not node.keys().isdisjoint(("properties", "items", "allOf")):
        raise _NotStrict
    kept: Schema = {"anyOf": [_strict(choice) for choice in choices]}
    return kept | ({"description": node["description"]} if "description" in node else {})


def _strict_whole(node: Schema) -> Schema:
    """`allOf` of one part is how a generator hangs a description on it."""
    rest = {key: value for key, value in node.items() if key != "allOf"}
    if len(node["allOf"]) != 1 or not isinstance(node["allOf"][0], dict):
        raise _NotStrict
    return _strict(node["allOf"][0] | rest)


def _closed(node: Schema) -> Schema:
    properties = node.get("properties")
    if properties is None or node.get("additionalProperties") or "patternProperties" in node:
        raise _NotStrict
    required = node.get("required", ())
    if not all(name in required or _may_be_blank(part) for name, part in properties.items()):
        raise _NotStrict
    closed = {name: _strict(part) for name, part in properties.items()}
    return {"properties": closed, "required": list(closed), "additionalProperties": False}


def _may_be_blank(node: Any) -> bool:
    """Whether a property that must now be written has a way to say that it would have been left out."""
    if not isinstance(node, dict):
        return False
    if "default" in node or (node.get("type") == "array" and not node.get("minItems")):
        return True
    choices = node.get("anyOf") or node.get("oneOf") or ()
    return "null" in types_of(node) or any(
        isinstance(choice, dict) and "null" in types_of(choice) for choice in choices
    )


def _told_by_values(node: Schema) -> str | list[str]:
    """The types of the values that an `enum` or a `const` lists."""
    values = node.get("enum", [node["const"]] if "const" in node else [])
    types = list(dict.fromkeys(type_of(value) for value in values))
    if not types:
        raise _NotStrict
    return types[0] if len(types) == 1 else types
