"""Tests that use MLflow's default store while no service runs: the first of them is reported."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.findings import DefaultStoreUse
from pytest_mlctx.lifecycle import Observer

_VARIABLE = "MLFLOW_TRACKING_URI"
_LATE = 0.01  # seconds by which the clock of a file system may be


class FirstUse(Observer):
    """Listens, where the session uses services, until it has heard of one test.

    A store that code names itself, or a working folder of its own, is its own way and of no concern.
    """

    def __init__(self) -> None:
        from pytest_mlctx.services import import_hooks

        self._ambient, self._folder = os.environ.get(_VARIABLE), Path.cwd()
        self._item: pytest.Item | None = None
        self._store = ""
        self._stack = ExitStack()
        self._stack.enter_context(import_hooks.once_imported("mlflow", self._listen))

    def _listen(self) -> None:
        from pytest_mlctx.services.store import listening

        self._stack.enter_context(listening.each_use(self._hear))

    def _hear(self, uri: str) -> None:
        import mlflow

        from pytest_mlctx.services import credentials, defaults

        if self._item is None or self._store or defaults.held is not None:
            return
        by_default = os.environ.get(_VARIABLE) == self._ambient and uri == mlflow.get_tracking_uri()
        if by_default and (self._ambient or Path.cwd() == self._folder):
            self._store = credentials.redact(uri)

    def close(self) -> None:
        """Listen no longer."""
        self._stack.close()

    def before_setup(self, item: pytest.Item) -> None:
        """Begin a test; its fixtures of higher scope count as its own."""
        self._item = item

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Hand over which test it was, and what it used."""
        if report.when == "teardown":
            self._item = None
            if self._store:
                DefaultStoreUse.attach(report, (item.nodeid, f"used {self._store} with no service in force"))
                self.close()
                self._store = ""


def writer(files: list[Path], reports: Iterable[Any]) -> tuple[str, str]:
    """The test that made the first of these files of MLflow's, by the clock, and what it left.

    So a session that uses no service need not be followed. Of tests that are quick, or ran at the same moment
    under xdist, all are named.
    """
    made = min((moment for file in files for moment in _moments(file)), default=None)
    timed = [report for report in reports if hasattr(report, "start") and hasattr(report, "nodeid")]
    tests = {report.nodeid: None for report in timed if made and report.start - _LATE <= made <= report.stop}
    left = f"left {', '.join(file.name for file in files)} in {files[0].parent}"
    return " or ".join(tests) or "a test", left


def _moments(path: Path) -> Iterator[float]:
    """When parts of it were made that are not written to again: folders, and a store's first experiment."""
    with suppress(OSError, sqlite3.Error):
        if path.is_dir():
            yield path.stat().st_mtime
            for depth in ("*", "*/*", "*/*/*"):
                yield from (found.stat().st_mtime for found in path.glob(depth) if found.is_dir())
        else:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as store:
                (made,) = store.execute("SELECT min(creation_time) FROM experiments").fetchone()
                yield made / 1000
