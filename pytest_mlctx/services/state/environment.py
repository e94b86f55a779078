"""The environment variables that MLflow and its tracing read."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from typing import Any

from pytest_mlctx.services.state.kinds import ABSENT, Kind

_PREFIXES = ("MLFLOW_", "_MLFLOW_", "OTEL_")
_OWN = "_MLFLOW_TELEMETRY_SESSION_ID"  # MLflow's id of this process, set when it is imported


class Variable(Kind):
    """An environment variable. Its value is never told: it may be a credential."""

    name = "environment.variable"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The variables that are set."""
        environ = os.environ
        return [(name, environ[name]) for name in environ if name.startswith(_PREFIXES) and name != _OWN]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Set or delete the variable."""
        if before is ABSENT:
            os.environ.pop(key, None)
        else:
            os.environ[key] = before

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """Which variable, and what became of it."""
        what = "set" if before is ABSENT else "deleted" if after is ABSENT else "changed"
        return f"`{key}` {what}"


KINDS: tuple[Kind, ...] = (Variable(),)
