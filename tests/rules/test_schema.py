"""Structured answers as rules: every kind of model, every service, what is read and what is refused; reading never breaks."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import UsageError, request_error
from penstock.providers.catalog import SERVICES
from penstock.records import Request
from penstock.rules import schema as schema_rules
from penstock.rules.json_schema import mismatches, well_formed
from penstock.rules.schema import Native, Unfit, ask_for, correction_of, form_of, instructions, weaker
from penstock.rules.strict_schema import strict

# -- models of every kind


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


@dataclass
class Review:
    """A review of one product."""

    stars: int
    mood: Mood
    tags: list[str] = field(default_factory=list)
    note: str | None = None


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise ValueError("number must be positive")


class Point(TypedDict):
    x: float
    y: float
    label: NotRequired[str]


class Cat(msgspec.Struct, tag=True):
    name: Annotated[str, msgspec.Meta(min_length=2, description="What it answers to")]


class Dog(msgspec.Struct, tag=True):
    legs: int = 4
    puppies: list[Dog] = []


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(description="The full name")
    age: int = pydantic.Field(ge=0)
    friends: list[Person] = []


class Event(pydantic.BaseModel):
    day: datetime.date
    price: Decimal
    id: UUID

    @pydantic.field_validator("price")
    @classmethod
    def _not_free(cls, price: Decimal) -> Decimal:
        if not price:
            raise ValueError("nothing is free")
        return price


@pydantic.dataclasses.dataclass
class Checked:
    number: int


WEATHER: dict[str, Any] = {
    "title": "weather report",
    "type": "object",
    "properties": {
        "sky": {"enum": ["blue", "grey"]},
        "degrees": {"type": "number", "minimum": -90, "maximum": 60},
        "wind": {"$ref": "#/$defs/wind"},
    },
    "required": ["sky", "degrees"],
    "additionalProperties": False,
    "$defs": {"wind": {"type": "object", "properties": {"from": {"type": "string", "pattern": "^[NESW]$"}}}},
}

REVIEW = '{"stars": 4, "mood": "good", "tags": ["a"], "note": null}'
EVENT = '{"day": "2026-11-22", "price": "9.50", "id": "12345678-1234-5678-1234-567812345678"}'

FITTING: list[tuple[Any, str, Any]] = [
    (Review, REVIEW, Review(4, Mood.GOOD, ["a"], None)),
    (Positive, '{"number": 1}', Positive(1)),
    (Point, '{"x": 1, "y": 2.5}', {"x": 1.0, "y": 2.5}),
    (Cat, '{"type": "Cat", "name": "Tom"}', Cat("Tom")),
    (Dog, '{"type": "Dog", "legs": 3, "puppies": [{"type": "Dog"}]}', Dog(3, [Dog()])),
    (Person, '{"name": "Ada", "age": 36}', Person(name="Ada", age=36)),
    (Event, EVENT, Event.model_validate_json(EVENT)),
    (WEATHER, '{"sky": "blue", "degrees": 21.5}', {"sky": "blue", "degrees": 21.5}),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    # No object itself: it stands as `value` in one.
    (list[Review], f'{{"value": [{REVIEW}]}}', [Review(4, Mood.GOOD, ["a"], None)]),
    (Cat | Dog, '{"value": {"type": "Cat", "name": "Tom"}}', Cat("Tom")),
    (Literal["yes", "no"], '{"value": "yes"}', "yes"),
    (Mood, '{"value": "bad"}', Mood.BAD),
    (int, '{"value": 7}', 7),
    (Annotated[int, msgspec.Meta(ge=1, examples=[1])], '{"value": 7}', 7),
    (pydantic.TypeAdapter(list[Person]), '{"value": [{"name": "A", "age": 1}]}', [Person(name="A", age=1)]),
    (pydantic.TypeAdapter(Checked), '{"number": 3}', Checked(3)),
    ({"type": "array", "items": {"type": "integer"}}, '{"value": [1, 2]}', [1, 2]),
    ({"properties": {"a": {"type": "null"}}}, '{"a": null}', {"a": None}),
]


@pytest.mark.parametrize(("model", "text", "value"), FITTING)
def test_an_answer_of_the_form_is_read_into_its_value(model: Any, text: str, value: Any) -> None:
    read = form_of(model).read(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(("model", "text", "value"), FITTING)
def test_an_answer_that_fits_is_what_the_schema_says(model: Any, text: str, value: Any) -> None:
    """The schema that is told admits what is read."""
    form = form_of(model)
    assert mismatches(json.loads(text), form.schema) == []


@pytest.mark.parametrize(("model", "text", "value"), FITTING)
def test_a_form_has_a_name_and_an_object_at_its_root_that_every_provider_takes(
    model: Any, text: str, value: Any
) -> None:
    form = form_of(model)
    assert form.schema["type"] == "object"
    assert "$ref" not in form.schema
    assert 0 < len(form.name) <= 64
    assert form.name.replace("_", "").replace("-", "").isalnum()
    assert form.name.isascii()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Review, "Review"),
        (Person, "Person"),
        (WEATHER, "weather_report"),
        (list[Review], "answer"),
        (Cat | Dog, "answer"),
        ({"title": "né/ант", "type": "object"}, "n"),
        ({"title": "x" * 99, "type": "object"}, "x" * 64),
        ({"title": "日本", "type": "object"}, "answer"),
    ],
)
def test_the_name_is_the_models_own_as_far_as_a_provider_takes_it(model: Any, name: str) -> None:
    assert form_of(model).name == name


# -- what does not fit, and what is said of it


@pytest.mark.parametrize(
    ("model", "text", "told"),
    [
        (Review, '{"stars": "four", "mood": "good"}', ["`int`", "`str`", "$.stars"]),
        (Review, '{"stars": 4}', ["mood"]),
        (Review, '{"stars": 4, "mood": "so-so"}', ["so-so", "$.mood"]),
        (Positive, '{"number": -1}', ["number must be positive"]),
        (Person, '{"name": 7, "age": -1}', ["at $.name: Input should be a valid string", "at $.age", "equal to 0"]),
        (Person, '{"name": "A", "age": 1, "friends": [{"name": "B"}]}', ["at $.friends[0].age: Field required"]),
        (Event, EVENT.replace("9.50", "0"), ["at $.price", "nothing is free"]),
        (WEATHER, '{"sky": "red", "degrees": 99}', ['at $.sky: "red" is none of "blue", "grey"', "at $.degrees: 99"]),
        (WEATHER, '{"degrees": 1, "rain": 1}', ['"sky" must not be left out', '"rain" is no property of it']),
        (WEATHER, '{"sky": "blue", "degrees": 1, "wind": {"from": "up"}}', ["at $.wind.from", "does not match"]),
        (list[int], '{"value": [1, "2"]}', ['in "value"', "$[1]"]),
        (list[int], "[1, 2]", ["array"]),
        (int, '{"value": 1, "why": "because"}', ['must have "value" and nothing else', '"why"']),
        (Review, "[]", ["object", "array"]),
        (Review, "", ["empty"]),
        (Review, " \n ", ["empty"]),
        (Review, "I cannot say.", ["not JSON"]),
        (Review, REVIEW[:-5], ["not JSON", "truncated"]),
        (Review, f"Either {REVIEW} or {REVIEW}", ["more than one JSON object"]),
        (Review, '{"stars": 4, "mood": "\ud800"}', ["Unicode"]),
        (Review, "[" * 100_000, ["not JSON"]),
        (Person, "{" * 100_000, ["not JSON"]),
        (WEATHER, '{"sky": "blue", "degrees": 1e999}', ["not JSON"]),
        ({"$ref": "#"}, '{"value": {}}', ["recursion"]),
    ],
)
def test_what_does_not_fit_is_told_with_its_place_and_reason(model: Any, text: str, told: list[str]) -> None:
    with pytest.raises(Unfit) as caught:
        form_of(model).read(text)
    assert [words for words in told if words not in str(caught.value)] == []
    assert "errors.pydantic.dev" not in str(caught.value)


def test_many_mismatches_are_not_all_told() -> None:
    """A model mends a few at a time, and a list of a thousand would fill its context."""
    for model in ({"type": "array", "items": {"type": "integer"}}, pydantic.TypeAdapter(list[int])):
        with pytest.raises(Unfit) as caught:
            form_of(model).read(json.dumps({"value": ["x"] * 1_000}))
        assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "  {}\n",
        "\ufeff{}",
        "```json\n{}\n```",
        "```\n{}\n```",
        "Here it is:\n```json\n{}\n```\nAnything else?",
        "Sure! {}",
        'It is 5" long: {} (as of today)',
        "For the {{placeholder}}: {}",
        "Of [these] I take: {}",
        "{} Note: a { that stays open",
    ],
)
@pytest.mark.parametrize("told", ['{"number": 3}', '{ "number" : 3 , "why": "a \\"}\\" and a {" }'])
def test_fences_and_words_around_the_one_object_do_no_harm(around: str, told: str) -> None:
    text = around.replace("{}", told).replace("{{", "{").replace("}}", "}")
    assert form_of(Positive).read(text) == Positive(3)


@pytest.mark.parametrize(
    "text", ["{" * 300_000, '{"' + '\\"' * 300_000, "{}" * 300_000, '{"a' * 300_000, '{"' + "\\" * 300_000]
)
def test_a_hostile_text_is_refused_in_one_pass(text: str) -> None:
    """A search that starts anew at each brace or quote would take hours here, and the test's time-out would end it."""
    with pytest.raises(Unfit):
        form_of(Positive).read(text)


