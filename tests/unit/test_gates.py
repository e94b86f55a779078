"""Gates: properties of the verdict, and how often one fires, drawn from histories with known noise."""

from __future__ import annotations

import math
import random
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mlctx.gate_report import svg
from pytest_mlctx.gates import Allowance, Gate, Operator, Past, compare, measured, sparkline

DOCS = Path(__file__).parents[2] / "docs" / "gates.md"
OPERATORS: tuple[Operator, ...] = (">=", "<=", "==")

numbers = st.floats(-1e6, 1e6)
histories = st.lists(numbers, min_size=1, max_size=9)


def gate(
    operator: Operator,
    value: float,
    history: list[float],
    rel: float = 0.0,
    abs: float = 0.0,  # noqa: A002
) -> Gate:
    pasts = [Past(each, (), "", 0.0) for each in history]
    return compare("m", operator, value, (), pasts, Allowance(rel, abs))


@given(st.sampled_from(OPERATORS), numbers, histories, st.floats(0, 10), st.floats(0, 10), st.floats(0, 10))
def test_a_larger_allowance_lets_more_pass(
    operator: Operator,
    value: float,
    history: list[float],
    rel: float,
    abs: float,  # noqa: A002
    more: float,
) -> None:
    if gate(operator, value, history, rel, abs).verdict == "held":
        assert gate(operator, value, history, rel + more, abs).verdict == "held"
        assert gate(operator, value, history, rel, abs + more).verdict == "held"


@given(st.sampled_from(OPERATORS), numbers, histories, st.floats(0, 1), st.randoms())
def test_the_order_of_the_history_decides_nothing(
    operator: Operator, value: float, history: list[float], rel: float, shuffle: random.Random
) -> None:
    other = [*history]
    shuffle.shuffle(other)
    one, two = gate(operator, value, history, rel), gate(operator, value, other, rel)
    assert (one.verdict, one.baseline, one.allowed) == (two.verdict, two.baseline, two.allowed)


@given(st.sampled_from(OPERATORS), histories, st.floats(0, 1e9))
def test_no_number_never_passes(operator: Operator, history: list[float], allowed: float) -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert gate(operator, value, history, abs=allowed).verdict == "fallen"


@given(numbers, histories, st.floats(0, 1))
def test_two_ways_are_both_ways(value: float, history: list[float], rel: float) -> None:
    drop, rise, both = (gate(operator, value, history, rel).verdict for operator in OPERATORS)
    assert (both == "held") == (drop == rise == "held")


@given(histories, numbers)
def test_it_can_be_drawn(history: list[float], value: float) -> None:
    for each in (value, math.nan):
        drawn = gate(">=", each, history)
        ElementTree.fromstring(svg(drawn))
        assert len(sparkline([*history, each])) == len(history) + 1
        assert all(drawn.lines)


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [(1, (1.0, ())), (True, (1.0, ())), ([1, 2], (1.5, (1.0, 2.0))), ((3,), (3.0, (3.0,)))],
)
def test_what_is_measured(given_value: object, expected: tuple[float, tuple[float, ...]]) -> None:
    assert measured(given_value) == expected


def test_a_tensor_of_torch_is_a_number() -> None:
    torch = pytest.importorskip("torch")
    assert measured(torch.tensor(0.5)) == (0.5, ())


def fired(draw: random.Random, runs: int, allowance: float, drop: float, of: int = 1000) -> float:
    """Of so many histories of noise 1, the share in which the gate fires where the value has dropped."""
    falls = 0
    for _ in range(of):
        history = [100 + draw.gauss(0, 1) for _ in range(runs)]
        falls += gate(">=", 100 - drop + draw.gauss(0, 1), history, abs=allowance).verdict == "fallen"
    return falls / of


def table() -> str:
    draw = random.Random(20261127)
    lines = [
        "| `rel` or `abs` | `runs` | no drop | drops by 1 | by 2 | by 4 | by 6 |",
        "|---|---|---|---|---|---|---|",
    ]
    for allowance in (1, 2, 3, 4):
        for runs in (1, 5, 15):
            shares = [fired(draw, runs, allowance, drop) for drop in (0, 1, 2, 4, 6)]
            lines.append(f"| {allowance} | {runs} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    return "\n".join(lines)


@pytest.mark.slow
def test_the_docs_have_the_simulated_table() -> None:
    """Write it with: python tests/unit/test_gates.py."""
    assert table() in DOCS.read_text()


def test_more_history_and_more_allowance_mean_fewer_false_alarms() -> None:
    draw = random.Random(1)
    by_runs = [fired(draw, runs, 2, 0, 4000) for runs in (1, 3, 9)]
    by_allowance = [fired(draw, 5, allowance, 0, 4000) for allowance in (1, 2, 3)]
    assert all(fewer < more for more, fewer in pairwise(by_runs))
    assert all(fewer < more for more, fewer in pairwise(by_allowance))


def test_the_allowance_that_is_advised_tells_a_drop_from_noise() -> None:
    """What the sentence about noise names: of unchanged runs about one in a hundred falls."""
    draw = random.Random(2)
    assert fired(draw, 5, 2.7, 0, 10_000) < 0.015
    noisy = [100 + draw.gauss(0, 1) for _ in range(5)]
    assert "cannot tell a drop from noise" in gate(">=", 90, noisy, abs=0.1).lines[-1]
    assert "noise" not in gate(">=", 90, noisy, abs=5).lines[-1]


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
