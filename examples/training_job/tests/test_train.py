"""The job's tests: handed the suite's running services, it starts and stops them and they live on."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from train import Job

from pytest_mlctx import Alert, AlertsService, LoggerService, MlflowService

JOB = Path(__file__).parent.parent / "job.yaml"


def test_job_tracks_what_it_trains(
    logger_service: LoggerService,
    alerts_service: AlertsService,
    mlflow_service: MlflowService,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = Job(alpha=0.1, logger=logger_service, alerts=alerts_service, tracking=mlflow_service)
    score = job.run()
    client = mlflow_service.client()
    experiment = client.get_experiment_by_name(mlflow_service.experiment_name)
    run = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"], max_results=1)[0]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"alpha": "0.1"}
    assert run.data.metrics["r2"] == score > 0.4
    assert any(message.startswith("R² 0.4") for message in caplog.messages)
    assert logger_service.running
    assert mlflow_service.running


def test_too_much_regularization_alerts(
    alerts_service: AlertsService, mlflow_service: MlflowService, alerts_outbox: list[Alert]
) -> None:
    Job(alpha=100, alerts=alerts_service, tracking=mlflow_service).run()
    assert [alert.title for alert in alerts_outbox] == ["Poor model"]


def test_job_file_as_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job.read(JOB)
    job.run()
    assert not job.tracking.running
    with job.tracking as service:
        (version,) = service.client().search_model_versions(f"name = '{service.registry_name}'")
    assert int(version.version) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlartifacts"}


def test_mistake_in_job_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("alpha: 0.1\ntracking: {experiment: diabetes}\n")
    with pytest.raises(ValidationError, match=r"tracking\.experiment\s+Extra inputs are not permitted"):
        Job.read(path)
