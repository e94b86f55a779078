"""The training's tests: real MLflow, real loguru, real alerts, and nothing left behind."""

from __future__ import annotations

import mlflow
import pytest
from cultivars.training import Trained, evaluate, split, train
from sklearn.dummy import DummyClassifier

from pytest_mlctx import Alert, MlflowService


@pytest.fixture(scope="module")
def trained(mlflow_service: MlflowService) -> Trained:
    return train(regularization=0.5)


def test_training_logs_params_metrics_and_report(trained: Trained, mlflow_service: MlflowService) -> None:
    run = mlflow_service.client().get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["regularization"] == "0.5"
    assert run.data.metrics["accuracy"] > 0.9
    report = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.txt")
    assert "precision" in report


def test_registered_model_predicts(trained: Trained, mlflow_service: MlflowService) -> None:
    assert trained.model_uri.startswith(f"models:/{mlflow_service.registry_name}/")
    model = mlflow.pyfunc.load_model(trained.model_uri)
    assert "alcohol" in model.metadata.get_input_schema().input_names()
    _, features, _, cultivars = split()
    assert (model.predict(features) == cultivars).mean() > 0.9


def test_poor_training_alerts(alerts_outbox: list[Alert]) -> None:
    train(regularization=1e-6, least_accuracy=0.99)
    (alert,) = alerts_outbox
    assert alert.title == "Training disappoints"
    assert alert.message.endswith("is below 0.99")
    assert alert.level == "WARNING"


def test_evaluation_logs_to_the_active_run(
    mlflow_run: mlflow.ActiveRun, mlflow_service: MlflowService, caplog: pytest.LogCaptureFixture
) -> None:
    train_features, test_features, train_cultivars, test_cultivars = split()
    model = DummyClassifier().fit(train_features, train_cultivars)
    accuracy = evaluate(model, test_features, test_cultivars)
    run = mlflow_service.client().get_run(mlflow_run.info.run_id)
    assert run.data.metrics == {"accuracy": accuracy}
    assert f"accuracy {accuracy:.3f} on 45 wines" in caplog.messages
