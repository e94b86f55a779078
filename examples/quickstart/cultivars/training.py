"""Train a classifier, track it with MLflow and register it; alert when it disappoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlflow
from loguru import logger
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pytest_mlctx import AlertsService, MlflowService, RunConfig

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline


@dataclass(frozen=True)
class Trained:
    """Where the training's results are."""

    run_id: str
    model_uri: str


def split() -> list[pd.DataFrame | pd.Series]:
    """Features to train and to test with, then the cultivars of each."""
    features, cultivars = load_wine(return_X_y=True, as_frame=True)
    return train_test_split(features, cultivars, random_state=7, stratify=cultivars)


def evaluate(model: Pipeline, features: pd.DataFrame, cultivars: pd.Series) -> float:
    """Log accuracy and a report by cultivar to the active run; return the accuracy."""
    accuracy = model.score(features, cultivars)
    mlflow.log_metric("accuracy", accuracy)
    mlflow.log_text(classification_report(cultivars, model.predict(features), zero_division=0), "report.txt")
    logger.info("accuracy {:.3f} on {} wines", accuracy, len(features))
    return accuracy


def train(regularization: float = 1.0, least_accuracy: float = 0.9) -> Trained:
    """Train, evaluate and register a model; alert when its accuracy is below ``least_accuracy``."""
    service = MlflowService.current()
    train_features, test_features, train_cultivars, test_cultivars = split()
    config = RunConfig(name="train", description="Cultivars by chemistry", tags={"dataset": "wine"})
    with service.run_context(config) as run:
        mlflow.log_params({"regularization": regularization, "least_accuracy": least_accuracy})
        model = make_pipeline(StandardScaler(), LogisticRegression(C=regularization))
        model.fit(train_features, train_cultivars)
        accuracy = evaluate(model, test_features, test_cultivars)
        logged = mlflow.sklearn.log_model(
            model,
            "model",  # by position: MLflow 2 calls it artifact_path, MLflow 3 name
            signature=infer_signature(test_features, model.predict(test_features)),
            serialization_format="cloudpickle",
        )
        version = mlflow.register_model(logged.model_uri, service.registry_name)
    if accuracy < least_accuracy:
        AlertsService.current().notify(
            "Training disappoints", f"accuracy {accuracy:.3f} is below {least_accuracy}", level="WARNING"
        )
    return Trained(run.info.run_id, f"models:/{version.name}/{version.version}")
