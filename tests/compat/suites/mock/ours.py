import mlflow


def test_ours_mocked(mlflow_run, mocker):
    log = mocker.patch("mlflow.log_metric")
    mlflow.log_metric("m", 1)
    log.assert_called_once_with("m", 1)


def test_ours_after_it(mlflow_run):
    mlflow.log_metric("m", 1)
