"""The search's tests, the same for every MLflow of the matrix."""

from __future__ import annotations

import mlflow
from irises.search import best_depth

from pytest_mlctx import MlflowService


def test_best_depth_is_no_stump() -> None:
    assert best_depth([1, 3]) == 3


def test_each_candidate_is_a_nested_run(mlflow_service: MlflowService) -> None:
    best_depth([1, 2])
    runs = mlflow.search_runs(experiment_names=[mlflow_service.experiment_name], output_format="list")
    search = next(run for run in runs if run.info.run_name == "search")
    candidates = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == search.info.run_id]
    assert {run.data.params["depth"] for run in candidates} == {"1", "2"}
    assert all(run.data.metrics["accuracy"] > 0.5 for run in candidates)


def test_experiment_of_this_environment(mlflow_service: MlflowService, mlflow_run: mlflow.ActiveRun) -> None:
    experiment = mlflow.get_experiment(mlflow_run.info.experiment_id)
    assert experiment.name == mlflow_service.experiment_name
