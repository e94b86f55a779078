"""What type checkers know of the package's lazy names: checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import assert_type

import pytest_mlctx
import pytest_mlctx.services
from pytest_mlctx import Alert, AlertsService, LoggerService, MlflowService, RunConfig, Service, ServiceError

if TYPE_CHECKING:
    import loguru  # noqa: F401
    import mlflow  # noqa: F401


def lazy_names_are_the_classes_themselves() -> None:
    assert_type(pytest_mlctx.MlflowService(), MlflowService)
    assert_type(pytest_mlctx.services.MlflowService(), MlflowService)
    assert_type(pytest_mlctx.LoggerService(), LoggerService)
    assert_type(pytest_mlctx.AlertsService(), AlertsService)
    assert_type(pytest_mlctx.RunConfig(name="train"), RunConfig)
    assert_type(MlflowService.RunConfig(name="train"), RunConfig)
    assert_type(pytest_mlctx.ServiceError("no"), ServiceError)


def lifecycle(service: Service) -> None:
    assert_type(service.start(), None)
    assert_type(service.stop(), None)
    assert_type(service.running, bool)
    with service as same:
        assert_type(same, Service)
    assert_type(MlflowService.current(), MlflowService)
    assert_type(Service.current(), Service)
    with MlflowService(experiment_name="training") as tracking:
        assert_type(tracking, MlflowService)


def logger(service: LoggerService) -> None:
    assert_type(service.logger(), "loguru.Logger")
    assert_type((service.sink, service.level, service.format), tuple[str, str, str])
    assert_type(
        (service.colorize, service.serialize, service.backtrace, service.diagnose, service.catch),
        tuple[bool, bool, bool, bool, bool],
    )


def alerts(service: AlertsService) -> None:
    assert_type(service.notify("title", "message", level="ERROR"), None)
    assert_type(service.sent, list[Alert])
    assert_type((service.enable, service.app_name, service.timeout), tuple[bool, str, int | None])
    assert_type(
        [(alert.title, alert.message, alert.level) for alert in service.sent], list[tuple[str, str, str]]
    )


def tracking(service: MlflowService) -> None:
    assert_type(service.tracking_uri, str)
    assert_type(service.registry_uri, str | None)
    assert_type(service.client(), "mlflow.MlflowClient")
    config = RunConfig(name="train", description="of a model", tags={"k": 5}, log_system_metrics=None)
    with service.run_context(config) as run:
        assert_type(run, "mlflow.ActiveRun")
    assert_type(config.tags, dict[str, Any] | None)


def wrong_uses_are_refused(service: MlflowService) -> None:
    RunConfig()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    service.run_context("train")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pytest_mlctx.MlflowServise  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
