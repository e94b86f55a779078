"""Gates in the terminal summary and in Markdown, and a picture of each gate's history."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from pytest_mlctx.gates import Gate, sparkline


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


def row(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _or_none(baseline: float | None) -> str:
    return "none" if baseline is None else f"{baseline:.6g}"
