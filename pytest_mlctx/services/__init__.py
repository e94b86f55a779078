"""Global context for ML workflows: logger, alerts and MLflow as services, with or without pytest.

The names are imported when they are first used: the state is looked after where loguru is not in use, too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_mlctx.services.alerts import Alert, AlertsService
    from pytest_mlctx.services.base import Service
    from pytest_mlctx.services.errors import ServiceError
    from pytest_mlctx.services.logger import LoggerService
    from pytest_mlctx.services.mlflow import MlflowService, RunConfig
    from pytest_mlctx.services.requirements import reuse_requirements

__all__ = [
    "Alert",
    "AlertsService",
    "LoggerService",
    "MlflowService",
    "RunConfig",
    "Service",
    "ServiceError",
    "reuse_requirements",
]

_HOMES = {
    "Alert": "alerts",
    "AlertsService": "alerts",
    "LoggerService": "logger",
    "MlflowService": "mlflow",
    "RunConfig": "mlflow",
    "Service": "base",
    "ServiceError": "errors",
    "reuse_requirements": "requirements",
}

if not TYPE_CHECKING:  # to type checkers a name that is not above is a mistake

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
