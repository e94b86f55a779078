from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pytest_mlctx.services import cache, store
from pytest_mlctx.services.state import mlflow_stores
from pytest_mlctx.services.store import template

from .conftest import content, query


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    """An empty cache, and what was built into it; the building itself is done once for all these tests."""
    built = template.image()
    done: list[bytes] = []

    def build() -> bytes:
        done.append(built)
        return built

    monkeypatch.setattr(template, "_build", build)
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(tmp_path / "cache"))
    return done


def test_a_copy_equals_what_mlflow_makes_itself(tmp_path: Path, made_by_mlflow: Path) -> None:
    made = store.Store(tmp_path / "store.db")
    made.close()
    assert content(made.path) == content(made_by_mlflow)
    assert query(made.path, "PRAGMA integrity_check") == [("ok",)]
    assert query(made.path, "PRAGMA foreign_key_check") == []


def test_mlflow_finds_nothing_to_upgrade(tmp_path: Path) -> None:
    from click.testing import CliRunner
    from mlflow.db import commands
    from mlflow.store.db import utils

    made = store.Store(tmp_path / "store.db")
    made.close()
    before = content(made.path)
    with template._undisturbed():
        result = CliRunner().invoke(commands, ["upgrade", made.uri])
    assert result.exit_code == 0, result.output
    assert content(made.path) == before
    assert query(made.path, "SELECT version_num FROM alembic_version") == [
        (utils._get_latest_schema_revision(),)
    ]


def test_building_disturbs_neither_logging_nor_warnings_nor_output(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow.store.db.utils  # noqa: F401  # SQLAlchemy sets its logger's level when it is imported

    thread = threading.get_ident()

    def is_of_the_building(record: logging.LogRecord) -> bool:
        return record.thread == thread  # one of another test may still warn of retries

    handler = logging.StreamHandler()
    handler.addFilter(is_of_the_building)
    root = logging.getLogger()
    root.addHandler(handler)
    caplog.set_level(logging.DEBUG)

    def setup() -> object:
        loggers = {name: logging.getLogger(name).level for name in ("", "alembic", "sqlalchemy", "mlflow")}
        own = {name: logging.getLogger(name).handlers.copy() for name in loggers}
        return loggers, own, logging._handlers.copy(), logging.config.fileConfig, warnings.filters.copy()

    try:
        before = setup()
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            template._build()
        assert setup() == before
    finally:
        root.removeHandler(handler)
    heard = filter(is_of_the_building, caplog.records)
    assert [record.getMessage() for record in heard if record.levelno > logging.DEBUG] == []
    assert capfd.readouterr() == ("", "")


def test_warnings_and_other_threads_are_heard_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("some.library")
    with template._undisturbed():
        logger.info("of the migrations")
        logger.warning("of importance")
        thread = threading.Thread(target=logger.info, args=["of another thread"])
        thread.start()
        thread.join()
    logger.info("later")
    assert [record.getMessage() for record in caplog.records] == [
        "of importance",
        "of another thread",
        "later",
    ]


def test_building_leaves_no_engine_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engines = [dict(known) for known in mlflow_stores.engines().values()]
    template._build()
    assert [dict(known) for known in mlflow_stores.engines().values()] == engines
    assert list(tmp_path.iterdir()) == []


def test_built_once_and_read_from_then_on(builds: list[bytes]) -> None:
    first = template.image()
    assert template.image() == first
    assert len(builds) == 1


def replace_by_link(file: Path) -> None:
    real = file.with_name("elsewhere")
    file.rename(real)
    file.symlink_to(real)


def replace_by_database(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE foreign_to_mlflow (x)")


def rename_from_newer(file: Path) -> None:
    """A whole template, of another MLflow."""
    cache.at(file.parent).publish("store-of-a-newer-mlflow.db", b"SQLite format 3\0...")
    (file.parent / "store-of-a-newer-mlflow.db").replace(file)


@pytest.mark.skipif(os.name != "posix", reason="mode bits and links")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: os.truncate(file, 5000),
        lambda file: file.write_bytes(bytes(file.stat().st_size)),
        replace_by_database,
        replace_by_link,
        lambda file: file.chmod(0o666),
        rename_from_newer,
    ],
    ids=["truncated", "zeroed", "foreign", "symlinked", "world-writable", "newer"],
)
def test_a_spoiled_template_is_rebuilt(
    builds: list[bytes], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    template.image()
    spoil(tmp_path / "cache" / template._name())
    assert template.image() == builds[0]
    assert len(builds) == 2
    template.image()
    assert len(builds) == 2


def test_another_mlflow_has_another_template(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    name = template._name()
    assert template._name() == name
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "99.0")
    assert template._name() != name


@pytest.mark.skipif(os.name != "posix", reason="mode bits")
def test_where_the_cache_is_refused_the_fallback_keeps_it(builds: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    store.Store(tmp_path / "a.db", fallback=tmp_path / "fallback").close()
    store.Store(tmp_path / "b.db", fallback=tmp_path / "fallback").close()
    assert len(builds) == 1
    assert (tmp_path / "fallback" / template._name()).exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_any_cache_it_is_built_each_time(
    builds: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(tmp_path / "file" / "below"))
    store.Store(tmp_path / "a.db").close()
    store.Store(tmp_path / "b.db").close()
    assert len(builds) == 2
