"""What all tests share: an environment without the outer run's traces, and sessions of pytest to look at."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ("pytester",)

# What is run against each minor version of MLflow: about a minute.
CONTRACT = {
    "test_failure_sections.py",
    "test_new_files.py",
    "test_recording.py",
    "test_run.py",
    "test_runs.py",
    "test_sandbox.py",
    "test_stores_option.py",
    "test_traces.py",
}

_OUTER = ("MLFLOW_", "_MLFLOW_", "OTEL_", "PYTEST_XDIST_", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "MLCTX_")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the contract, before -m selects by it."""
    for item in items:
        if item.path.name in CONTRACT:
            item.add_marker("contract")


@pytest.fixture(autouse=True, scope="session")
def _no_outer_environment() -> None:
    """Tests that start processes must not hand them what the outer run was given."""
    for name in [name for name in os.environ if name.startswith(_OUTER) and name != "MLCTX_CACHE_DIR"]:
        del os.environ[name]
    from pytest_mlctx.services import cache

    # pytester moves HOME, and a template of MLflow's store takes seconds to build.
    if (folder := cache.user().path) is not None:
        os.environ["MLCTX_CACHE_DIR"] = str(folder)


@pytest.fixture(scope="session")
def ours_imported() -> None:
    """For sessions run in this process: pytester takes away what an inner session has imported."""
    import pytest_mlctx

    for module in pkgutil.walk_packages(pytest_mlctx.__path__, "pytest_mlctx."):
        importlib.import_module(module.name)


@pytest.fixture(scope="session")
def mlflow_imported(ours_imported: None) -> None:
    """The same with mlflow: it takes seconds, and neither numpy nor a flavour can be loaded twice."""
    import mlflow.sklearn
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


@pytest.fixture
def put_back() -> Iterator[None]:
    """For suites that use MLflow by themselves and are run in this process: its state is put back."""
    from pytest_mlctx.services import state

    before = state.capture("mlflow", "environment")
    yield
    state.restore(before)


@pytest.fixture
def no_other_plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner sessions load pytest-mlctx alone, which is quicker."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p mlctx -p no:cacheprovider")


@pytest.fixture
def given_back(tmp_path: Path) -> Iterator[Path]:
    """A working folder of the test's own, and the state as it was."""
    from pytest_mlctx.services import state

    libraries: tuple[state.Library, ...] = ("mlflow", "environment", "logging", "loguru")
    work, home = tmp_path / "work", Path.cwd()
    work.mkdir()
    os.chdir(work)
    before = state.capture(*libraries)
    yield work
    left = state.compare(before, state.capture(*libraries))
    state.restore(before)
    os.chdir(home)
    assert left == []