def test_what_a_validator_raises_that_is_no_value_error_is_a_bug_and_passes() -> None:
    """Asking again would pay for the bug."""

    class Broken(pydantic.BaseModel):
        number: int

        @pydantic.field_validator("number")
        @classmethod
        def _breaks(cls, number: int) -> int:
            return {}[number]

    with pytest.raises(KeyError):
        form_of(Broken).read('{"number": 1}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["value", "name", "age", "x"]), inner),
)
ANSWERS = (
    st.text(st.characters())
    | st.text('{}[]":,\\ntrue0.e-`json \ud800')
    | JSON.map(json.dumps)
    | st.tuples(st.text(), JSON.map(json.dumps), st.text()).map("".join)
    | st.tuples(st.sampled_from([text for _, text, _ in FITTING]), st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]])
)
FORMS = [form_of(model) for model, _, _ in FITTING]


@settings(max_examples=300, deadline=None)
@given(ANSWERS, st.sampled_from(FORMS))
def test_reading_raises_nothing_but_its_own_error(text: str, form: schema_rules.Form) -> None:
    try:
        form.read(text)
    except Unfit as unfit:
        assert str(unfit).strip()  # noqa: PT017  either a value or this


@settings(max_examples=100, deadline=None)
@given(st.integers(), st.sampled_from(list(Mood)), st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_what_is_written_is_read_back(stars: int, mood: Mood, tags: list[str]) -> None:
    """Through a dataclass, in words and fences too."""
    review = Review(stars % 2**63, mood, tags)
    text = msgspec.json.encode(review).decode()
    assert form_of(Review).read(text) == review
    assert form_of(Review).read(f"```json\n{text}\n```") == review


# -- what no answer can be checked by


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("Review", "not supported"),
        (7, "not supported"),
        (Review(1, Mood.GOOD), "not supported"),
        (complex, "complex"),
        (lambda: 1, "not supported"),
        (Review | Point, "more than one dict-like"),
        (list[Person], "TypeAdapter"),
        (Checked, r"TypeAdapter\(Checked\)"),
        (pydantic.create_model("Odd", call=(Callable[[], int], ...)), "Cannot generate a JsonSchema"),
        ({"type": "objekt"}, "'type' at #"),
        ({"type": []}, "'type' at #"),
        ({"properties": {"a": 7}}, "#/properties/a"),
        ({"properties": []}, "'properties' at #"),
        ({"properties": {"a": {"pattern": "("}}}, "'pattern' at #/properties/a"),
        ({"properties": {"a": {"minimum": "1"}}}, "'minimum'"),
        ({"properties": {"a": {"minLength": -1}}}, "'minLength'"),
        ({"properties": {"a": {"multipleOf": 0}}}, "'multipleOf'"),
        ({"anyOf": []}, "'anyOf'"),
        ({"enum": []}, "'enum'"),
        ({"required": "a"}, "'required'"),
        ({"patternProperties": {"(": {}}}, "'patternProperties'"),
        ({"$ref": "#/$defs/none"}, "'#/\\$defs/none', which is not in it"),
        ({"$ref": "https://example.com/schema"}, "only references within it"),
        ({"$ref": 7}, "'\\$ref'"),
        ({"a": object()}, "no JSON schema"),
    ],
)
def test_a_model_that_cannot_be_right_is_told_before_anything_is_sent(model: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        form_of(model)


def test_a_class_that_names_what_its_module_has_not_is_told_where_to_define_it() -> None:
    class Inner(msgspec.Struct):
        number: int

    class Outer(msgspec.Struct):
        inner: Inner

    with pytest.raises(UsageError, match="'Inner' is not defined at the top of the module"):
        form_of(Outer)


def test_references_of_a_schema_that_is_put_into_an_object_still_name_what_they_named() -> None:
    tree = {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}
    root = form_of(tree).schema
    assert mismatches({"value": [[[]]]}, root) == []
    assert mismatches({"value": [[[], []]]}, root) != []
    assert mismatches({"value": [{"value": []}]}, root) != []


def test_a_schema_is_copied_and_a_class_is_read_once() -> None:
    given = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = form_of(given)
    given["required"].append("b")
    assert form.read('{"a": 1}') == {"a": 1}
    assert form_of(Review) is form_of(Review)


# -- data against a schema

CHECKED: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"type": "integer"}, [0, -1, 2.0], [1.5, True, "1", None]),
    ({"type": "number"}, [0, 1.5], [True, "1"]),
    ({"type": "boolean"}, [True], [1]),
    ({"type": ["string", "null"]}, ["", None], [0, []]),
    ({"enum": [1, "a", None]}, [1, 1.0, "a", None], [True, "b"]),
    ({"const": True}, [True], [1, "true"]),
    ({"minimum": 0, "maximum": 2}, [0, 2, "x", True], [-1, 2.5]),
    ({"exclusiveMinimum": 0, "exclusiveMaximum": 2}, [1], [0, 2]),
    ({"multipleOf": 0.1}, [0.3, 7, 1e300], [0.25]),
    ({"multipleOf": 3}, [9, 10**400 * 3], [10]),
    ({"minLength": 2, "maxLength": 3}, ["ab", 7], ["a", "abcd"]),
    ({"pattern": "^a+$"}, ["aa", 7], ["ab"]),
    ({"minItems": 1, "maxItems": 2}, [[1], {}], [[], [1, 2, 3]]),
    ({"uniqueItems": True}, [[1, "1"], 7], [[1, 1], [{"a": 1, "b": 2}, {"b": 2, "a": 1}]]),
    ({"uniqueItems": False}, [[1, 1]], []),
    ({"items": {"type": "string"}}, [[], ["a"], "x"], [["a", 1]]),
    ({"prefixItems": [{"const": 1}], "items": {"const": 2}}, [[], [1], [1, 2, 2]], [[2], [1, 1]]),
    ({"prefixItems": [{}], "items": False}, [[1]], [[1, 2]]),
    ({"required": ["a"]}, [{"a": 1}, []], [{}]),
    ({"properties": {"a": {"type": "null"}}}, [{}, {"a": None, "b": 1}, 7], [{"a": 1}]),
    ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}], [{"b": 1}]),
    ({"additionalProperties": {"type": "integer"}}, [{"a": 1}, 7], [{"a": "1"}]),
    ({"patternProperties": {"^x": {"const": 1}}, "additionalProperties": False}, [{"xa": 1}], [{"xa": 2}, {"a": 1}]),
    ({"anyOf": [{"const": 1}, {"const": 2}]}, [1, 2], [3]),
    ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, [1, 5.5, "x"], [7, 1.5]),
    ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1], [0, 3]),
    ({"not": {"const": 1}}, [2], [1]),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, [1], [2]),
    ({"items": {"$ref": "#/prefixItems/0"}, "prefixItems": [{"const": 1}]}, [[1, 1]], [[1, 2]]),
    (
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
        [{"next": {"next": {}}}],
        [{"next": {"last": 1}}],
    ),
]


