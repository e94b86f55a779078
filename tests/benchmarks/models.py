"""Logs 18 models of 9 kinds and prints the seconds after the imports: ``python models.py {own,reuse} DB``."""

from __future__ import annotations

import contextlib
import sys
import time

import mlflow
import sklearn.cluster
import sklearn.ensemble
import sklearn.linear_model
import sklearn.naive_bayes
import sklearn.neighbors
import sklearn.pipeline
import sklearn.preprocessing
import sklearn.svm
import sklearn.tree
from sklearn.datasets import load_iris

import pytest_mlctx

way, database = sys.argv[1:]
features, species = load_iris(return_X_y=True)
kinds = [
    sklearn.linear_model.LogisticRegression(max_iter=500),
    sklearn.linear_model.RidgeClassifier(),
    sklearn.tree.DecisionTreeClassifier(),
    sklearn.ensemble.RandomForestClassifier(n_estimators=5),
    sklearn.naive_bayes.GaussianNB(),
    sklearn.neighbors.KNeighborsClassifier(),
    sklearn.svm.SVC(),
    sklearn.cluster.KMeans(n_clusters=3, n_init=1),
    sklearn.pipeline.make_pipeline(
        sklearn.preprocessing.StandardScaler(), sklearn.linear_model.LogisticRegression()
    ),
]
models = [kind.fit(features, species) for kind in kinds]
mlflow.set_tracking_uri(f"sqlite:///{database}")
mlflow.set_experiment("bench")
with mlflow.start_run(), pytest_mlctx.reuse_requirements() if way == "reuse" else contextlib.nullcontext():
    began = time.perf_counter()
    for turn in range(2):
        for number, model in enumerate(models):
            mlflow.sklearn.log_model(model, f"model{turn}{number}", serialization_format="cloudpickle")
    print(time.perf_counter() - began)
