"""Stores and runs in one process: an empty store for a test, a run on it, a model that is logged again."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from sklearn.linear_model import LogisticRegression

from pytest_mlctx import MlflowService, reuse_requirements
from pytest_mlctx.services import runs, store

# Below the ways, here and in the other file: the topmost varies fastest, so that each turn has each way.
TURNS = pytest.mark.parametrize("turn", range(5))
numbers = itertools.count()


def by_hand(path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.set_experiment("bench")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    by_hand(path)
    return path


@pytest.fixture(scope="module")
def session_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The temporary store as the plugin has it, and what it held before any test."""
    ours = store.Store(tmp_path_factory.mktemp("ours") / "mlflow.db")
    empty = ours.savepoint()
    yield ours, empty
    ours.close()


def log_a_run() -> None:
    with mlflow.start_run():
        mlflow.log_metric("accuracy", 0.9)
        mlflow.log_param("alpha", 0.1)


@pytest.mark.parametrize("way", ["a fresh SQLite store", "a copied template", "ours"])
@TURNS
def bench_empty_store(
    measure: Any, tmp_path: Path, template: Path, session_store: Any, turn: int, way: str
) -> None:
    work = "an empty store for a test, with its experiment"

    def new_path() -> tuple[tuple[Path], dict[str, Any]]:
        return (tmp_path / f"{next(numbers)}.db",), {}

    if way == "a fresh SQLite store":
        measure(work, way, by_hand, setup=new_path)
    elif way == "a copied template":

        def copy(path: Path) -> None:
            shutil.copyfile(template, path)
            by_hand(path)

        measure(work, way, copy, rounds=5, setup=new_path)
    else:
        ours, empty = session_store
        with MlflowService(tracking_uri=ours.uri, experiment_name="bench", autolog_disable=True):

            def back() -> None:
                runs.activate_experiment(ours.back(empty, experiment="bench", artifacts=tmp_path))

            measure(work, way, back, rounds=40, setup=log_a_run)


@pytest.mark.parametrize("way", ["MLflow's defaults on SQLite", "ours"])
@TURNS
def bench_run(measure: Any, template: Path, tmp_path: Path, session_store: Any, turn: int, way: str) -> None:
    work = "a run with a metric and a param"
    if way == "ours":
        with MlflowService(tracking_uri=session_store[0].uri, experiment_name="bench", autolog_disable=True):
            log_a_run()
            measure(work, way, log_a_run, rounds=20)
    else:
        path = tmp_path / "mlflow.db"
        shutil.copyfile(template, path)
        by_hand(path)
        log_a_run()
        measure(work, way, log_a_run, rounds=20)


@pytest.mark.parametrize("way", ["pip_requirements by hand", "ours"])
@pytest.mark.parametrize("turn", range(20))
def bench_second_model(measure: Any, session_store: Any, turn: int, way: str) -> None:
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    given = ["scikit-learn"] if way == "pip_requirements by hand" else None

    def log() -> None:
        mlflow.sklearn.log_model(
            model, f"model{next(numbers)}", pip_requirements=given, serialization_format="cloudpickle"
        )

    service = MlflowService(tracking_uri=session_store[0].uri, experiment_name="bench", autolog_disable=True)
    with service, reuse_requirements(), mlflow.start_run():
        log()
        measure("the second model of a kind", way, log, rounds=5)
