"""Curves as SVG."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.drawing import HEIGHT, LABEL_HEIGHT, WIDTH, Axis, apart, plot, powers_around

SVG = "{http://www.w3.org/2000/svg}"
curves = st.dictionaries(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(1e-3, 1e9)), max_size=6),
    max_size=10,
)


@given(curves)
def test_every_curve_is_drawn_inside_the_picture_and_named(drawn: dict[str, list[tuple[float, float]]]) -> None:
    text = plot("A <title> & more", "us", drawn)
    told = {name: curve for name, curve in drawn.items() if curve}
    if not told:
        assert text == ""
        return
    root = ElementTree.fromstring(text)
    assert len(root.findall(f"{SVG}polyline")) == len(told)
    assert told.keys() <= {element.text for element in root.findall(f"{SVG}text")}
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == sum(map(len, told.values()))
    assert all(0 <= float(one.attrib["cx"]) <= WIDTH and 0 <= float(one.attrib["cy"]) <= HEIGHT for one in circles)


@pytest.mark.parametrize(("value", "place"), [(1, 100), (10, 150), (100, 200)])
def test_equal_factors_are_equal_distances(value: float, place: float) -> None:
    assert Axis(1, 100, 100, 200).at(value) == pytest.approx(place)


@pytest.mark.parametrize(
    ("values", "expected"), [([3, 250], (1, 1_000)), ([10, 100], (10, 100)), ([5, 5], (1, 10)), ([10], (10, 100))]
)
def test_an_axis_reaches_from_power_to_power(values: list[float], expected: tuple[float, float]) -> None:
    assert powers_around(values) == pytest.approx(expected)


@given(st.lists(st.floats(0, HEIGHT), max_size=12))
def test_labels_never_stand_on_each_other_nor_below_the_picture(places: list[float]) -> None:
    moved = apart(places, LABEL_HEIGHT, HEIGHT)
    in_order = sorted(range(len(places)), key=places.__getitem__)
    assert all(moved[below] - moved[above] >= LABEL_HEIGHT - 1e-6 for above, below in pairwise(in_order))
    assert all(place <= HEIGHT for place in moved)


def test_a_label_that_has_room_stays() -> None:
    assert apart([300, 100, 200], LABEL_HEIGHT, HEIGHT) == [300, 100, 200]
