"""Objects that differ in what code could act on never have one digest; those that do not, always have."""

from __future__ import annotations

import dataclasses
import enum
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_mlctx.services.requirements.pickles import read_pickle


class Named(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Data:
    value: Any
    other: Any = "fixed"


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Reduced:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return Reduced, (self.value,)


class Choice(enum.Enum):
    ONE = "one"
    TWO = "two"


def wrapped(inner: Any) -> list[Any]:
    """The value within each thing that pickles in another way."""
    return [
        [inner, "after"],
        ("before", inner),
        {"key": inner},
        {"a": 1, "b": inner},
        Named(np.dtype("f8"), inner),
        Named(inner, (np.dtype("f8"), inner)),
        Data(inner),
        Slots(inner),
        Reduced(inner),
        [np.dtype("f8"), (inner,), np.float64(0.5)],
        [Choice.ONE, inner, Choice.ONE],
        [Reduced("x")] * 2 + [inner],
        np.array([inner, None], dtype=object),
    ]


leaves = st.one_of(
    st.text(max_size=8),
    st.integers(-1000, 1000),
    st.booleans(),
    st.none(),
    st.binary(max_size=4),
    st.floats(allow_nan=False),
    st.sampled_from(Choice),
    st.text("ab0", min_size=32, max_size=32),
    st.lists(st.booleans(), min_size=1, max_size=90).map(np.array),
    st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4).map(np.array),
    st.integers(-9, 9).map(np.int32),
    st.floats(width=32, allow_nan=False).map(np.float32),
    st.booleans().map(np.bool_),
    st.sampled_from(["f4", "f8", "i8", "b1", "U3"]).map(np.dtype),
    st.sets(st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=3),
)
small = st.one_of(
    st.integers(-1000, 1000),
    st.booleans(),
    st.integers(-1000, 1000).map(lambda number: number / 8),
    st.integers(-100, 100).map(np.int32),
    st.integers(-100, 100).map(lambda number: np.float64(number / 8)),
)
way = st.lists(st.integers(0, len(wrapped(None)) - 1), max_size=4)


def along(path: list[int], value: Any) -> Any:
    for step in path:
        value = wrapped(value)[step]
    return value


def tokens(value: Any, *, strict: bool) -> Any:
    return read_pickle(pickle.dumps(value, 5)).tokens(strict)


def alike(one: Any, other: Any) -> bool:
    return pickle.dumps(one, 5) == pickle.dumps(other, 5)


def prove(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(way, leaves, leaves)
    def differs(path: list[int], one: Any, other: Any) -> None:
        first, second = along(path, one), along(path, other)
        assert tokens(first, strict=True) == tokens(first, strict=True)
        if not alike(one, other):
            assert repr(tokens(first, strict=True)) != repr(tokens(second, strict=True))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(way, st.text(max_size=8), st.text(max_size=8))
    def differs_in_a_string(path: list[int], one: str, other: str) -> None:
        if one != other:
            first, second = along(path, f"s{one}"), along(path, f"s{other}")
            assert repr(tokens(first, strict=False)) != repr(tokens(second, strict=False))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(way, small, small)
    def differs_in_a_setting(path: list[int], one: Any, other: Any) -> None:
        if not alike(one, other):
            first, second = along(path, {"setting": one}), along(path, {"setting": other})  # each has a name
            assert repr(tokens(first, strict=False)) != repr(tokens(second, strict=False))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(way, st.lists(st.floats(), min_size=9, max_size=9), st.lists(st.floats(), min_size=9, max_size=9))
    def learned_floats_are_left_out(path: list[int], one: list[float], other: list[float]) -> None:
        first, second = along(path, np.array(one)), along(path, np.array(other))
        assert tokens(first, strict=False) == tokens(second, strict=False)

    differs()
    differs_in_a_string()
    differs_in_a_setting()
    learned_floats_are_left_out()


def test_digests_are_right() -> None:
    prove(150)


@pytest.mark.slow
def test_digests_are_right_of_many() -> None:
    prove(20_000)


def test_two_that_share_and_two_that_are_alike_differ() -> None:
    shared, alone = ["x"], ["x"]
    assert tokens([shared, shared], strict=True) != tokens([shared, alone], strict=True)
