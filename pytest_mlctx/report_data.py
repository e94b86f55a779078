"""Identity, runs, params, metrics and gates of a test, attached to its reports for the recording."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx.lifecycle import Observer
from pytest_mlctx.options import RECORD_MARKER

if TYPE_CHECKING:
    from mlflow.entities import Run

    from pytest_mlctx.gates import Gate
    from pytest_mlctx.tracking import OpenedRun, Tracking

IDENTITY, TRACKED = "mlctx_test", "mlctx_tracked"
"""The attributes of reports: of each setup's, and of the teardown's and the first that failed."""
_REPR = reprlib.Repr()  # one that fails, or is endless, harms nobody
_REPR.maxstring = _REPR.maxother = 200
_MOST_RUNS = 100  # whose params and metrics a record takes over


class ReportData(Observer):
    """Follows each test and the runs that it opens, on whatever store."""

    def __init__(self, tracking: Tracking, store_uri: str) -> None:
        from pytest_mlctx.services import import_hooks

        self._tracking = tracking
        self._store_uri = store_uri  # of the records
        self._marked: Mapping[str, Any] | None = None
        self._failed: pytest.TestReport | None = None
        self.gates: list[Gate] = []  # of the test that runs
        self.key: str = ""  # by which it wants its history to be found
        self._stack = ExitStack()
        self._stack.enter_context(import_hooks.once_imported("mlflow", self._listen))

    def _listen(self) -> None:
        from pytest_mlctx.services import runs

        self._stack.enter_context(runs.tagging(lambda uri, experiment_id: {}, self._tracking.opened))

    def close(self) -> None:
        """Follow runs no longer."""
        self._stack.close()

    def before_setup(self, item: pytest.Item) -> None:
        """Begin a test, or another attempt at it; a marker that is written wrong is an error of it."""
        self._failed, self._marked = None, None
        self.gates, self.key = [], ""
        try:
            self._marked = _marks(item)
        except TypeError as error:
            told = f"the marker mlctx_record {error}; it is {RECORD_MARKER}."
            raise pytest.fail.Exception(told, pytrace=False) from None

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Attach to the setup's report who the test is, to the last what it tracked.

        A plugin that runs a test again hands no teardown out, but the report that failed.
        """
        marked = self._marked
        if marked is None:
            return
        if report.when == "setup":
            vars(report)[IDENTITY] = {
                "name": marked.get("name") or item.name,
                "tags": {**self._tracking.session_tags, **_tags(item), **_marked_tags(marked)},
            }
        if report.failed and self._failed is None:
            self._failed = report
        if report.when == "teardown":
            tracked = {
                "runs": _tracked(self._tracking.runs, self._store_uri),
                "gates": [gate.packed() for gate in self.gates],
                "key": self.key,
            }
            for carrier in filter(None, (report, self._failed)):
                vars(carrier)[TRACKED] = tracked


def _marks(item: pytest.Item) -> Mapping[str, Any] | None:
    """What markers say of the test's record, the closest last; None where there is to be none."""
    said: dict[str, Any] = {"record": True}
    for marker in reversed([*item.iter_markers("mlctx_record")]):
        for unknown in marker.kwargs.keys() - {"record", "name", "description", "tags"}:
            raise TypeError(f"has no {unknown!r}")
        if len(marker.args) > 1 or not isinstance(marker.kwargs.get("tags") or {}, Mapping):
            raise TypeError("takes one bool, and tags as a dict")
        said.update(marker.kwargs)
        if marker.args:
            said["record"] = marker.args[0]
    return said if said["record"] else None


def _marked_tags(marked: Mapping[str, Any]) -> dict[str, str]:
    tags = {str(key): str(value) for key, value in (marked.get("tags") or {}).items()}
    if marked.get("description"):
        tags["mlflow.note.content"] = str(marked["description"])
    return tags


def _tags(item: pytest.Item) -> dict[str, str]:
    tags = {"mlctx.file": item.nodeid.partition("::")[0]}
    test_class, function = getattr(item, "cls", None), getattr(item, "originalname", None)
    if test_class is not None:
        tags["mlctx.class"] = test_class.__name__
    if function:
        tags["mlctx.function"] = function
    parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    for name, value in parameters.items():
        tags[f"mlctx.parameter.{name}"] = _REPR.repr(value)
    markers = [
        _marker(mark) for mark in item.iter_markers() if mark.name not in ("parametrize", "mlctx_record")
    ]
    if markers:
        tags["mlctx.markers"] = ", ".join(markers)
    return tags


def _marker(mark: pytest.Mark) -> str:
    named = [f"{name}={_REPR.repr(value)}" for name, value in mark.kwargs.items()]
    arguments = ", ".join([*map(_REPR.repr, mark.args), *named])
    return f"{mark.name}({arguments})" if arguments else mark.name


def _tracked(opened: list[OpenedRun], store_uri: str) -> dict[str, Any]:
    """Params, last metrics, and the runs that become children of the record; a run that is gone has none."""
    tracked: dict[str, Any] = {"count": len(opened), "params": {}, "metrics": {}, "children": []}
    if not opened:
        return tracked
    from pytest_mlctx.services import runs

    found = [
        (uri, run)
        for uri in dict.fromkeys(run.store_uri for run in opened)
        for run in runs.read(uri, [each.run_id for each in opened[:_MOST_RUNS] if each.store_uri == uri])
    ]
    for (uri, run), prefix in zip(found, _prefixes([run for _, run in found]), strict=True):
        tracked["params"].update({prefix + key: value for key, value in run.data.params.items()})
        tracked["metrics"].update({prefix + key: value for key, value in run.data.metrics.items()})
        if uri == store_uri and "mlflow.parentRunId" not in run.data.tags:
            tracked["children"].append(run.info.run_id)
    return tracked


def _prefixes(found: list[Run]) -> Iterator[str]:
    """None for a single run, else the name of each, with the start of its id where names repeat."""
    names = [run.info.run_name or "" for run in found]
    for run, name in zip(found, names, strict=True):
        alike = f" {run.info.run_id[:8]}" if names.count(name) > 1 else ""
        yield f"{name}{alike}/" if len(found) > 1 else ""
