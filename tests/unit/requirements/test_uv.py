"""What uv exports for a project is asked for again when anything that uv reads has changed: the real uv."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx import reuse_requirements
from pytest_mlctx.services.requirements.uv import Exports

UV = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
pytestmark = pytest.mark.skipif(UV is None, reason="uv is not on PATH")
uv_utils = pytest.importorskip("mlflow.utils.uv_utils", reason="this MLflow does not ask uv")

PYPROJECT = """
[project]
name = "demo"
version = "0"
requires-python = ">=3.9"
dependencies = ["thing"]
optional-dependencies = {more = ["optional"]}
[dependency-groups]
dev = ["developing"]
lint = ["linter"]
[tool.uv]
default-groups = ["lint"]
"""
LOCK = """
version = 1
requires-python = ">=3.9"
[[package]]
name = "demo"
version = "0"
source = { virtual = "." }
dependencies = [{ name = "thing" }]
[package.optional-dependencies]
more = [{ name = "optional" }]
[package.dev-dependencies]
dev = [{ name = "developing" }]
lint = [{ name = "linter" }]
""" + "".join(
    f'[[package]]\nname = "{name}"\nversion = "1"\nsource = {{ registry = "https://pypi.org/simple" }}\n'
    f'sdist = {{ url = "https://example.org/{name}-1.tar.gz", hash = "sha256:{0:064}" }}\n'
    for name in ("thing", "optional", "developing", "linter")
)


class Project:
    """A folder whose requirements uv exports, and a uv on PATH that notes when it does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.log = folder / "project", folder / "bin", folder / "log"
        self.folder.mkdir()
        self.bin.mkdir()
        self.write("pyproject.toml", PYPROJECT)
        self.write("uv.lock", LOCK)
        self.log.write_text("")
        self.write("../bin/uv", f'#!/bin/sh\necho "$1" >> "{self.log}"\nexec "{UV}" "$@"\n')
        (self.bin / "uv").chmod(0o755)
        self.exports = Exports(uv_utils.export_uv_requirements)

    def write(self, name: Any, content: Any) -> None:
        (self.folder / name).write_text(content)

    def replace(self, name: Any, old: Any, new: Any) -> None:
        content = (self.folder / name).read_text()
        assert old in content
        self.write(name, content.replace(old, new))

    def own(self, **options: Any) -> Any:
        return uv_utils.export_uv_requirements(self.folder, **options)

    def ours(self, **options: Any) -> Any:
        return self.exports(self.folder, **options)

    def times(self) -> Any:
        """How many exports there were so far."""
        return self.log.read_text().splitlines().count("export")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Project(tmp_path)
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(made.folder)
    return made


def test_a_project_is_exported_once(project: Any) -> None:
    own = project.own()
    assert own == ["linter==1", "thing==1"]
    first = project.ours()
    assert first == project.ours() == project.exports() == own
    assert project.times() == 2
    first.append("changed by MLflow")
    assert project.ours() == own


@pytest.mark.parametrize("options", [{"groups": ["dev"]}, {"extras": ["more"]}, {"no_dev": False}])
def test_other_groups_and_extras_are_another_question(project: Any, options: Any) -> None:
    project.ours()
    assert project.ours(**options) == project.own(**options)
    assert project.ours() == project.own()


