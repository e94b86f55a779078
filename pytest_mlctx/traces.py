"""The traces of a test, collected as they finish, for `mlflow_traces` and for failure reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx.lifecycle import Room

if TYPE_CHECKING:
    from mlflow.entities import Trace

    from pytest_mlctx.late_threads import LateThreads
    from pytest_mlctx.tracking import Tracking


class Traces(Room):
    """Follows traces while the MLflow service is in force.

    Attributes:
        outbox: the traces that the test finished, oldest first; of each attempt at it another list.
    """

    def __init__(self, late_threads: LateThreads, tracking: Tracking) -> None:
        self._late_threads, self._tracking = late_threads, tracking
        self._of_fixtures = 0  # of higher scope, which are in the middle of their setup
        self.outbox: list[Trace] = []

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Within the block traces go to the outbox of the test that began them, and to the store later."""
        from pytest_mlctx.services import traces

        with traces.handed_over(self._begun), traces.deferred():
            yield

    def _begun(self, info: Any) -> Callable[[Any], None] | None:
        import mlflow

        from pytest_mlctx.services import mlflow_tests

        try:
            self._late_threads.check()
        except RuntimeError:  # of a test before
            return None
        own = {**self._tracking.trace_tags(mlflow.get_tracking_uri()), **mlflow_tests.tags()}
        info.tags.update({key: value for key, value in own.items() if key not in info.tags})
        return None if self._of_fixtures else self.outbox.append

    def before_setup(self, item: pytest.Item) -> None:
        """Begin a test, or another attempt at it."""
        self.outbox = []

    @contextmanager
    def during_setup_of_shared(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """The traces of a fixture of higher scope are no test's; it leaves them written."""
        from pytest_mlctx.services.store import pending

        self._of_fixtures += 1
        try:
            yield
        finally:
            self._of_fixtures -= 1
            pending.flush_all()
