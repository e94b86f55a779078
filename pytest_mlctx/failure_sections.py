"""Report sections of a failing test: its MLflow runs, traces and alerts, and the server's log."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx.lifecycle import Observer

if TYPE_CHECKING:
    from mlflow.entities import Run, Trace

    from pytest_mlctx.services.server import Server
    from pytest_mlctx.tracking import OpenedRun, Tracking

_BESIDE_A_RUN = (
    "mlflow_run is the active run of this test: where the code under test opens its own, "
    "request mlflow_service instead, or open it with nested=True."
)
_MOST_RUNS = _MOST_TRACES = 10
_MOST_SPANS = 50
_LAST_LINES = 40  # of the server's log
_MOST_FILES = 200  # that are asked for; a line shows fewer
_DEADLINE = 5.0  # seconds for all that a store is asked about a test


class FailureSections(Observer):
    """Adds the sections "MLflow runs", "MLflow traces", "Alerts" and "MLflow server" beside pytest's own."""

    def __init__(
        self,
        config: pytest.Config,
        tracking: Tracking,
        *,
        server: Callable[[], Server | None],
        traces: Callable[[], list[Trace]],
    ) -> None:
        self._wanted = config.option.showcapture != "no"
        self._tracking, self._server, self._traces = tracking, server, traces
        self._sent = 0  # alerts of the tests before
        self._logged = 0  # bytes of the server's log before the test

    def before_setup(self, item: pytest.Item) -> None:
        """Count the alerts of the tests before, and what their requests have left in the server's log."""
        self._sent = len(_alerts())
        served = self._server()
        self._logged = 0 if served is None else Path(served.log).stat().st_size

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Say what was tracked until a phase of the test failed."""
        if not (report.failed and self._wanted):
            return
        runs = [run for run in self._tracking.runs_of_fixtures if run.fixture in _requested(item)]
        if "is already active" in str(report.longrepr) and "mlflow_run" in _requested(item):
            report.sections.append(("mlctx", _BESIDE_A_RUN))
        lines = _told([*self._tracking.runs, *runs])
        if lines:
            report.sections.append(("MLflow runs", "\n".join(map(_cut, lines))))
        served = self._server()
        if served is not None and "mlflow_server" in _requested(item):
            log = Path(served.log).read_bytes()[self._logged :].decode(errors="replace")
            last = log.splitlines()[-_LAST_LINES:]
            if last:
                report.sections.append(("MLflow server", "\n".join(last)))
        traces = _of_traces(self._traces())
        if traces:
            report.sections.append(("MLflow traces", "\n".join(map(_cut, traces))))
        alerts = [f"{alert.level} {alert.title}: {alert.message}" for alert in _alerts()[self._sent :]]
        if alerts:
            report.sections.append(("Alerts", "\n".join(map(_cut, alerts))))


def _of_traces(traces: list[Trace]) -> list[str]:
    from pytest_mlctx.services.traces import lines

    told = [line for trace in traces[:_MOST_TRACES] for line in islice(lines(trace), _MOST_SPANS)]
    more = len(traces) - _MOST_TRACES
    return [*told, f"… and {more} more traces"] if more > 0 else told


def _requested(item: pytest.Item) -> Iterable[str]:
    names: Iterable[str] = getattr(item, "fixturenames", ())
    return names


def _alerts() -> list[Any]:
    if "pytest_mlctx.services.alerts" not in sys.modules:  # nor is it imported for this
        return []
    from pytest_mlctx.services import AlertsService, ServiceError

    try:
        return AlertsService.current().sent
    except ServiceError:
        return []


def _told(runs: list[OpenedRun]) -> list[str]:
    """The lines for these runs; a store that is away by now costs seconds, and one line."""
    from pytest_mlctx.services import deadline

    if not runs:
        return []
    try:
        return deadline.within(_DEADLINE, lambda: list(_lines(runs)))
    except Exception as error:
        return [f"cannot be read ({deadline.reason(error)})"]


def _lines(runs: list[OpenedRun]) -> Iterator[str]:
    import mlflow

    for opened in runs[:_MOST_RUNS]:
        client = mlflow.MlflowClient(opened.store_uri)
        try:
            run = client.get_run(opened.run_id)
        except mlflow.MlflowException:
            yield f"run {opened.run_id}: is in its store no more"
            continue
        yield _title(run, opened)
        if not opened.fixture:
            yield from _details(client, run)
    if len(runs) > _MOST_RUNS:
        yield f"… and {len(runs) - _MOST_RUNS} more runs"


def _title(run: Run, opened: OpenedRun) -> str:
    info = run.info
    seconds = f", {(info.end_time - info.start_time) / 1000:.2f} s" if info.end_time else ""
    whose = f", of fixture {opened.fixture!r}" if opened.fixture else ""
    return f"run {info.run_name} ({info.run_id[:8]}…): {info.status}{seconds}{whose}"


def _details(client: Any, run: Run) -> Iterator[str]:
    data = run.data
    tags = {key: value for key, value in data.tags.items() if not key.startswith(("mlflow.", "mlctx."))}
    kinds = {
        "params": [f"{key}={value}" for key, value in data.params.items()],
        "metrics": [_metric(client, run.info.run_id, key, value) for key, value in data.metrics.items()],
        "tags": [f"{key}={value}" for key, value in tags.items()],
        "artifacts": [
            f"{path} {_size(size)}"
            for path, size in islice(_artifacts(client, run.info.run_id, ""), _MOST_FILES)
        ],
    }
    for kind, entries in kinds.items():
        if entries:
            yield _listed(f"    {kind}: ", entries)


def _listed(line: str, entries: list[str]) -> str:
    """As many of the entries as fit, the first in any case, and the count of the others."""
    for place, entry in enumerate(entries):
        others = f", … and {len(entries) - place} more"
        if place and len(line) + len(entry) + len(others) > _width():
            return line + others
        line += f", {entry}" if place else entry
    return line


def _metric(client: Any, run_id: str, key: str, last: float) -> str:
    history = client.get_metric_history(run_id, key)
    if len(history) < 2:
        return f"{key}={last:.6g}"
    first = min(history, key=lambda metric: (metric.step, metric.timestamp))
    return f"{key}={first.value:.6g} → {last:.6g} in {len(history)} steps"


def _artifacts(client: Any, run_id: str, folder: str) -> Iterator[tuple[str, int]]:
    for entry in client.list_artifacts(run_id, folder or None):
        if entry.is_dir:
            yield from _artifacts(client, run_id, entry.path)
        else:
            yield entry.path, entry.file_size or 0


def _size(size: float) -> str:
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def _cut(line: str) -> str:
    line = " ".join(line.splitlines())
    return line if len(line) <= _width() else f"{line[: _width() - 1]}…"


def _width() -> int:
    return max(shutil.get_terminal_size().columns, 80)
