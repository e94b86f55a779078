"""One tracking store for all tests of this folder, and a process that each of them finds as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pytest_mlctx.services import state

EVERYTHING: tuple[state.Library, ...] = ("mlflow", "loguru", "logging", "environment")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The URI of a migrated SQLite store."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("first", artifact_location=str(tmp_path_factory.mktemp("artifacts")))
    return uri


@pytest.fixture
def tracked(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """MLflow tracks to the store, as a user's conftest would make it; everything is put back by hand."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setattr("mlflow.tracking._model_registry.utils._registry_uri", None)
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    without_mlflow = {name: value for name, value in os.environ.items() if "MLFLOW_" not in name}
    with mock.patch.dict(os.environ, without_mlflow, clear=True):
        os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
        mlflow.set_tracking_uri(store)
        mlflow.set_experiment("first")
        yield store


@pytest.fixture
def before(tracked: Any) -> Iterator[Any]:
    """The state of everything before the test, which is put back after it whatever happens."""
    captured = state.capture(*EVERYTHING)
    yield captured
    state.restore(captured)


@pytest.fixture
def undone(before: Any) -> Any:
    """A function that restores, and asserts that everything is the very thing it was."""

    def check() -> list[str]:
        told = [change.sentence for change in state.compare(before, now()) if change.sentence]
        state.restore(before)
        left = state.compare(before, now())
        assert left == []
        assert {cell: value for cell, value in now().cells.items() if type(value) not in (str, int, float)}
        return told

    def now() -> state.State:
        return state.capture(*EVERYTHING)

    return check
