"""Train a regressor of the progression of diabetes, with the services that the tests use.

Usage: python train.py job.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import yaml
from pydantic import BaseModel, ConfigDict, PositiveFloat
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score

from pytest_mlctx import AlertsService, LoggerService, MlflowService, RunConfig


class Job(BaseModel):
    """One training; a mistake in its file is named when the file is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: PositiveFloat
    logger: LoggerService = LoggerService()
    alerts: AlertsService = AlertsService()
    tracking: MlflowService = MlflowService()

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job from a YAML file."""
        return cls.model_validate(yaml.safe_load(path.read_text()))

    def run(self) -> float:
        """Train and track; return the mean R² of a cross-validation."""
        with self.logger, self.alerts, self.tracking:
            log = self.logger.logger()
            features, progression = load_diabetes(return_X_y=True, as_frame=True)
            with self.tracking.run_context(RunConfig(name="train", tags={"dataset": "diabetes"})):
                mlflow.log_param("alpha", self.alpha)
                model = Ridge(self.alpha)
                score = float(cross_val_score(model, features, progression).mean())
                mlflow.log_metric("r2", score)
                log.info("R² {:.3f} with alpha {}", score, self.alpha)
                logged = mlflow.sklearn.log_model(
                    model.fit(features, progression),
                    "model",  # by position: MLflow 2 calls it artifact_path, MLflow 3 name
                    serialization_format="cloudpickle",
                )
                mlflow.register_model(logged.model_uri, self.tracking.registry_name)
            if score < 0.4:
                self.alerts.notify("Poor model", f"R² {score:.3f} with alpha {self.alpha}", level="WARNING")
            return score


if __name__ == "__main__":
    Job.read(Path(sys.argv[1])).run()
