"""A callback for each tracking store that MLflow asks its registry for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pytest_mlctx.services import mlflow_internals, registries


@contextmanager
def each_use(hear: Callable[[str], None]) -> Iterator[None]:
    """Within the block this is called with the URI of a tracking store each time that MLflow asks for one."""
    import mlflow

    def heard(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_store(store_uri: str | None = None, artifact_uri: str | None = None) -> Any:
            hear(store_uri or mlflow.get_tracking_uri())
            return original(store_uri, artifact_uri)

        return get_store

    with ExitStack() as stack:
        for registry in registries.both()[:1]:
            stack.enter_context(mlflow_internals.around(registry, "get_store", heard))
        yield
