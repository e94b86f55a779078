"""The process-wide state of MLflow: the kinds of all its parts, in the order in which they are put back."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Iterable
from typing import Any

from pytest_mlctx.services.state.kinds import Attribute, Kind
from pytest_mlctx.services.state.mlflow_runs import KINDS as RUNS
from pytest_mlctx.services.state.mlflow_stores import KINDS as STORES


def _shown(uri: str) -> str:
    """A URI without its credentials."""
    return re.sub(r"(?<=://)[^/@]*@", "***@", uri)


def _uri(what: str) -> Any:
    def tell(before: Any, after: Any) -> str:
        return f"{what} changed to {_shown(str(after))}" if after else f"{what} unset"

    return tell


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
    *RUNS,
    Attribute(
        "mlflow.tracking_uri",
        "mlflow.tracking._tracking_service.utils",
        "_tracking_uri",
        tell=_uri("tracking URI"),
    ),
    Attribute(
        "mlflow.registry_uri",
        "mlflow.tracking._model_registry.utils",
        "_registry_uri",
        tell=_uri("registry URI"),
    ),
    Attribute(
        "mlflow.experiment",
        "mlflow.tracking.fluent",
        "_active_experiment_id",
        tell=lambda before, after: (
            f"active experiment changed to {after}" if after else "active experiment unset"
        ),
    ),
    *STORES,
    LoggerLevel(),
    Attribute(
        "mlflow.log_stream",
        "mlflow.utils.logging_utils",
        "MLFLOW_LOGGING_STREAM._enabled",
        pristine=True,
        tell=lambda before, after: f"MLflow's logging {'enabled' if after else 'disabled'}",
    ),
)
