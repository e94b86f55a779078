"""The process-wide state of MLflow: the kinds of all its parts, in the order in which they are put back."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from pytest_mlctx.services import defaults
from pytest_mlctx.services.state.kinds import (
    ABSENT,
    AsImported,
    Attribute,
    ContextVariable,
    Held,
    Kind,
    Setting,
    Table,
)
from pytest_mlctx.services.state.mlflow_autologging import KINDS as AUTOLOGGING
from pytest_mlctx.services.state.mlflow_background import KINDS as WORK
from pytest_mlctx.services.state.mlflow_runs import KINDS as RUNS
from pytest_mlctx.services.state.mlflow_runs import experiment_name
from pytest_mlctx.services.state.mlflow_stores import KINDS as STORES
from pytest_mlctx.services.state.mlflow_tracing import KINDS as TRACING


def _changed(what: str) -> Callable[[Any], str]:
    def tell(after: Any) -> str:
        from pytest_mlctx.services.credentials import redact

        return f"{what} changed to {redact(str(after))}" if after else f"{what} unset"

    return tell


def _experiment(after: Any) -> str:
    if not after:
        return "active experiment unset"
    name = experiment_name(after)
    return f"active experiment changed to {after if name is None else repr(name)}"


class WithVariable(Attribute):
    """A variable of MLflow's that goes before an environment variable: what is in force by it is told.

    Its value is a `Held` of the variable, with what is in force by it or by the environment.
    """

    def __init__(
        self, name: str, module: str, path: str, variable: str, default: str, tell: Callable[[Any], str]
    ) -> None:
        super().__init__(name, module, path)
        self._variable = variable
        self._field = default  # of what a running service makes MLflow fall back on
        self._say = tell

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell, where either is set."""
        value, variable = self._get(), os.environ.get(self._variable, "")
        if self._owner() is None or (value is None and not variable):
            return ()
        return (("", Held(value, (value, str(value or variable)))),)

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """MLflow's own is not set; the environment is not of the import's making."""
        return {key: value for key, value in now.items() if isinstance(value, Held) and value.key is None}

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Assign the variable."""
        self._set(None if before is ABSENT else before.key)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """What is in force, where that is something else than before; the environment tells itself."""
        was, now = (None if value is ABSENT else value.key for value in (before, after))
        if was is None and now is None:
            return None
        in_force = [self._in_force(before), self._in_force(after)]
        return None if in_force[0] == in_force[1] else self._say(in_force[1])

    def _in_force(self, value: Any) -> str:
        if value is not ABSENT and value.key is not None:
            return str(value.key)
        ours = getattr(defaults.held, self._field, None)
        return str(ours or ("" if value is ABSENT else value.thing[1]) or self._default())

    def _default(self) -> str:
        """What is in force where nothing is set."""
        if not self._variable.endswith("URI"):
            return ""
        value, variable = self._get(), os.environ.pop(self._variable, None)
        self._set(None)
        try:
            return str(sys.modules["mlflow"].get_tracking_uri())
        except OSError:  # the working folder was deleted
            return ""
        finally:
            self._set(value)
            if variable is not None:
                os.environ[self._variable] = variable


KINDS: tuple[Kind, ...] = (
    *WORK,
    *RUNS,
    *AUTOLOGGING,
    *TRACING,  # before the URIs and the stores: a provider that is put away exports what it holds
    WithVariable(
        "mlflow.tracking_uri",
        "mlflow.tracking._tracking_service.utils",
        "_tracking_uri",
        "MLFLOW_TRACKING_URI",
        "tracking_uri",
        tell=_changed("tracking URI"),
    ),
    WithVariable(
        "mlflow.registry_uri",
        "mlflow.tracking._model_registry.utils",
        "_registry_uri",
        "MLFLOW_REGISTRY_URI",
        "registry_uri",
        tell=_changed("registry URI"),
    ),
    Attribute("mlflow.defaults", "pytest_mlctx.services.defaults", "held"),
    AsImported("mlflow.reset", "mlflow.tracking._tracking_service.utils", "reset"),
    AsImported(
        "mlflow.tracking_uri_from_env", "mlflow.tracking._tracking_service.utils", "MLFLOW_TRACKING_URI"
    ),
    AsImported("mlflow.experiment_from_env", "mlflow.tracking.fluent", "_get_experiment_id_from_env"),
    AsImported(
        "mlflow.registry_from_env", "mlflow.tracking._model_registry.utils", "_get_registry_uri_from_context"
    ),
    WithVariable(
        "mlflow.experiment",
        "mlflow.tracking.fluent",
        "_active_experiment_id",
        "MLFLOW_EXPERIMENT_ID",
        "experiment_id",
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
    Table(  # what judges learnt of a model
        "mlflow.judge_format",
        "mlflow.genai.judges.adapters.gateway_adapter",
        "_MODEL_RESPONSE_FORMAT_CAPABILITIES",
    ),
    Table(
        "mlflow.judge_format_litellm",
        "mlflow.genai.judges.adapters.litellm_adapter",
        "_MODEL_RESPONSE_FORMAT_CAPABILITIES",
    ),
    Table("mlflow.server_info", "mlflow.utils.server_info", "_SERVER_INFO_CACHE"),
    AsImported(
        "mlflow.create_run", "mlflow.tracking._tracking_service.client", "TrackingServiceClient.create_run"
    ),
    Setting(
        "mlflow.logger",
        lambda: logging.getLogger("mlflow").level,
        lambda level: logging.getLogger("mlflow").setLevel(level),
        tell=lambda after: f"level of MLflow's logger changed to {logging.getLevelName(after)}",
    ),
    Attribute(
        "mlflow.log_stream",
        "mlflow.utils.logging_utils",
        "MLFLOW_LOGGING_STREAM._enabled",
        pristine=True,
        tell=lambda after: f"MLflow's logging {'enabled' if after else 'disabled'}",
    ),
)