@pytest.mark.parametrize(("schema", "fitting", "unfitting"), CHECKED)
def test_data_is_held_against_every_keyword_that_is_named(
    schema: dict[str, Any], fitting: list[Any], unfitting: list[Any]
) -> None:
    well_formed(schema)
    assert [value for value in fitting if mismatches(value, schema)] == []
    assert [value for value in unfitting if not mismatches(value, schema)] == []


# -- strict mode


@pytest.mark.parametrize("model", [Cat, Person, Cat | Dog, list[Cat], Mood, Literal["a", "b"], Positive, Review])
def test_in_strict_mode_every_object_is_closed_all_is_required_and_everything_has_a_type(model: Any) -> None:
    told = form_of(model).strict
    assert told is not None
    checked = 0
    for node in objects_in(told):
        if "properties" in node and isinstance(node["properties"], dict):
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
            checked += 1
        if {"properties", "enum", "items"} & node.keys():
            assert "type" in node
        assert not {"default", "minLength", "discriminator", "oneOf", "allOf"} & node.keys()
        assert "$ref" not in node or len(node) == 1
    assert checked


def objects_in(node: Any) -> list[dict[str, Any]]:
    """Every schema in a schema; what stands under `properties` is none itself."""
    if isinstance(node, list):
        return [found for part in node for found in objects_in(part)]
    if not isinstance(node, dict):
        return []
    named = [part for key in ("properties", "$defs") for part in node.get(key, {}).values()]
    others = [value for key, value in node.items() if key not in ("properties", "$defs")]
    return [node, *objects_in(named), *objects_in(others)]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "properties": {"a": True}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        {"type": "object", "properties": {"a": {"type": "array", "minItems": 1, "items": {"type": "integer"}}}},
        {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"type": "object", "properties": {}, "patternProperties": {"x": {}}},
        {"type": "object", "allOf": [{"properties": {}}, {"properties": {}}]},
        {"type": "object", "properties": {}, "anyOf": [{"required": ["a"]}]},
    ],
)
def test_what_strict_mode_cannot_say_is_not_said_wrongly(schema: dict[str, Any]) -> None:
    """Free keys, no type, or a property that may be left out and has no blank: the provider is told without strictness."""
    assert strict(schema) is None
    form = form_of(schema)
    told = ask_for(Request([]), form, "json_schema").params["response_format"]["json_schema"]
    assert (told["strict"], told["schema"]) == (False, form.schema)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "integer", "default": 3}, {"type": "integer"}),
        ({"type": "string", "format": "date", "default": ""}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "uri", "default": ""}, {"type": "string"}),
        ({"default": 1, "anyOf": [{"enum": [1, "a"]}]}, {"anyOf": [{"enum": [1, "a"], "type": ["integer", "string"]}]}),
        ({"oneOf": [{"const": 1}, {"type": "null"}]}, {"anyOf": [{"const": 1, "type": "integer"}, {"type": "null"}]}),
        ({"type": ["integer", "null"]}, {"type": ["integer", "null"]}),
        ({"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "integer"}}),
        ({"$ref": "#", "description": "d", "default": None}, {"anyOf": [{"$ref": "#"}], "description": "d"}),
        ({"allOf": [{"$ref": "#"}], "default": None, "description": "d"}, {"anyOf": [{"$ref": "#"}], "description": "d"}),
    ],
)  # fmt: skip
def test_a_part_that_strict_mode_knows_otherwise_is_told_its_way(part: dict[str, Any], told: dict[str, Any]) -> None:
    """Keywords that it does not know are left out: they only narrow, and are checked when the answer is read."""
    found = strict({"type": "object", "properties": {"a": part}})
    assert found == {"type": "object", "properties": {"a": told}, "required": ["a"], "additionalProperties": False}


