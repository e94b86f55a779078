from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pytest_mlctx.services.store import places


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:mine.db?mode=memory&uri=true"]
)
def test_what_names_no_file(uri: str):
    assert places.database(uri) is None


def test_a_path_goes_into_a_uri_and_back(tmp_path: Path):
    for name in ("plain.db", "with a space.db", "é#漢字;&=.db"):
        assert places.database(places.sqlite_uri(tmp_path / name)) == tmp_path / name


def test_a_relative_uri_names_a_file_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert places.database("sqlite:///sub/mine.db") == tmp_path / "sub" / "mine.db"
    assert places.database("sqlite:///mine.db?timeout=5") == tmp_path / "mine.db"


@pytest.mark.parametrize("name", ["a?b", "a%41b", "missing"])
def test_a_temporary_folder_that_will_not_do_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    if name != "missing":
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    folder = places.temporary_folder()
    try:
        assert folder.is_dir()
        assert places.expressible(folder)
        assert tmp_path not in folder.parents
    finally:
        folder.rmdir()


def test_where_there_is_no_place_at_all_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for none, message in ((tmp_path / "a?b", "tried"), (tmp_path / "missing", "missing")):
        monkeypatch.setattr(places, "_candidates", lambda none=none: [str(none)])
        with pytest.raises(OSError, match=message):
            places.temporary_folder()
