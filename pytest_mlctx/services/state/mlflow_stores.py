"""MLflow's registries of stores, by scheme, and the database engines that it keeps."""

from __future__ import annotations

import functools
import sys
from collections.abc import Hashable, Iterable
from types import FunctionType
from typing import Any

from pytest_mlctx.services import mlflow_internals
from pytest_mlctx.services.state.kinds import ABSENT, Kind

_TRACKING = "mlflow.tracking._tracking_service.utils"
_MODELS = "mlflow.tracking._model_registry.utils"
_ARTIFACTS = "mlflow.store.artifact.artifact_repository_registry"


class Builder(Kind):
    """What builds the stores of a scheme, where it is not what MLflow has registered."""

    def __init__(self, what: str, module: str, variable: str, register: str) -> None:
        self.name: str = f"mlflow.{what.replace(' ', '_')}"
        self._what = what
        self._names = (module, variable, register)
        self.leans_on: tuple[str, ...] = mlflow_internals.listed(f"{variable}._registry", register)

    def _registry(self) -> dict[str, Any]:
        module, variable, _ = self._names
        return getattr(getattr(sys.modules.get(module), variable, None), "_registry", {})

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The builders of others by scheme, None for one that was removed."""
        registry = self._registry()
        if not registry:  # MLflow makes that of the models when it first needs it
            return ()
        originals = _originals(*self._names)
        schemes = registry.keys() | originals.keys()
        cells = [(scheme, registry.get(scheme)) for scheme in schemes]
        return [(scheme, builder) for scheme, builder in cells if builder is not originals.get(scheme)]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Register the builder before, and forget the stores that the one now has built."""
        name, variable, _ = self._names
        builder = _originals(*self._names).get(key) if before is ABSENT else before
        if builder is None:
            self._registry().pop(key, None)
        else:
            self._registry()[key] = builder
        module = sys.modules[name]
        for owner, cached in (
            (type(getattr(module, variable)), "_get_store_with_resolved_uri"),
            (module, "_get_tracking_scheme_with_resolved_uri"),
        ):
            if hasattr(owner, cached):
                getattr(owner, cached).cache_clear()

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The scheme."""
        what = "removed" if after is None else "given back" if after is ABSENT else "registered"
        return f"{self._what} for the scheme {key!r} {what}"


@functools.cache
def _originals(module: str, variable: str, register: str) -> dict[str, Any]:
    """What the registering function fills an empty registry with, run beside the one in force."""
    namespace = vars(sys.modules[module])
    current = namespace[variable]
    function = namespace.get(register)
    if function is None:  # registered by statements: what has not been replaced by code of others since
        return {
            scheme: builder
            for scheme, builder in current._registry.items()
            if builder.__module__.partition(".")[0] == "mlflow"
        }
    copy = {**namespace, variable: type(current)() if register.startswith("_register") else None}
    FunctionType(function.__code__, copy, function.__name__, function.__defaults__)()
    return dict(copy[variable]._registry)


def engines() -> dict[str, dict[str, Any]]:
    """MLflow's own tables of database engines by URI: of its ``tracking`` stores, and of the others."""
    stores = {
        part: getattr(sys.modules.get(f"mlflow.store.{part}.sqlalchemy_store"), "SqlAlchemyStore", None)
        for part in ("tracking", "model_registry", "jobs")
    }
    return {
        part: getattr(store, variable)
        for part, store in stores.items()
        for variable in ("_engine_map", "_db_uri_sql_alchemy_engine_map")  # MLflow 3 and 2
        if hasattr(store, variable)
    }


class Engine(Kind):
    """A database engine that MLflow keeps for a URI."""

    name = "mlflow.engine"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The engines by store and URI."""
        return [
            ((part, uri), engine) for part, by_uri in engines().items() for uri, engine in [*by_uri.items()]
        ]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Close the connections of a new engine; a database in memory would lose its tables, and is kept."""
        part, uri = key
        if before is not ABSENT:
            engines()[part][uri] = before
        elif now.url.database not in (None, "", ":memory:"):
            engines()[part].pop(uri, None)
            now.dispose()


KINDS: tuple[Kind, ...] = (
    Builder("tracking store", _TRACKING, "_tracking_store_registry", "_register_tracking_stores"),
    Builder("registry store", _MODELS, "_model_registry_store_registry", "_get_store_registry"),
    Builder("artifact repository", _ARTIFACTS, "_artifact_repository_registry", ""),
    Engine(),
)
