"""Gates: a metric's present value compared with its history, in pure functions."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any, Literal, NamedTuple

Operator = Literal[">=", "<=", "=="]
Verdict = Literal["held", "fallen", "undecided", "recorded"]

_BARS = "▁▂▃▄▅▆▇█"
# One value of now and the median of five, both noisy: 1 in 100 unchanged runs differs by more (2.33 * 1.14).
_TELLS_APART = 2.7
_CONFIDENCE = 0.95


class Past(NamedTuple):
    """One value of the history."""

    value: float
    values: tuple[float, ...]
    """Those that `value` is the mean of, where it was a list."""
    commit: str
    started: float
    """Seconds since the epoch."""


class Allowance(NamedTuple):
    """How much worse a value may be: the larger of both."""

    rel: float
    abs: float

    def of(self, baseline: float) -> float:
        """In the unit of the metric."""
        return max(self.rel * abs(baseline), self.abs)

    def __str__(self) -> str:
        given = {"rel": self.rel, "abs": self.abs}
        return ", ".join(f"{name}={value:g}" for name, value in given.items() if value) or "rel=0"


class Gate(NamedTuple):
    """One comparison, as plain data: it travels with the report of its test."""

    metric: str
    operator: Operator
    value: float
    values: tuple[float, ...]
    verdict: Verdict
    baseline: float | None = None
    """The median of the history; None where there is none yet."""
    allowed: float = 0.0
    history: tuple[float, ...] = ()
    """Newest first."""
    lines: tuple[str, ...] = ()
    """What a failure says."""
    drifts: bool = False

    def packed(self) -> dict[str, Any]:
        """As xdist can carry it."""
        fields = self._asdict()
        return {name: [*value] if isinstance(value, tuple) else value for name, value in fields.items()}

    @property
    def change(self) -> str:
        """The difference from the baseline in words."""
        if self.baseline is None:
            return "new"
        return _difference(self.value, self.baseline)


def measured(value: Any) -> tuple[float, tuple[float, ...]]:
    """The number that a value is, or its mean and the numbers that it holds.

    Raises:
        TypeError: it is no number and no list of numbers; one sentence.
    """
    dimensions = getattr(value, "ndim", None)
    if isinstance(value, (str, bytes, Mapping)) or hasattr(value, "columns") or (dimensions or 0) > 1:
        raise TypeError(
            f"a {type(value).__name__} cannot be compared with a baseline: "
            "compare a number, or a list of the numbers of several trials."
        )
    if dimensions == 1 or isinstance(value, (list, tuple)):
        values = tuple(measured(each)[0] for each in value)
        if not values:
            raise TypeError("an empty list cannot be compared with a baseline.")
        return fmean(values), values
    try:
        return float(value.item() if hasattr(value, "item") else value), ()
    except (TypeError, ValueError):
        raise TypeError(
            f"a {type(value).__name__} cannot be compared with a baseline: compare a number."
        ) from None


def compare(
    metric: str,
    operator: Operator,
    value: float,
    values: tuple[float, ...],
    history: Sequence[Past],
    allowance: Allowance,
    *,
    against: str = "the baseline",
) -> Gate:
    """The verdict on a value, with what a failure says.

    Args:
        metric: its name.
        operator: ``>=`` allows a drop, ``<=`` a rise, ``==`` both ways.
        value: of now.
        values: those that it is the mean of, where a list is compared.
        history: what it is compared with, newest first, at least one.
        allowance: how much worse it may be.
        against: what the history is, in the sentence.
    """
    baseline = median(past.value for past in history)
    allowed = allowance.of(baseline)
    worse = _worse(operator, value, baseline)
    verdict: Verdict = "held" if worse <= allowed and math.isfinite(value) else "fallen"
    enough = ""
    pooled = [single for past in history for single in past.values]
    if len(values) > 1 and len(pooled) > 1 and math.isfinite(value) and find_spec("scipy"):
        verdict, enough = _of_trials(operator, values, pooled, allowed)
    past_values = tuple(past.value for past in history)
    return Gate(
        metric,
        operator,
        value,
        values,
        verdict,
        baseline,
        allowed,
        past_values,
        tuple(_told(metric, operator, value, history, allowance, against, verdict, enough)),
        _drifts(operator, value, past_values, allowed),
    )


def _worse(operator: Operator, value: float, baseline: float) -> float:
    """By how much the value is on the bad side of the baseline."""
    difference = baseline - value
    return {">=": difference, "<=": -difference, "==": abs(difference)}[operator]


def _of_trials(
    operator: Operator, values: Sequence[float], pooled: Sequence[float], allowed: float
) -> tuple[Verdict, str]:
    """Holds, falls, or too few to tell, by Welch's interval of the difference of the means."""
    ttest_ind: Any = import_module("scipy.stats").ttest_ind
    interval = ttest_ind(values, pooled, equal_var=False).confidence_interval(_CONFIDENCE)
    difference = fmean(values) - fmean(pooled)
    low, high = float(interval.low), float(interval.high)
    if math.isnan(low):  # no spread at all
        low = high = difference
    best, worst = {">=": (-high, -low), "<=": (low, high), "==": _around_zero(low, high)}[operator]
    if worst <= allowed:
        return "held", ""
    if best > allowed:
        return "fallen", ""
    margin = abs(allowed - _worse(operator, fmean(values), fmean(pooled))) or allowed
    many = math.ceil(len(values) * ((high - low) / 2 / margin) ** 2) if margin else None
    how_many = f": about {many} values would do" if many and many > len(values) else ""
    return "undecided", f"{len(values)} values are too few to tell{how_many}"


