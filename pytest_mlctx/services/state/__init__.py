"""Capture, compare and restore the process-wide state: MLflow, loguru, logging, environment, files, services.

The state is one flat mapping from cells to values. What a library has is described by its *kinds*
(:mod:`~pytest_mlctx.services.state.kinds`), one module for each library; here none is known by name.
"""

from __future__ import annotations

import gc
import logging as _logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pytest_mlctx.services import mlflow_internals
from pytest_mlctx.services.credentials import redact
from pytest_mlctx.services.state import environment, files, leases, loguru, mlflow
from pytest_mlctx.services.state import logging as _logging_state
from pytest_mlctx.services.state.files import expect, watch
from pytest_mlctx.services.state.kinds import ABSENT, Cell, Change, Held, Kind, Library, State, loaded, same

__all__ = [
    "ABSENT",
    "Cell",
    "Change",
    "Library",
    "State",
    "capture",
    "compare",
    "expect",
    "move",
    "renumbered",
    "restore",
    "same",
    "watch",
]

# In the order of restoring: MLflow fails in a working folder that was deleted; runs are closed in the store
# in force; loguru comes last to log until then.
_KINDS: Final[dict[Library, tuple[Kind, ...]]] = {
    "files": files.KINDS,
    "services": leases.KINDS,
    "mlflow": mlflow.KINDS,
    "environment": environment.KINDS,
    "logging": _logging_state.KINDS,
    "loguru": loguru.KINDS,
}
_PACKAGES: Final[dict[Library, str]] = {"mlflow": "mlflow", "loguru": "loguru"}


def capture(*libraries: Library) -> State:
    """The state of these libraries now; nothing is imported for it."""
    cells: dict[Cell, object] = {}
    pristine: list[Library] = []
    unread: list[str] = []
    for library in libraries:
        package = _PACKAGES.get(library)
        if package is not None and loaded(package) is None:
            pristine.append(library)
            continue
        unread += [kind.name for kind in _KINDS[library] if not _read(kind, cells)]
    return State(cells, frozenset(libraries), frozenset(pristine), frozenset(unread))


def _read(kind: Kind, cells: dict[Cell, object]) -> bool:
    name = kind.name
    if not all(map(mlflow_internals.known, kind.leans_on)):
        return False
    try:
        for key, value in kind.read():
            cells[name, key] = value
    except Exception:
        return False
    return True


def _known(state: State, later: State) -> Mapping[Cell, object]:
    """The cells of a state, with those of a library that was imported only later filled in."""
    imported = state.pristine - later.pristine
    if not imported:
        return state.cells
    cells = dict(state.cells)
    for library in imported:
        for kind in _KINDS[library]:
            now = {key: value for (name, key), value in later.cells.items() if name == kind.name}
            cells.update({(kind.name, key): value for key, value in kind.pristine(now).items()})
    return cells


def _differences(before: State, after: State) -> list[tuple[Kind, Change]]:
    old, new = _known(before, after), _known(after, before)
    changed = [cell for cell, value in new.items() if not same(old.get(cell, ABSENT), value)]
    changed += [cell for cell in old if cell not in new]
    if not changed:
        return []
    both, unread = before.libraries & after.libraries, before.unread | after.unread
    kinds = [kind for library in _KINDS if library in both for kind in _KINDS[library]]
    return [
        (kind, Change(cell, old.get(cell, ABSENT), new.get(cell, ABSENT)))
        for kind in kinds
        for cell in changed
        if cell[0] == kind.name
        and kind.name not in unread
        and not (cell not in old and kind.ignores_new(cell[1]))
        and not (cell not in new and kind.ignores_gone(cell[1]))
    ]


def compare(before: State, after: State) -> list[Change]:
    """What differs between two states, in the libraries that both cover, told in the user's words."""
    differences = _differences(before, after)
    became = {change.cell: change.after for _, change in differences}

    def sentence(kind: Kind, change: Change) -> str | None:
        key = change.cell[1]
        echoed = kind.echo_of(key)
        if echoed in became and same(_in_force(became[echoed]), change.after):
            return None
        try:
            return kind.tell(key, change.before, change.after)
        except Exception:  # of a user's object, such as its repr()
            return f"{kind.name} changed"

    return [replace(change, sentence=sentence(kind, change)) for kind, change in differences]


def _in_force(value: object) -> object:
    return value.thing[1] if isinstance(value, Held) and isinstance(value.thing, tuple) else value


def restore(before: State, *, elsewhere: bool = True) -> None:
    """Undo the differences between that state and now, each on its own, and nothing else.

    What cannot be put back, such as a run of a server that is away, is logged and does not keep the rest.

    Args:
        before: what is to be again.
        elsewhere: whether what belongs to other threads is undone too, such as a run that is open there.
    """

    def left() -> list[tuple[Kind, Change]]:
        return [
            (kind, change)
            for kind, change in _differences(before, capture(*before.libraries))
            if elsewhere or not kind.is_elsewhere(change.cell[1])
        ]

    differences = left()
    if any(kind.held_by_garbage for kind, _ in differences):
        gc.collect()
        differences = left()
    failures: list[Exception] = []
    undone: set[Cell] = set()
    while differences:
        changes: dict[Kind, list[Change]] = {}
        for kind, change in differences:
            changes.setdefault(kind, []).append(change)
            undone.add(change.cell)
        for kind, its_changes in changes.items():
            kind.undo_all(its_changes, failures)
        # Undoing has changed more, where it goes by MLflow's own functions; each cell gets one try.
        differences = [(kind, change) for kind, change in left() if change.cell not in undone]
    if failures:
        what = redact("; ".join(f"{type(failure).__name__}: {failure}" for failure in failures))
        _logging.getLogger(__name__).warning("Not all of the state could be restored: %s", what)


def move(baseline: State, before: State, after: State) -> State:
    """The baseline with the difference between two later states applied to it."""
    differences = _differences(before, after)
    if not differences:
        return baseline
    cells = dict(_known(baseline, after))
    for _, change in differences:
        if change.after is ABSENT:
            cells.pop(change.cell, None)
        else:
            cells[change.cell] = change.after
    return replace(baseline, cells=cells, pristine=baseline.pristine & after.pristine)


def renumbered(state: State, before: str, after: str) -> State:
    """The state with another id of the service's experiment, where it has the one before."""
    defaults: Any = state.cells.get(("mlflow.defaults", ""))
    if defaults is None or defaults.experiment_id != before:
        return state  # a variable alone is the user's, whose store may have an experiment of that id
    moved: dict[Cell, object] = {("mlflow.defaults", ""): defaults._replace(experiment_id=after)}
    variable: Cell = ("environment.variable", "MLFLOW_EXPERIMENT_ID")
    if state.cells.get(variable) == before:
        moved[variable] = after
    active: Any = state.cells.get(("mlflow.experiment", ""))
    if active is not None and before in active.thing:
        ids = tuple(after if value == before else value for value in active.thing)
        moved["mlflow.experiment", ""] = Held(ids[0], ids)
    return replace(state, cells={**state.cells, **moved})
