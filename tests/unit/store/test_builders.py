from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services import store
from pytest_mlctx.services.store import engines, template

from .conftest import query


def builders() -> list[object]:
    tracking = importlib.import_module("mlflow.tracking._tracking_service.utils")._tracking_store_registry
    models = importlib.import_module("mlflow.tracking._model_registry.utils")._get_store_registry()
    return [registry._registry["sqlite"] for registry in (tracking, models)]


def stores(uri: str) -> list[Any]:
    """MLflow's tracking and registry store for the URI."""
    return [
        importlib.import_module(f"mlflow.tracking.{service}.utils")._get_store(uri)
        for service in ("_tracking_service", "_model_registry")
    ]


def pragma(mlflow_store: Any, name: str) -> object:
    with mlflow_store.engine.connect() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


@pytest.mark.parametrize(
    ("place", "uri"),
    [
        ("db", lambda folder: f"sqlite:///{folder}/db/mine.db"),
        ("work/sub", lambda _: "sqlite:///sub/mine.db"),
        ("é #", lambda folder: f"sqlite:///{folder}/é #/mine.db"),
    ],
    ids=["absolute", "relative", "non-ASCII"],
)
def test_artifacts_of_the_users_store_lie_beside_it_wherever_the_process_runs(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, uri: Callable[[Path], str]
) -> None:
    import mlflow

    (tmp_path / "elsewhere").mkdir()
    mlflow.set_tracking_uri(uri(tmp_path))
    mlflow.set_experiment("first")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for experiment in ("first", "second", "Default"):
        mlflow.set_experiment(experiment)
        with mlflow.start_run() as run:
            mlflow.log_text("text", "file.txt")
        number = run.info.experiment_id
        assert (tmp_path / place / "mlartifacts" / number / run.info.run_id / "artifacts/file.txt").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert {entry.name for entry in served.iterdir()} <= {"sub"}


@pytest.mark.parametrize("folder", ["mlruns", "mlartifacts"])
def test_artifacts_of_a_store_in_the_working_folder_lie_where_mlflow_has_them_unless_it_is_named(
    served: Path, folder: str
) -> None:
    uri = f"sqlite:///{folder}.db"
    if folder == "mlartifacts":
        store.install_builders(uri)
    opened = stores(uri)[0]
    assert opened.artifact_root_uri == f"{served}/{folder}"
    assert opened.get_experiment("0").artifact_location == f"{served}/{folder}/0"


def test_opening_alone_makes_no_folder(served: Path) -> None:
    stores(f"sqlite:///{served}/mine.db")
    assert [entry.name for entry in served.iterdir()] == ["mine.db"]


def test_an_artifact_root_that_was_named_is_used(served: Path, tmp_path: Path) -> None:
    tracking = importlib.import_module("mlflow.tracking._tracking_service.utils")
    opened = tracking._get_store(f"sqlite:///{served}/mine.db", artifact_uri=str(tmp_path / "named"))
    experiment = opened.create_experiment("mine")
    assert opened.get_experiment(experiment).artifact_location == f"{tmp_path}/named/{experiment}"


def test_a_store_that_was_open_before_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mine.db"
    monkeypatch.chdir(tmp_path)
    store.fill(tmp_path / "mine.db")
    before = stores(uri)
    assert pragma(before[0], "busy_timeout") != engines.BUSY_TIMEOUT
    store.install_builders(uri)
    after = stores(uri)
    assert after[0].artifact_root_uri == f"{tmp_path}/mlartifacts"
    for old, new in zip(before, after, strict=True):
        assert new is not old
        assert new.engine is not old.engine
        assert pragma(new, "busy_timeout") == engines.BUSY_TIMEOUT
        assert pragma(old, "busy_timeout") != engines.BUSY_TIMEOUT


def test_serving_twice_is_serving_once(served: Path, temporary: store.Store) -> None:
    before, opened = builders(), stores(temporary.uri)
    store.install_builders()
    assert all(now is old for now, old in zip(builders(), before, strict=True))
    assert all(now is old for now, old in zip(stores(temporary.uri), opened, strict=True))


