from __future__ import annotations

import importlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_mlctx.services import state, store
from pytest_mlctx.services.state import mlflow_stores
from pytest_mlctx.services.store import template


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCTX_CACHE_DIR", str(folder))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
        yield folder


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    importlib.import_module("mlflow")
    before = state.capture("mlflow", "environment")
    yield
    state.restore(before)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MLflow's SQLite stores are built by us, and the working folder is empty."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    store.install_builders()
    return folder


@pytest.fixture
def temporary(served: Path, tmp_path: Path) -> Iterator[store.Store]:
    import mlflow

    made = store.Store(tmp_path / "session" / "store.db")
    mlflow.set_tracking_uri(made.uri)
    mlflow.set_registry_uri(made.uri)
    yield made
    made.close()


@pytest.fixture(scope="session")
def made_by_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that MLflow made without any help of ours but the silence."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = tmp_path_factory.mktemp("by-hand") / "mlflow.db"
    with template._undisturbed():
        SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "mlartifacts")).engine.dispose()
    for engines in mlflow_stores.engines().values():
        engines.pop(f"sqlite:///{path}", None)
    return path


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found


def content(path: Path) -> tuple[dict[str, str], dict[str, list[tuple[object, ...]]]]:
    """Schema and rows, the creation timestamps of experiments and the place of the file aside."""
    named = "SELECT type || ' ' || name, sql FROM sqlite_master"
    # MLflow's migrations put the constraints of a table in an order that differs from time to time.
    schema = {
        str(name): "\n".join(sorted(line.rstrip(", ") for line in str(sql).splitlines()))
        for name, sql in query(path, named)
    }
    tables = [name.removeprefix("table ") for name in schema if name.startswith("table ")]
    rows = {table: query(path, f'SELECT * FROM "{table}"') for table in tables}
    columns = [str(row[1]) for row in query(path, "PRAGMA table_info(experiments)")]
    rows["experiments"] = [
        tuple(
            str(value).replace(str(path.parent), "") if name == "artifact_location" else value
            for name, value in zip(columns, row, strict=True)
            if not name.endswith("_time")
        )
        for row in rows["experiments"]
    ]
    return schema, rows


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
