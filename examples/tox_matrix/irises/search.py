"""A search over tree depths: one run, with a nested run for each candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlflow
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

if TYPE_CHECKING:
    from collections.abc import Iterable


def best_depth(depths: Iterable[int]) -> int:
    """The depth with the best cross-validated accuracy; every candidate is tracked."""
    features, species = load_iris(return_X_y=True)
    accuracies: dict[int, float] = {}
    with mlflow.start_run(run_name="search"):
        for depth in depths:
            with mlflow.start_run(run_name=f"depth-{depth}", nested=True):
                mlflow.log_param("depth", depth)
                model = DecisionTreeClassifier(max_depth=depth, random_state=7)
                accuracies[depth] = float(cross_val_score(model, features, species).mean())
                mlflow.log_metric("accuracy", accuracies[depth])
        best = max(accuracies, key=accuracies.__getitem__)
        mlflow.log_metric("best_depth", best)
    return best
