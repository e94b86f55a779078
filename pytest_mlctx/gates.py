"""Gates: a value of now judged against a history of values, in pure functions, and what a verdict says."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import escape

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
        return max(self.rel * math.fabs(baseline), self.abs)

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


def judge(
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
    return {">=": difference, "<=": -difference, "==": math.fabs(difference)}[operator]


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
    margin = math.fabs(allowed - _worse(operator, fmean(values), fmean(pooled))) or allowed
    many = math.ceil(len(values) * ((high - low) / 2 / margin) ** 2) if margin else None
    how_many = f": about {many} values would do" if many and many > len(values) else ""
    return "undecided", f"{len(values)} values are too few to tell{how_many}"


def _around_zero(low: float, high: float) -> tuple[float, float]:
    nearest = 0.0 if low <= 0 <= high else min(math.fabs(low), math.fabs(high))
    return nearest, max(math.fabs(low), math.fabs(high))


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
    times = f", {math.fabs(value - baseline) / spread:.1f} times its spread" if spread else ""
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
    relative = f" ({(value - baseline) / math.fabs(baseline):+.2%})" if baseline else ""
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


def svg(gate: Gate) -> str:
    """The history and the value as a picture: the line of what is allowed, older values left."""
    baseline = gate.baseline if gate.baseline is not None else gate.value
    sign = 1 if gate.operator == "<=" else -1
    limit = baseline + sign * gate.allowed
    values = [*reversed(gate.history), gate.value]
    finite = [value for value in (*values, baseline, limit) if math.isfinite(value)] or [0.0]
    low, height = min(finite), (max(finite) - min(finite)) or 1.0
    step = 560 / max(len(values) - 1, 1)

    def y(value: float) -> float:
        return 160 - 120 * (value - low) / height

    points = [(20 + step * place, y(value)) for place, value in enumerate(values) if math.isfinite(value)]
    line = " ".join(f"{x:.1f},{height_of:.1f}" for x, height_of in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{height_of:.1f}" r="{5 if place == len(points) - 1 else 3}"/>'
        for place, (x, height_of) in enumerate(points)
    )
    title = escape(f"{gate.metric} {gate.value:.6g}, baseline {baseline:.6g}, {gate.verdict}")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 190" font-family="sans-serif">'
        f'<text x="20" y="22">{title}</text>'
        f'<path d="M20 {y(baseline):.1f}H580" stroke="#888"/>'
        f'<path d="M20 {y(limit):.1f}H580" stroke="#c33" stroke-dasharray="4"/>'
        f'<polyline points="{line}" fill="none" stroke="#27a"/><g fill="#27a">{dots}</g></svg>\n'
    )


def summary(by_test: Mapping[str, Sequence[Gate]], *, verbose: bool) -> list[str]:
    """The lines of a session: counts, those that drift, and with verbose all gates."""
    every = [(test, gate) for test, of_test in by_test.items() for gate in of_test]
    if not every:
        return []
    counts = Counter(gate.verdict for _, gate in every)
    lines = [f"mlctx: gates: {', '.join(f'{count} {verdict}' for verdict, count in sorted(counts.items()))}"]
    for test, gate in every:
        if verbose:
            baseline = _or_none(gate.baseline)
            value = f"{gate.metric} {gate.value:.6g}, baseline {baseline}, {gate.change}"
            lines.append(f"mlctx: {test}: {value}: {gate.verdict}")
        if gate.drifts:
            course = sparkline([*reversed(gate.history), gate.value])
            lines.append(
                f"mlctx: {test}: {gate.metric} drifts, each time within what is allowed ({course}): "
                "pin an anchor with --mlctx-baseline=pin where it was good"
            )
    return lines


def table(by_test: Mapping[str, Sequence[Gate]]) -> list[str]:
    """The same in Markdown."""
    rows = [
        row(
            (
                f"`{test}`",
                gate.metric,
                _or_none(gate.baseline),
                f"{gate.value:.6g}",
                gate.change,
                gate.verdict,
            )
        )
        for test, of_test in by_test.items()
        for gate in of_test
    ]
    head = ["| test | metric | baseline | value | change | gate |", "|---|---|---|---|---|---|"]
    return [*head, *rows, ""] if rows else []


def _cells(test: str, gate: Gate) -> tuple[str, ...]:
    baseline = _or_none(gate.baseline)
    return f"`{test}`", gate.metric, baseline, f"{gate.value:.6g}", gate.change, gate.verdict


def row(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _or_none(baseline: float | None) -> str:
    return "none" if baseline is None else f"{baseline:.6g}"