def test_for_mlflow_the_scheme_stays_its_own(served: Path) -> None:
    utils = importlib.import_module("mlflow.tracking._tracking_service.utils")
    if hasattr(utils, "_get_tracking_scheme"):
        assert utils._get_tracking_scheme("sqlite:///mine.db") == "sqlite"


def test_a_temporary_store_needs_no_fsync(temporary: store.Store) -> None:
    for opened in stores(temporary.uri):
        assert pragma(opened, "journal_mode") == "wal"
        assert pragma(opened, "synchronous") == 0


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_journal_and_fsync_of_the_users_store_stay(served: Path, mode: str) -> None:
    path = served / "mine.db"
    store.fill(path)
    query(path, f"PRAGMA journal_mode = {mode}")
    for opened in stores(f"sqlite:///{path}"):
        assert pragma(opened, "journal_mode") == mode
        assert pragma(opened, "synchronous") == 2


@pytest.mark.parametrize("whose", ["ours", "the user's"])
def test_every_connection_waits_a_minute_and_keeps_mlflows_other_settings(
    served: Path, temporary: store.Store, whose: str
) -> None:
    uri = temporary.uri if whose == "ours" else f"sqlite:///{served}/mine.db"
    for opened in stores(uri):
        for _ in range(2):
            # Two at once are two connections; MLflow's sessions set theirs again and again.
            with opened.ManagedSessionMaker() as one, opened.ManagedSessionMaker() as other:
                for session in (one, other):
                    assert [
                        session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
                        for name in ("busy_timeout", "foreign_keys")
                    ] == [60_000, 1]
                    like = session.connection().exec_driver_sql("SELECT 'A' LIKE 'a'").scalar()
                    assert like == 0
        opened.engine.dispose()


def test_where_mlflows_sessions_do_more_they_are_left_alone(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import text

    utils = importlib.import_module("mlflow.store.db.utils")
    make = utils._get_managed_session_maker

    def of_another_mlflow(session_maker: Any, db_type: str) -> Any:
        def session(*args: Any, **kwargs: Any) -> Any:
            opened = make(session_maker, db_type)(*args, **kwargs)
            if db_type == "sqlite":
                session_maker().execute(text("SELECT 1"))
            return opened

        return session

    monkeypatch.setattr(utils, "_get_managed_session_maker", of_another_mlflow)
    engines._session_pragmas.cache_clear()
    try:
        assert engines._session_pragmas(utils) is None
        made = store.Store(tmp_path / "store.db")
        tracking = stores(made.uri)[0]
        with tracking.ManagedSessionMaker() as session:
            assert session.connection().exec_driver_sql("PRAGMA busy_timeout").scalar() == 20_000
        assert tracking.create_experiment("mine")
        made.close()
    finally:
        engines._session_pragmas.cache_clear()


def test_where_mlflows_sessions_are_made_otherwise_they_are_left_alone() -> None:
    class AnotherMlflow:
        @staticmethod
        def _get_managed_session_maker(session_maker: Any) -> Any:
            return session_maker

    assert engines._session_pragmas(AnotherMlflow) is None
    assert engines._session_pragmas(object) is None


def test_nothing_of_mlflow_stays_replaced(served: Path, tmp_path: Path) -> None:
    modules = [
        importlib.import_module(name) for name in (engines._UTILS, engines._TRACKING, engines._REGISTRY)
    ]
    before = [dict(vars(module)) for module in modules]
    made = store.Store(tmp_path / "store.db")
    stores(made.uri)
    stores(f"sqlite:///{served}/mine.db")
    with pytest.raises(sqlite3.DatabaseError), engines.settings(admit=lambda: None):
        raise sqlite3.DatabaseError
    assert [dict(vars(module)) for module in modules] == before
    made.close()


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_opens_as_ever(served: Path, uri: str) -> None:
    with template._undisturbed():
        opened = stores(uri)[0]
    assert opened.get_experiment("0").name == "Default"
    assert list(served.iterdir()) == []


def test_an_outdated_store_is_mlflows_to_refuse(served: Path) -> None:
    from mlflow.exceptions import MlflowException

    path = served / "mine.db"
    store.fill(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '97727af70f4d'")
    connection.close()
    with pytest.raises(MlflowException, match="out-of-date database schema"):
        stores(f"sqlite:///{path}")
