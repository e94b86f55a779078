import mlflow
import pytest
from loguru import logger


def test_ours(mlflow_service, logger_service, alerts_service, alerts_outbox, caplog):
    logger.info("told")
    assert caplog.messages.count("told") == 1
    alerts_service.notify("title", "text")
    assert len(alerts_outbox) == 1
    with mlflow.start_run():
        mlflow.log_metric("m", 1)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.data.metrics == {"m": 1}


@pytest.mark.parametrize("number", range(2))
def test_ours_is_isolated(mlflow_run, mlflow_traces, number):
    with mlflow.start_span("agent"):
        pass
    assert len(mlflow_traces) == 1
    mlflow.log_param("number", number)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.run_id == mlflow_run.info.run_id
