"""Training on the digits that ship with scikit-learn."""

from __future__ import annotations

import os

import mlflow
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

DEPTH = int(os.environ.get("DIGITS_DEPTH", "12"))


def train(depth: int = DEPTH) -> list[float]:
    """Train and log to MLflow; the accuracy of each of five folds."""
    images, labels = load_digits(return_X_y=True)
    model = RandomForestClassifier(n_estimators=40, max_depth=depth, random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with mlflow.start_run(run_name="digits"):
        mlflow.log_param("depth", depth)
        accuracies = [float(each) for each in cross_val_score(model, images, labels, cv=folds)]
        mlflow.log_metric("accuracy", sum(accuracies) / len(accuracies))
    return accuracies
