"""The process-wide state of MLflow: the kinds of all its parts, in the order in which they are put back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from pytest_mlctx.services.state.kinds import AsImported, Attribute, ContextVariable, Kind, Table
from pytest_mlctx.services.state.mlflow_autologging import KINDS as AUTOLOGGING
from pytest_mlctx.services.state.mlflow_runs import KINDS as RUNS
from pytest_mlctx.services.state.mlflow_runs import experiment_name
from pytest_mlctx.services.state.mlflow_stores import KINDS as STORES
from pytest_mlctx.services.state.mlflow_tracing import KINDS as TRACING
from pytest_mlctx.services.state.mlflow_work import KINDS as WORK


def _changed(what: str) -> Callable[[Any], str]:
    def tell(after: Any) -> str:
        from pytest_mlctx.services.secrets import redact

        return f"{what} changed to {redact(str(after))}" if after else f"{what} unset"

    return tell


def _experiment(after: Any) -> str:
    if not after:
        return "active experiment unset"
    name = experiment_name(after)
    return f"active experiment changed to {after if name is None else repr(name)}"


class LoggerLevel(Kind):
    """The level of MLflow's own logger."""

    name = "mlflow.logger"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell."""
        return (("", logging.getLogger("mlflow").level),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Set the level."""
        logging.getLogger("mlflow").setLevel(before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The new level."""
        return f"level of MLflow's logger changed to {logging.getLevelName(after)}"

    def pristine(self, now: Any) -> Any:
        """MLflow sets it from the environment: what it is now."""
        return now


KINDS: tuple[Kind, ...] = (
    *WORK,
    *RUNS,
    *AUTOLOGGING,
    *TRACING,  # before the URIs and the stores: a provider that is put away exports what it holds
    Attribute(
        "mlflow.tracking_uri",
        "mlflow.tracking._tracking_service.utils",
        "_tracking_uri",
        tell=_changed("tracking URI"),
    ),
    Attribute(
        "mlflow.registry_uri",
        "mlflow.tracking._model_registry.utils",
        "_registry_uri",
        tell=_changed("registry URI"),
    ),
    Attribute(
        "mlflow.experiment",
        "mlflow.tracking.fluent",
        "_active_experiment_id",
        tell=_experiment,
    ),
    Attribute(
        "mlflow.deployments",
        "mlflow.deployments.utils",
        "_deployments_target",
        tell=_changed("deployments target"),
    ),
    ContextVariable(  # MLflow 3
        "mlflow.workspace", "mlflow.utils.workspace_context", "_WORKSPACE", tell=_changed("workspace")
    ),
    ContextVariable(
        "mlflow.workspace_resolved",
        "mlflow.utils.workspace_context",
        "_IS_WORKSPACE_RESOLVED",
        pristine=False,
    ),
    ContextVariable("mlflow.prediction", "mlflow.pyfunc.context", "_PREDICTION_REQUEST_CTX"),
    Attribute("mlflow.model_from_code", "mlflow.models.model", "__mlflow_model__"),
    Attribute("mlflow.model_config", "mlflow.models.model_config", "__mlflow_model_config__"),
    *STORES,
    Table("mlflow.prompt", "mlflow.prompt.registry_utils", "PromptCache._instance._cache"),
    Table("mlflow.server_info", "mlflow.utils.server_info", "_SERVER_INFO_CACHE"),
    AsImported(
        "mlflow.create_run", "mlflow.tracking._tracking_service.client", "TrackingServiceClient.create_run"
    ),
    LoggerLevel(),
    Attribute(
        "mlflow.log_stream",
        "mlflow.utils.logging_utils",
        "MLFLOW_LOGGING_STREAM._enabled",
        pristine=True,
        tell=lambda after: f"MLflow's logging {'enabled' if after else 'disabled'}",
    ),
)
