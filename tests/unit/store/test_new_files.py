"""A new SQLite file is what MLflow would have made of it, without its migrations."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services.state import mlflow_stores
from pytest_mlctx.services.store import new_files, template

from .conftest import content, query

pytestmark = pytest.mark.usefixtures("mlflow_imported", "put_back")


@pytest.fixture
def migrations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The databases that MLflow migrates; some versions do so whenever they open one."""
    from mlflow.store.db import utils

    template.image()  # which is migrated as well, where this is the first test to need it
    seen: list[str] = []
    original = utils._upgrade_db

    def upgrade(engine: Any) -> None:
        if engine.url.database not in seen:
            seen.append(engine.url.database)
        original(engine)

    monkeypatch.setattr(utils, "_upgrade_db", upgrade)
    return seen


def pragmas(path: Path) -> list[object]:
    names = ("journal_mode", "auto_vacuum", "encoding", "user_version", "application_id")
    return [query(path, f"PRAGMA {name}") for name in names]


def tracking(path: Path) -> None:
    import mlflow

    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()


def registry(path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{path}"
    mlflow.MlflowClient(uri, registry_uri=uri).search_registered_models()


def jobs(path: Path) -> None:
    pytest.importorskip("mlflow.store.jobs", reason="MLflow 2 has no jobs")
    from mlflow.store.jobs.sqlalchemy_store import SqlAlchemyJobStore

    SqlAlchemyJobStore(f"sqlite:///{path}")


@pytest.mark.parametrize("opens", [tracking, registry, jobs])
def test_the_file_is_the_one_that_mlflow_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrations: list[str], opens: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    opens(tmp_path / "its.db")
    assert migrations == [str(tmp_path / "its.db")]
    with new_files.from_template():
        opens(tmp_path / "ours.db")
    assert str(tmp_path / "ours.db") not in migrations
    assert pragmas(tmp_path / "ours.db") == pragmas(tmp_path / "its.db")
    assert content(tmp_path / "ours.db") == content(tmp_path / "its.db")


def test_afterwards_mlflow_migrates_again(tmp_path: Path, migrations: list[str]) -> None:
    with new_files.from_template():
        tracking(tmp_path / "ours.db")
    registry(tmp_path / "its.db")
    tracking(tmp_path / "its too.db")
    assert migrations == [str(tmp_path / "its.db"), str(tmp_path / "its too.db")]


def test_a_file_that_has_tables_is_left_to_mlflow(tmp_path: Path, migrations: list[str]) -> None:
    with closing(sqlite3.connect(tmp_path / "own.db")) as store:
        store.execute("CREATE TABLE own (n)")
    with new_files.from_template():
        tracking(tmp_path / "own.db")
    assert migrations == [str(tmp_path / "own.db")]
    assert query(tmp_path / "own.db", "SELECT * FROM own") == []


def test_a_store_that_was_made_is_not_migrated_when_it_is_opened_again(
    tmp_path: Path, migrations: list[str]
) -> None:
    with new_files.from_template():
        tracking(tmp_path / "ours.db")
        for engines in mlflow_stores.engines().values():
            engines.pop(f"sqlite:///{tmp_path}/ours.db", None)
        registry(tmp_path / "ours.db")
    assert migrations == []


def test_a_database_in_memory_is_left_to_mlflow(migrations: list[str]) -> None:
    import mlflow

    for engines in mlflow_stores.engines().values():
        engines.pop("sqlite://", None)
    with new_files.from_template():
        mlflow.MlflowClient("sqlite://").search_experiments()
    assert len(migrations) == 1


def test_it_waits_for_the_import_of_mlflow() -> None:
    """Nothing is imported for it, and what is imported later is served."""
    code = """
import sys
from pytest_mlctx.services.store import new_files
with new_files.from_template():
    assert "mlflow" not in sys.modules and "sqlalchemy" not in sys.modules
    import mlflow.store.db.utils as utils
    import mlflow.store.model_registry.sqlalchemy_store as models
    assert utils._initialize_tables.__wrapped__
    assert getattr(models, "_initialize_tables", utils._initialize_tables) is utils._initialize_tables
assert not hasattr(utils._initialize_tables, "__wrapped__")
assert not hasattr(getattr(models, "_initialize_tables", None), "__wrapped__")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
