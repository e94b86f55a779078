"""The mechanism itself: deltas that compose, libraries that are not imported, environment and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services import state
from pytest_mlctx.services.state.kinds import same


def python(code: str, **variables: str) -> str:
    """What a fresh process prints."""
    environment = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if "MLFLOW_" in name or name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def told(before: state.State) -> list[str | None]:
    return [change.sentence for change in state.compare(before, state.capture("environment", "files"))]


def test_variables_set_changed_and_deleted_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@host")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "")
    before = state.capture("environment")
    os.environ["MLFLOW_TRACKING_URI"] = "http://user:hunter3@host"
    os.environ["MLFLOW_TRACKING_TOKEN"] = "hunter4"
    del os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"]
    os.environ["UNRELATED"] = "kept"
    assert sorted(told(before)) == [
        "`MLFLOW_TRACKING_TOKEN` set",
        "`MLFLOW_TRACKING_URI` changed",
        "`_MLFLOW_SERVER_ARTIFACT_ROOT` deleted",
    ]
    state.restore(before)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://user:hunter2@host"
    assert os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] == ""
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ
    assert os.environ.pop("UNRELATED") == "kept"


def test_nothing_is_captured_where_nothing_is_asked_for() -> None:
    assert state.capture() == state.State({}, frozenset())
    before = state.capture()
    os.environ["MLFLOW_RUN_ID"] = "x"
    assert state.compare(before, state.capture()) == []
    state.restore(before)
    assert os.environ.pop("MLFLOW_RUN_ID") == "x"


def test_a_difference_moves_a_baseline_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fixture of higher scope sets is expected; what the test has set before it is not."""
    baseline = state.capture("environment")
    monkeypatch.setenv("MLFLOW_RUN_ID", "leaked by the test")
    before = state.capture("environment")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "the module's")
    after = state.capture("environment")
    moved = state.move(baseline, before, after)
    assert [change.sentence for change in state.compare(moved, after)] == ["`MLFLOW_RUN_ID` set"]
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert state.compare(baseline, state.move(moved, after, before)) == []
    assert state.move(baseline, before, before) is baseline


def test_litter_is_told_once_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    before = state.capture("files")
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlartifacts").mkdir()
    expected = [f"{tmp_path / 'mlflow.db'} written", f"{tmp_path / 'mlartifacts'} written"]
    assert told(before) == expected
    state.restore(before)
    assert (tmp_path / "mlflow.db").exists()
    assert told(state.capture("files")) == []


def test_another_working_folder_has_no_new_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other" / "mlruns").mkdir(parents=True)
    before = state.capture("files")
    monkeypatch.chdir("other")
    assert [sentence for sentence in told(before) if sentence] == [
        f"working folder changed to {tmp_path}/other"
    ]
    state.restore(before)


def test_a_folder_that_is_watched_tells_litter_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_mlctx.services.state.files._watched", {})
    state.watch(tmp_path)
    before = state.capture("files")
    (tmp_path / "mlflow.db").touch()
    assert told(before) == [f"{tmp_path / 'mlflow.db'} written"]


def test_a_deleted_working_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    state.restore(state.capture("files"))


class Array:
    """As numpy's: comparing it gives no truth."""

    def __eq__(self, other: Any) -> None:
        raise ValueError("ambiguous")

    __hash__ = None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, False),
        (True, 1, False),
        ("a", "".join(["a"]), True),
        ({"a": [1, (2,)]}, {"a": [1, (2,)]}, True),
        ({"a": 1}, {"b": 1}, False),
        ([1], [1, 2], False),
        (Array(), Array(), False),
        (object, object, True),
    ],
)
def test_values_are_compared_without_asking_what_cannot_answer(one: Any, other: Any, equal: bool) -> None:
    assert same(one, other) is equal


def test_a_stub_in_the_place_of_a_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from unittest.mock import MagicMock

    before = state.capture("mlflow", "loguru", "environment")
    monkeypatch.setitem(sys.modules, "loguru", types.ModuleType("loguru"))
    monkeypatch.setitem(sys.modules, "mlflow", MagicMock())
    monkeypatch.setenv("MLFLOW_RUN_ID", "x")
    now = state.capture("mlflow", "loguru", "environment")
    assert [change.sentence for change in state.compare(before, now)][-1:] == ["`MLFLOW_RUN_ID` set"]
    state.restore(before)
    assert "MLFLOW_RUN_ID" not in os.environ


def test_nothing_is_imported_for_a_capture() -> None:
    out = python(
        """
        import sys
        already = set(sys.modules)  # coverage loads some
        from pytest_mlctx.services import state
        before = state.capture("mlflow", "loguru", "logging", "environment", "files")
        state.restore(before)
        print(sorted({"mlflow", "loguru", "pydantic", "multiprocessing"} & sys.modules.keys() - already))
        """
    )
    assert out == "[]\n"


def test_a_first_import_is_compared_with_what_the_import_gives() -> None:
    """loguru and MLflow come in, are changed in every way that an import could be blamed for, and go back."""
    out = python(
        """
        import json, os, sys, tempfile
        os.chdir(tempfile.mkdtemp())
        from pytest_mlctx.services import state
        ALL = ("mlflow", "loguru", "logging", "environment")
        before = state.capture(*ALL)

        def say(*more):
            told = [one.sentence for one in state.compare(before, state.capture(*ALL)) if one.sentence]
            print(json.dumps([*told, *more]))

        import loguru, mlflow, mlflow.sklearn
        say()
        from loguru import logger
        logger.remove()
        logger.configure(extra={"a": 1}, patcher=print)
        logger.disable("x")
        logger.level("NOTE", no=22)
        say()
        state.restore(before)
        say(list(logger._core.handlers))
        logger.warning("to stderr")

        from mlflow.tracking._tracking_service.utils import _tracking_store_registry as registry
        sqlite = registry._registry["sqlite"]
        registry.register("sqlite", lambda store_uri, artifact_uri=None: None)
        mlflow.set_tracking_uri("sqlite:///x.db")
        mlflow.tracing.disable()
        imported_late = "sklearn.linear_model" not in sys.modules
        mlflow.autolog(silent=True)
        from sklearn.linear_model import LinearRegression
        patched = LinearRegression.fit
        say()
        state.restore(before)
        say(registry._registry["sqlite"] is sqlite, "MLFLOW_TRACKING_URI" in os.environ)
        say(imported_late, LinearRegression.fit is patched)
        """
    )
    assert [json.loads(line) for line in out.splitlines()] == [
        [],
        [
            "loguru handler 0 removed",
            "loguru level NOTE added",
            "loguru's extra 'a' set",
            "loguru's patcher changed",
            "loguru disabled for `x`",
        ],
        [[0]],
        [
            "autologging left on",
            "tracing disabled",
            "tracking URI changed to sqlite:///x.db",
            "tracking store for the scheme 'sqlite' registered",
        ],
        [True, False],
        [True, False],
    ]