def test_defaults_are_kept_where_strict_mode_is_not_asked_for() -> None:
    assert '"default":4' in instructions(form_of(Dog))
    assert "default" not in json.dumps(form_of(Dog).strict)


# -- asking

NATIVE: dict[str, Native] = {"anthropic": "none", "builtin": "none", "deepseek": "json_object"}


@pytest.mark.parametrize("service", sorted(SERVICES))
@pytest.mark.parametrize("model", [Review, Person, Point, Cat, WEATHER, list[Review]])
def test_every_service_is_asked_in_the_form_that_it_knows(service: str, model: Any) -> None:
    native = NATIVE.get(service, "json_schema")
    assert SERVICES[service].native == native
    form = form_of(model)
    asked = ask_for(Request([{"role": "user", "content": "hi"}], "m", {"seed": 1}), form, native)
    told = asked.params.get("response_format")
    assert (asked.model, asked.params["seed"]) == ("m", 1)
    if native == "json_schema":
        assert told == {
            "type": "json_schema",
            "json_schema": {
                "name": form.name,
                "strict": form.strict is not None,
                "schema": form.strict or form.schema,
            },
        }
        assert asked.messages == [{"role": "user", "content": "hi"}]
        return
    assert told == ({"type": "json_object"} if native == "json_object" else None)
    assert asked.messages == [{"role": "system", "content": instructions(form)}, {"role": "user", "content": "hi"}]
    assert json.dumps(form.schema, separators=(",", ":"), ensure_ascii=False) in asked.messages[0]["content"]


