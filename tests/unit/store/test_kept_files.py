"""Files that are put back to what they were when a fixture had written them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mlctx.services.store import kept_files


def written(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kept(folder: Path, tmp_path: Path, **files: str) -> kept_files.Version:
    """The version after a fixture that writes these files."""
    before = kept_files.look(folder)
    written(folder, **files)
    return kept_files.keep(kept_files.Version(folder), before, tmp_path / "copies")


def test_what_a_test_changed_is_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    version = kept(folder, tmp_path, report="fixture", a__b__deep="fixture", gone="fixture")
    written(folder, report="test", a__new="test", c__d__new="test")
    (folder / "gone").unlink()
    kept_files.put_back(version, tmp_path / "aside")
    assert found(folder) == {"report": "fixture", "a/b/deep": "fixture", "gone": "fixture"}
    assert not (folder / "c").exists()
    assert found(tmp_path / "aside") == {"report": "test", "a/new": "test", "c/d/new": "test"}


@pytest.mark.parametrize("file", ["a__b__fixture", "a__fixture"])
def test_a_folder_that_the_test_had_before_the_fixture_stays_where_the_fixture_wrote_to_it(
    tmp_path: Path, file: str
) -> None:
    folder = tmp_path / "run"
    written(folder, a__test="test", c__test="test")
    version = kept(folder, tmp_path, **{file: "fixture"})
    kept_files.put_back(version, tmp_path / "aside")
    assert found(folder) == {file.replace("__", "/"): "fixture"}
    assert not (folder / "c").exists()
    kept_files.put_back(version, tmp_path / "again")
    assert found(folder) == {file.replace("__", "/"): "fixture"}
