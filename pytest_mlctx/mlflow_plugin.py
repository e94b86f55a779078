"""The run of MLflow's own pytest plugin: active in tests decorated with `@mlflow.test` alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_mlctx.lifecycle import Observer

if TYPE_CHECKING:
    from pytest_mlctx.services.mlflow_plugin import SetAside


class MlflowPlugin(Observer):
    """Sets the plugin's run aside when one of its tests is over, and gives it back to the next.

    Args:
        keeps: whether the temporary store keeps what tests log, as any other store does.
    """

    def __init__(self, keeps: bool) -> None:
        from pytest_mlctx.services import mlflow_plugin, store

        self._plugin, self._store = mlflow_plugin, store
        self._keeps = keeps
        self._run: SetAside | None = None
        self._is_one = False

    def before_setup(self, item: pytest.Item) -> None:
        """Note whose test begins."""
        self._is_one = self._plugin.is_mlflow_test(getattr(item, "function", None))

    def before_call(self) -> None:
        """Give it back to its test."""
        if self._is_one and self._run is not None:
            self._plugin.give_back(self._run)
            self._run = None

    def before_teardown(self) -> None:
        """Set it aside, before anybody looks for what the test left open."""
        import mlflow  # by the plugin, which is in use

        keep = self._keeps or not self._store.is_temporary(mlflow.get_tracking_uri())
        self._run = self._plugin.set_aside(keep=keep) or self._run

    @contextmanager
    def during_sessionfinish(self, exitstatus: int) -> Iterator[None]:
        """End it where MLflow tracked when it was set aside, which may be elsewhere by now."""
        self.close()
        yield

    def close(self) -> None:
        """End it, before the service does where there is one."""
        if self._run is not None:
            self._plugin.end(self._run)
            self._run = None