@pytest.mark.parametrize(
    ("first", "content"),
    [
        ({"role": "system", "content": "Be brief."}, "Be brief.\n\n{}"),
        ({"role": "developer", "content": "Be brief."}, "Be brief.\n\n{}"),
        (
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "{}"}],
        ),
    ],
)
def test_instructions_join_a_system_message_that_is_there(first: dict[str, Any], content: Any) -> None:
    """Many models take one, and only as the first; the caller's own message is not changed."""
    form = form_of(Mood)
    before = json.dumps(first)
    asked = ask_for(Request([first, {"role": "user", "content": "hi"}]), form, "none")
    told = instructions(form)
    expected = content.format(told) if isinstance(content, str) else [content[0], {"type": "text", "text": told}]
    assert asked.messages[0] == {"role": first["role"], "content": expected}
    assert len(asked.messages) == 2
    assert json.dumps(first) == before


@pytest.mark.parametrize("native", ["json_schema", "json_object", "none"])
def test_a_form_of_the_callers_own_beside_a_model_is_refused(native: Native) -> None:
    with pytest.raises(UsageError, match="response_model or response_format, not both"):
        ask_for(Request([], params={"response_format": {"type": "text"}}), form_of(Review), native)


@pytest.mark.parametrize("native", ["json_schema", "json_object", "none"])
def test_a_correction_shows_the_answer_the_error_and_the_schema_once(native: Native) -> None:
    """Where the form is native, a service that dropped it has never shown the schema, so that the correction does."""
    form = form_of(Review)
    correction = correction_of("nonsense", Unfit("at $: why"), form, native)
    asked = ask_for(Request([{"role": "user", "content": "hi"}]), form, native, correction)
    assert [message["role"] for message in asked.messages[-3:]] == ["user", "assistant", "user"]
    assert asked.messages[-2]["content"] == "nonsense"
    assert "at $: why" in asked.messages[-1]["content"]
    assert json.dumps(asked.messages).count("must fit this JSON schema") == 1