def defer_to_another_uv(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "uv").write_text("#!/bin/sh\necho 'uv 99.0'\n")
    (project.folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{project.folder}{os.pathsep}{os.environ['PATH']}")


def change_lock(project: Any, _: Any) -> None:
    project.replace("uv.lock", 'version = "1"\nsource = { reg', 'version = "2"\nsource = { reg')


def change_default_groups(project: Any, _: Any) -> None:
    project.replace("pyproject.toml", 'default-groups = ["lint"]', "")


def change_variable(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_NO_DEFAULT_GROUPS", "1")


def change_configuration(project: Any, _: Any) -> None:
    project.write("uv.toml", "required-version = '<0.1'")


def take_uv_away(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def change_uv(project: Any, _: Any) -> None:
    project.write("../bin/uv", "#!/bin/sh\necho 'uv 0.1'\n")


def put_another_uv_before(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "uv").write_text("#!/bin/sh\necho 'uv 99.0'\n")
    (project.folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{project.folder}{os.pathsep}{os.environ['PATH']}")


def take_lock_away(project: Any, _: Any) -> None:
    (project.folder / "uv.lock").unlink()


@pytest.mark.parametrize(
    "change",
    [
        change_lock,
        change_default_groups,
        change_variable,
        change_configuration,
        take_uv_away,
        change_uv,
        put_another_uv_before,
    ],
)
def test_a_change_is_seen_and_taken_back(project: Any, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    before = project.ours()
    with monkeypatch.context() as patch:
        change(project, patch)
        changed = project.own()
        assert project.ours() == changed != before


@pytest.mark.parametrize(
    ("named", "file"),
    [
        (None, "uv.toml"),
        ("XDG_CONFIG_HOME", "uv/uv.toml"),
        ("XDG_CONFIG_DIRS", "uv/uv.toml"),
        ("HOME", ".config/uv/uv.toml"),
    ],
)
def test_configuration_outside_of_the_project_counts(
    project: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: Any, file: str
) -> None:
    project.write("pyproject.toml", PYPROJECT.partition("[tool.uv]")[0])
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    if named:
        monkeypatch.setenv(named, str(tmp_path / "of user"))
    assert project.ours()
    file = tmp_path / ("of user" if named else "") / file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("required-version = '<0.1'")
    assert project.ours() is project.own() is None


def test_a_failure_is_not_kept_and_told_each_time(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("uv.lock", "no lock")
    said = []
    monkeypatch.setattr(uv_utils._logger, "warning", said.append)
    assert [project.ours(), project.ours()] == [None, None]
    assert ["uv export failed" in message for message in said] == [True, True]
    project.write("uv.lock", LOCK)
    assert project.ours() == ["linter==1", "thing==1"]


@pytest.mark.parametrize(
    "lead",
    [
        lambda project, _: project.replace("pyproject.toml", "[tool.uv]", "[tool.uv.workspace]\n[tool.uv]"),
        lambda project, _: project.write("../pyproject.toml", "[tool.uv.workspace]\nmembers = ['project']"),
        lambda project, _: project.replace(
            "uv.lock", '{ registry = "https://pypi.org/simple"', '{ directory = "../x"'
        ),
        lambda project, monkeypatch: monkeypatch.setenv("UV_CONFIG_FILE", str(project.folder / "../my.toml")),
        lambda project, monkeypatch: monkeypatch.setenv("UV_PROJECT", "../project"),
    ],
    ids=["workspace", "workspace above", "source elsewhere", "file of a variable", "project of a variable"],
)
def test_where_more_is_read_it_is_left_to_mlflow(
    project: Any, monkeypatch: pytest.MonkeyPatch, lead: Any
) -> None:
    project.write("../my.toml", "")
    project.write("../uv.lock", LOCK)
    lead(project, monkeypatch)
    assert project.ours() == project.ours() == project.own() is not None
    assert project.times() == 3


def test_a_cache_of_uvs_own_and_the_name_of_the_test_are_no_reason_to_ask_again(
    project: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    project.ours()
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "another")
    monkeypatch.setenv("MLFLOW_RUN_ID", "another")
    assert project.ours()
    assert project.times() == 1


@pytest.mark.parametrize(
    "change",
    [
        change_lock,
        change_default_groups,
        change_variable,
        pytest.param(change_configuration, marks=pytest.mark.slow),  # from here on models are loaded
        pytest.param(take_uv_away, marks=pytest.mark.slow),
        pytest.param(take_lock_away, marks=pytest.mark.slow),
    ],
)
def test_what_is_saved_is_mlflows_own(project: Any, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    sklearn = pytest.importorskip("mlflow.sklearn")
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0], [1]], [0, 1])
    paths = (project.folder.parent / f"model{number}" for number in itertools.count())

    def save() -> Any:
        path = next(paths)
        sklearn.save_model(model, path, serialization_format="cloudpickle")
        return {
            file.name: file.read_bytes()
            for file in path.iterdir()
            if file.suffix in (".txt", ".yaml", ".toml", ".lock")
        }

    with reuse_requirements():
        before = [save(), save()]
        assert project.times() == 1
        change(project, monkeypatch)
        ours = [save(), save()]
    assert b"linter==1" in before[0]["requirements.txt"]
    assert before[0] == before[1]
    assert ours == [save()] * 2
    assert ours[0] != before[0]
