"""The builders of SQLite stores that MLflow's registries use while a service of ours runs."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from pytest_mlctx.services.store import filling, opening, places, temporary


def serve() -> None:
    """Build the SQLite stores of MLflow's tracking and model registries from now on; again does nothing.

    Artifacts of new experiments lie in ``mlartifacts/`` beside the database file, a missing or empty file
    is filled from the template, and every connection waits 60 s for a lock. A store of ours also forgoes
    fsync and the check of its schema. Undone by giving the registries their builders back.
    """
    tracking = importlib.import_module("mlflow.tracking._tracking_service.utils")
    models = importlib.import_module("mlflow.tracking._model_registry.utils")
    for registry in (tracking._tracking_store_registry, models._get_store_registry()):
        build = registry._registry.get("sqlite")
        if build is None or hasattr(build, "mlctx_serves"):
            continue
        registry.register("sqlite", _serving(build))
        # A store that was opened before would write its artifacts to ./mlruns still.
        type(registry)._get_store_with_resolved_uri.cache_clear()


def _serving(build: Callable[..., Any]) -> Callable[..., Any]:
    # MLflow asks the builder's signature what to pass, and its module whether the scheme is its own.
    @functools.wraps(build)
    def builder(store_uri: str, **arguments: Any) -> Any:
        path = places.database(store_uri)
        own = None if path is None else temporary.store_at(path)
        if path is not None and own is None:
            filling.fill(path)
        root = None if path is None else own.artifacts if own else places.artifacts_beside(path)
        if root is not None and arguments.get("artifact_uri", "not asked for") is None:
            arguments["artifact_uri"] = places.artifact_uri(root)
        fast = () if own is None else ("synchronous = OFF",)
        admit = None if own is None else functools.partial(temporary.admit, own.path)
        with opening.settings(*fast, admit=admit):
            opening.forget_foreign_engine(store_uri)
            store = build(store_uri=store_uri, **arguments)
        if own is not None and getattr(store, "artifact_root_uri", None) == places.artifact_uri(
            own.artifacts
        ):
            own.served.add(store)
        return store

    builder.mlctx_serves = True  # type: ignore[attr-defined]
    return builder
