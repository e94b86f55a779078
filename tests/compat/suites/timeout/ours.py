import time

import mlflow
import pytest


@pytest.mark.timeout(1)
def test_ours_takes_too_long(mlflow_run):
    time.sleep(20)


def test_ours_after_it(mlflow_service):
    assert mlflow.active_run() is None
