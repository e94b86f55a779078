from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pytest_mlctx.services.store import paths


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:mine.db?mode=memory&uri=true"]
)
def test_what_names_no_file(uri: str) -> None:
    assert paths.database(uri) is None


def test_a_path_goes_into_a_uri_and_back(tmp_path: Path) -> None:
    for name in ("plain.db", "with a space.db", "é#漢字;&=.db"):
        assert paths.database(paths.sqlite_uri(tmp_path / name)) == tmp_path / name


def test_a_relative_uri_names_a_file_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.database("sqlite:///sub/mine.db") == tmp_path / "sub" / "mine.db"
    assert paths.database("sqlite:///mine.db?timeout=5") == tmp_path / "mine.db"


@pytest.mark.parametrize("name", ["a?b", "a%41b", "missing"])
def test_a_temporary_folder_that_will_not_do_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name != "missing":
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    folder = paths.temporary_folder()
    try:
        assert folder.is_dir()
        assert paths.expressible(folder)
        assert tmp_path not in folder.parents
    finally:
        folder.rmdir()


def test_where_there_is_no_place_at_all_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for none, message in ((tmp_path / "a?b", "tried"), (tmp_path / "missing", "missing")):
        monkeypatch.setattr(paths, "_candidates", lambda none=none: [str(none)])
        with pytest.raises(OSError, match=message):
            paths.temporary_folder()


@pytest.mark.skipif(sys.platform == "win32", reason="links want a privilege there")
def test_what_killed_processes_left_is_swept_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_candidates", lambda: [str(tmp_path / "temporary")])
    days_ago = time.time() - 4 * 24 * 3600

    def left(name: str, *, link: str = "", file: str = "", age: float = days_ago) -> None:
        folder = tmp_path / "temporary" / name
        folder.mkdir(parents=True)
        if link:
            (folder / "session").symlink_to(tmp_path / link)
            os.utime(folder / "session", (age, age), follow_symlinks=False)
        if file:
            (folder / "session").mkdir()
            (folder / "session" / file).write_text("rows")
        os.utime(folder, (age, age))

    (tmp_path / "living").mkdir()
    left("pytest-mlctx-dangling", link="gone")
    left("pytest-mlctx-empty")
    left("pytest-mlctx-living", link="living")
    left("pytest-mlctx-dangling-new", link="gone", age=time.time())
    left("pytest-mlctx-written-to", file="mlflow.db")
    left("pytest-mlctx-store", file="mlflow.db")
    for path in (tmp_path / "temporary" / "pytest-mlctx-store").rglob("*"):
        os.utime(path, (days_ago, days_ago))
    left("another-tool", link="gone")
    (tmp_path / "temporary" / "pytest-mlctx-link").symlink_to(tmp_path / "living")
    os.utime(tmp_path / "temporary" / "pytest-mlctx-link", (days_ago, days_ago), follow_symlinks=False)
    if os.geteuid() == 0:
        left("pytest-mlctx-somebodys")
        os.chown(tmp_path / "temporary" / "pytest-mlctx-somebodys", 54321, 54321)
    paths.sweep()
    assert {path.name for path in (tmp_path / "temporary").iterdir()} - {"pytest-mlctx-somebodys"} == {
        "pytest-mlctx-living",
        "pytest-mlctx-dangling-new",
        "pytest-mlctx-written-to",
        "another-tool",
        "pytest-mlctx-link",
    }
    assert os.geteuid() != 0 or (tmp_path / "temporary" / "pytest-mlctx-somebodys").exists()
    assert (tmp_path / "living").exists()