def _around_zero(low: float, high: float) -> tuple[float, float]:
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return nearest, max(abs(low), abs(high))


def _drifts(operator: Operator, value: float, history: Sequence[float], allowed: float) -> bool:
    """Whether values have gone one way, the bad one, by more than is allowed in sum, each within it."""
    if operator == "==" or len(history) < 3:
        return False
    course = [*reversed(history), value]
    steps = [_worse(operator, later, earlier) for earlier, later in pairwise(course)]
    return all(0 <= step <= allowed for step in steps) and sum(steps) > allowed


def _told(
    metric: str,
    operator: Operator,
    value: float,
    history: Sequence[Past],
    allowance: Allowance,
    against: str,
    verdict: Verdict,
    enough: str,
) -> list[str]:
    values = [past.value for past in history]
    baseline = median(values)
    allowed = allowance.of(baseline)
    spread = stdev(values) if len(values) > 1 else 0.0
    times = f", {abs(value - baseline) / spread:.1f} times its spread" if spread else ""
    verb = {"held": "holds", "fallen": "falls", "undecided": enough, "recorded": "is recorded"}[verdict]
    limits = {
        ">=": f"at least {baseline - allowed:.6g}",
        "<=": f"at most {baseline + allowed:.6g}",
        "==": f"{baseline:.6g} ± {allowed:.6g}",
    }
    sources = ", ".join(_source(past) for past in history)
    lines = [
        f"{metric} {value:.6g} against {against} {baseline:.6g}: {verb}, {limits[operator]} is asked for",
        f"difference: {_difference(value, baseline)}{times}; allowed: {allowed:.6g} ({allowance})",
        f"median of {len(history)}: {sources}",
        f"history: {sparkline([*reversed(values), value])} (the last is this value)",
    ]
    if not math.isfinite(value):
        lines[1:] = ["NaN and infinity never pass"]
    elif spread > allowed:
        lines.append(
            f"the history spreads by {spread:.3g}, more than is allowed: this gate cannot tell a drop from "
            f"noise; an allowance of {_TELLS_APART * spread:.3g} could"
        )
    return lines


def _source(past: Past) -> str:
    day = time.strftime("%Y-%m-%d", time.localtime(past.started))
    return f"{past.value:.6g} ({f'{past.commit[:7]} ' if past.commit else ''}{day})"


def _difference(value: float, baseline: float) -> str:
    relative = f" ({(value - baseline) / abs(baseline):+.2%})" if baseline else ""
    return f"{value - baseline:+.6g}{relative}"


def sparkline(values: Sequence[float]) -> str:
    """The values as a line of bars, the oldest first."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "?" * len(values)
    low, height = min(finite), max(finite) - min(finite)

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return "?"
        return _BARS[round((value - low) / height * (len(_BARS) - 1))] if height else _BARS[3]

    return "".join(map(bar, values))
