"""Global context for ML workflows: logger, alerts and MLflow as services, with or without pytest."""

from pytest_mlctx.services.alerts import Alert, AlertsService
from pytest_mlctx.services.base import Service, ServiceError
from pytest_mlctx.services.logger import LoggerService
from pytest_mlctx.services.mlflow import MlflowService, RunConfig

__all__ = [
    "Alert",
    "AlertsService",
    "LoggerService",
    "MlflowService",
    "RunConfig",
    "Service",
    "ServiceError",
]
