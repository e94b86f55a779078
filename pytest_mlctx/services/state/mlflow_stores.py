"""MLflow's registries of stores, by scheme, and the database engines that it keeps."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from pytest_mlctx.services.state.kinds import ABSENT, Kind


class Builder(Kind):
    """What builds the stores of a scheme."""

    def __init__(self, what: str, module: str, variable: str, *caches: str) -> None:
        self.name = f"mlflow.{what.replace(' ', '_')}"
        self._what = what
        self._module = module
        self._variable = variable
        self._caches = caches

    def _registry(self) -> dict[str, Any]:
        registry = getattr(sys.modules.get(self._module), self._variable, None)
        return {} if registry is None else registry._registry  # type: ignore[no-any-return]

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The builders by scheme; none where MLflow has not made the registry yet."""
        return self._registry().items()

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Register the builder before, and forget the stores that the one now has built."""
        if before is ABSENT:
            self._registry().pop(key, None)
        else:
            self._registry()[key] = before
        module = sys.modules[self._module]
        registry = getattr(module, self._variable)
        cached = getattr(type(registry), "_get_store_with_resolved_uri", None)
        if cached is not None:
            cached.cache_clear()
        for name in self._caches:
            if hasattr(module, name):
                getattr(module, name).cache_clear()

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The scheme."""
        if before is ABSENT and _is_own(after):
            return None
        what = "registered" if before is ABSENT else "unregistered" if after is ABSENT else "replaced"
        return f"{self._what} for the scheme {key!r} {what}"

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """Those that come with MLflow or with an installed package's entry point."""
        return {scheme: builder for scheme, builder in now.items() if _is_own(builder)}


def _is_own(builder: object) -> bool:
    return getattr(builder, "__module__", "").partition(".")[0] == "mlflow"


class Engine(Kind):
    """A database engine that MLflow keeps for a URI."""

    name = "mlflow.engine"

    _MAPS = tuple(
        (f"mlflow.store.{part}.sqlalchemy_store", variable)
        for part in ("tracking", "model_registry", "jobs")
        for variable in ("_engine_map", "_db_uri_sql_alchemy_engine_map")
    )

    def _maps(self) -> Iterable[tuple[str, dict[str, Any]]]:
        for module, variable in self._MAPS:
            store = getattr(sys.modules.get(module), "SqlAlchemyStore", None)
            engines = getattr(store, variable, None)
            if engines is not None:
                yield module, engines

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The engines by store and URI."""
        return [
            ((module, uri), engine) for module, engines in self._maps() for uri, engine in [*engines.items()]
        ]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Close the connections of a new engine; one in memory would lose its tables."""
        if before is ABSENT and now.url.database not in (None, "", ":memory:"):
            now.dispose()


KINDS: tuple[Kind, ...] = (
    Builder(
        "tracking store",
        "mlflow.tracking._tracking_service.utils",
        "_tracking_store_registry",
        "_get_tracking_scheme_with_resolved_uri",
    ),
    Builder("registry store", "mlflow.tracking._model_registry.utils", "_model_registry_store_registry"),
    Builder(
        "artifact repository",
        "mlflow.store.artifact.artifact_repository_registry",
        "_artifact_repository_registry",
    ),
    Engine(),
)
