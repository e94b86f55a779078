"""Differences of rows between two savepoints of a store, and a savepoint with such differences applied."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pytest_mlctx.services.store.savepoint import Savepoint

_EXPERIMENTS = re.compile('INSERT INTO "experiments" ')


@dataclass(frozen=True)
class Layer:
    """Rows that came and rows that went, by the statement that inserts into their table."""

    added: dict[str, list[Any]]
    removed: dict[str, set[Any]]


def between(before: Savepoint, after: Savepoint, *, experiment: str = "") -> Layer:
    """What came and went; the experiment of this id, and those that rows name which came, count as come."""
    old, new = dict(before.rows), dict(after.rows)
    seen = {statement: set(rows) for statement, rows in old.items()}
    added = {
        statement: [row for row in rows if row not in seen.get(statement, ())]
        for statement, rows in new.items()
    }
    named = {experiment} | {
        str(row[place])
        for statement, rows in added.items()
        for place in _places(statement, "experiment_id")
        for row in rows
    }
    for statement in filter(_EXPERIMENTS.match, new):
        (place,), come = _places(statement, "experiment_id"), set(added[statement])
        added[statement] = [row for row in new[statement] if row in come or str(row[place]) in named]
    removed = {statement: rows - set(new.get(statement, ())) for statement, rows in seen.items()}
    return Layer(
        {statement: rows for statement, rows in added.items() if rows},
        {statement: rows for statement, rows in removed.items() if rows},
    )


def stacked(base: Savepoint, layers: Iterable[Layer]) -> Savepoint:
    """The savepoint with the layers on it, the earliest first."""
    rows = {statement: dict.fromkeys(values) for statement, values in base.rows}
    for layer in layers:
        for statement, gone in layer.removed.items():
            for row in gone:
                rows.get(statement, {}).pop(row, None)
        for statement, come in layer.added.items():
            rows.setdefault(statement, {}).update(dict.fromkeys(come))
    # A row may have changed in a layer whose own base is gone: the last to say so wins.
    return replace(
        base,
        rows=tuple(
            (statement.replace("INSERT", "INSERT OR REPLACE", 1), list(values))
            for statement, values in rows.items()
            if values
        ),
    )


def _places(statement: str, column: str) -> list[int]:
    """Where a row of the statement has the column, if it has."""
    columns = re.findall(r'"(\w+)"', statement.partition("(")[2])
    return [place for place, name in enumerate(columns) if name == column]
