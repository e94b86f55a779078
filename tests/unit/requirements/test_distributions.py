"""Whose code is a library's, and whose is the user's although it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mlctx.services.requirements.distributions import installed


def install(site: Path, name: str, direct_url: str) -> None:
    folder = site / f"{name}-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "RECORD").write_text(f"{name}_code.py,,\n")
    (folder / "METADATA").write_text(f"Name: {name}\n")
    if direct_url:
        (folder / "direct_url.json").write_text(direct_url)
    (site / f"{name}_code.py").write_text("")


@pytest.mark.parametrize(
    ("name", "direct_url", "library"),
    [
        ("prophet", "", True),  # MLflow has a flavor for it
        ("Needed_By_Prophet", "", True),
        ("churn", "", False),
        ("churn", '{"url": "file:///home/you/churn", "dir_info": {"editable": true}}', False),
        ("prophet", '{"url": "file:///home/you/prophet-1.tar.gz", "archive_info": {}}', False),
        ("extra", "", False),
    ],
)
def test_a_library_is_what_mlflow_knows_and_what_that_requires(
    mlflow_imported: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    direct_url: str,
    library: bool,
) -> None:
    install(tmp_path, name, direct_url)
    if name != "prophet":
        (tmp_path / "prophet-1.dist-info").mkdir()
        (tmp_path / "prophet-1.dist-info/METADATA").write_text(
            "Requires-Dist: needed-by-prophet (>=1)\nRequires-Dist: extra ; extra == 'more'\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    assert installed().provides(f"{name}_code") is library
