"""The environment variables that MLflow and its tracing read."""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable, Iterable
from typing import Any

from pytest_mlctx.services import defaults
from pytest_mlctx.services.state.kinds import ABSENT, Cell, Kind, put

_PREFIXES = ("MLFLOW_", "_MLFLOW_", "OTEL_")
_OWN = "_MLFLOW_TELEMETRY_SESSION_ID"  # MLflow's id of this process, set when it is imported
# What MLflow sets together with a variable of its own, for child processes.
_ECHOES: dict[str, str] = {
    "MLFLOW_TRACKING_URI": "mlflow.tracking_uri",
    "MLFLOW_REGISTRY_URI": "mlflow.registry_uri",
    "MLFLOW_EXPERIMENT_ID": "mlflow.experiment",
    "MLFLOW_WORKSPACE": "mlflow.workspace",
}


class Variable(Kind):
    """An environment variable. Its value is never told: it may be a credential."""

    name = "environment.variable"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The variables that are set."""
        environ = os.environ
        return [(name, environ[name]) for name in environ if name.startswith(_PREFIXES) and name != _OWN]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Set or delete the variable."""
        put(os.environ, key, before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """Which variable, and what became of it."""
        if key == "OTEL_RESOURCE_ATTRIBUTES":  # MLflow adds itself to it when it makes a tracer provider
            return None
        if after is ABSENT and defaults.stood_in(before):  # code went to another store, or cleaned up
            return None
        if before is ABSENT and after == _default(key):  # so MLflow switches off what it has switched on
            return None
        what = "set" if before is ABSENT else "deleted" if after is ABSENT else "changed"
        return f"`{key}` {what}"

    def echo_of(self, key: Any) -> Cell | None:
        """The cell of MLflow that the variable was set together with."""
        return (_ECHOES[key], "") if key in _ECHOES else None


def _default(name: str) -> str | None:
    """What MLflow takes for a variable that is not set."""
    variable = getattr(sys.modules.get("mlflow.environment_variables"), name, None)
    default = getattr(variable, "default", None)
    return None if default is None else str(default)


KINDS: tuple[Kind, ...] = (Variable(),)
