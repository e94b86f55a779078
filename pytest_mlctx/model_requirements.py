"""The requirements of the models that tests log: reused where they can be, and counted for the summary."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from pytest_mlctx.findings import InferredRequirements
from pytest_mlctx.lifecycle import Observer
from pytest_mlctx.services import children, requirements, store


class ModelRequirements(Observer):
    """Reuses requirements from its making to `close`, always or while a temporary store is in force."""

    def __init__(self, below: list[Path] | None) -> None:
        """Reuse on a temporary store only, in child processes on one below these folders; else always."""
        self._reuse = requirements.install((lambda: True) if below is None else _on_temporary_store)
        self._told = asdict(self._reuse.statistics)
        children.reach(below)

    def close(self) -> None:
        """Leave it to MLflow again."""
        children.leave()
        requirements.uninstall(self._reuse)

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Hand over with each test what became of its models."""
        now = asdict(self._reuse.statistics)
        if report.when == "teardown" and now != self._told:
            since = {name: now[name] - self._told[name] for name in ("reused", "inferred", "seconds")}
            InferredRequirements.attach(report, {**since, "refused": now["refused"]})
            self._told = now


def _on_temporary_store() -> bool:
    import mlflow

    return store.is_temporary(mlflow.get_tracking_uri())
