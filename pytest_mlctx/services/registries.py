"""MLflow's two registries, of tracking stores and of model registries: builders by scheme, stores by URI."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pytest_mlctx.services import mlflow_internals
from pytest_mlctx.services.errors import ServiceError

_TRACKING, _MODELS = "_tracking_store_registry._registry", "_get_store_registry"


def both() -> tuple[Any, ...]:
    """That of tracking stores, and that of model registries; none where this MLflow keeps them otherwise."""
    if not (mlflow_internals.known(_TRACKING) and mlflow_internals.known(_MODELS)):
        return ()
    return mlflow_internals.owner(_TRACKING), mlflow_internals.owner(_MODELS)._get_store_registry()


def forget() -> None:
    """Drop the stores that they have built, so that the next use asks the builders in force."""
    for registry in both():
        type(registry)._get_store_with_resolved_uri.cache_clear()


def tracking_store(uri: str) -> Any:
    """MLflow's tracking store of this URI, as it is while the service is in force."""
    return _open("mlflow.tracking._tracking_service.utils", uri)


def model_registry(uri: str) -> Any:
    """MLflow's model registry of this URI."""
    return _open("mlflow.tracking._model_registry.utils", uri)


def _open(module: str, uri: str) -> Any:
    try:
        get_store = import_module(module)._get_store
    except (ImportError, AttributeError):
        mlflow = import_module("mlflow").__version__
        raise ServiceError(
            f"MLflow {mlflow} has no {module}._get_store, without which pytest-mlctx opens no store: "
            "install an older MLflow, or a newer pytest-mlctx."
        ) from None
    return get_store(uri)