def test_an_empty_answer_is_shown_by_a_word() -> None:
    """Some services refuse a message without content."""
    assert correction_of("", Unfit("x"), form_of(Review), "none")[0]["content"]


@pytest.mark.parametrize(
    ("kind", "message", "param", "native", "less"),
    [
        ("invalid_request", "openai answered 400: Invalid schema for response_format 'R'", None, "json_schema", "json_object"),
        ("invalid_request", "'response_format' of type 'json_schema' is not supported", None, "json_schema", "json_object"),
        ("invalid_request", "response format is unavailable", None, "json_object", "none"),
        ("invalid_request", "JSON mode is not supported", None, "json_object", "none"),
        ("invalid_request", "not for this model", "response_format", "json_schema", "json_object"),
        ("invalid_request", "response_format is unavailable", None, "none", None),
        ("invalid_request", "Invalid schema for function 'f'", "tools[0]", "json_schema", None),
        ("invalid_request", "temperature is too high", None, "json_schema", None),
        ("context_too_long", "the json_schema is too long", None, "json_schema", None),
        ("server_error", "response_format", None, "json_schema", None),
    ],
)  # fmt: skip
def test_a_service_that_refuses_the_form_is_asked_in_a_weaker_one(
    kind: Any, message: str, param: str | None, native: Native, less: Native | None
) -> None:
    assert weaker(native, request_error(kind, message, status=400, param=param)) == less
