"""Hears of each tracking store that MLflow uses, whatever it is used for: runs, traces, models, searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def each_use(hear: Callable[[str], None]) -> Iterator[None]:
    """Within the block this is called with the URI of a tracking store each time that MLflow asks for one."""
    service = import_module("mlflow.tracking._tracking_service.utils")
    registry: Any = service._tracking_store_registry
    original = registry.get_store

    def get_store(store_uri: str | None = None, artifact_uri: str | None = None) -> Any:
        hear(store_uri or service.get_tracking_uri())
        return original(store_uri, artifact_uri)

    registry.get_store = get_store
    try:
        yield
    finally:
        if vars(registry).get("get_store") is get_store:  # somebody may have wrapped ours since
            del registry.get_store
