"""The model is as good as on main."""

from __future__ import annotations

import statistics

import pytest
from digits.training import train


@pytest.fixture(scope="module")
def accuracies(mlflow_service):
    """Of five folds; trained once for all tests."""
    return train()


def test_the_model_is_as_good_as_on_main(accuracies, mlflow_baseline):
    assert statistics.fmean(accuracies) >= mlflow_baseline("accuracy", rel=0.02)


def test_no_fold_is_much_worse_than_on_main(accuracies, mlflow_baseline):
    assert min(accuracies) >= mlflow_baseline("worst_fold", rel=0.05)
