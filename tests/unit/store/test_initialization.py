from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pytest_mlctx.services import store
from pytest_mlctx.services.store import template

from .conftest import content, query


@pytest.mark.parametrize("there", [False, True], ids=["missing", "empty"])
def test_it_equals_what_mlflow_makes_itself(tmp_path: Path, made_by_mlflow: Path, there: bool) -> None:
    path = tmp_path / "a folder" / "mlflow.db"
    if there:
        path.parent.mkdir()
        path.touch()
    store.fill(path)
    assert content(path) == content(made_by_mlflow)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert [entry.name for entry in path.parent.iterdir()] == ["mlflow.db"]
    assert query(path, "PRAGMA journal_mode") == [("delete",)]


def test_a_file_with_anything_in_it_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    query(path, "CREATE TABLE mine (x)")
    before = path.read_bytes()
    store.fill(path)
    assert path.read_bytes() == before


def test_an_empty_database_keeps_its_journal_mode(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    query(path, "PRAGMA journal_mode = WAL")
    assert path.stat().st_size > 0
    store.fill(path)
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    assert query(path, "SELECT name FROM experiments") == [("Default",)]


def test_who_has_the_empty_file_open_sees_the_store(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    held = sqlite3.connect(path)
    assert held.execute("SELECT * FROM sqlite_master").fetchall() == []
    store.fill(path)
    assert held.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
    held.close()


def test_what_is_no_database_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    path.write_text("some text, long enough to be taken for the header of a database" * 3)
    before = path.read_bytes()
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        store.fill(path)
    assert path.read_bytes() == before


def test_without_a_template_no_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> bytes:
        raise ImportError("cannot import name 'FallbackAsyncAdaptedQueuePool'")

    monkeypatch.setattr(template, "image", fail)
    with pytest.raises(ImportError):
        store.fill(tmp_path / "folder" / "mine.db")
    assert list(tmp_path.iterdir()) == []
