"""The traces of a test, collected as they finish, for `mlflow_traces` and for failure reports."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_mlctx.lifecycle import Observer

if TYPE_CHECKING:
    from mlflow.entities import Trace

    from pytest_mlctx.guard import Guard
    from pytest_mlctx.late_threads import LateThreads
    from pytest_mlctx.services.state.mlflow_tracing import OpenTrace
    from pytest_mlctx.tracking import Tracking

_GRACE = 0.1  # seconds for other threads: who was sent an answer may go on before the span of it ends


class _Author(NamedTuple):
    """Who began a trace."""

    thread: threading.Thread
    task: weakref.ref[asyncio.Task[Any]] | None


class Traces(Observer):
    """Follows traces while the MLflow service is in force.

    Attributes:
        finished: the traces that the test finished, oldest first; of each attempt at it another list.
    """

    def __init__(self, guard: Guard, late_threads: LateThreads, tracking: Tracking) -> None:
        self._guard, self._late_threads, self._tracking = guard, late_threads, tracking
        self._of_fixtures = 0  # of higher scope, which are in the middle of their setup
        self._authors: dict[str, _Author] = {}  # of the traces that the test has begun, by their ids
        self.finished: list[Trace] = []

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Within the block traces go to the outbox of the test that began them, and to the store later."""
        from pytest_mlctx.services import traces

        with traces.handed_over(self._begun), traces.deferred():
            yield

    def _begun(self, info: Any) -> Callable[[Any], None] | None:
        import mlflow

        from pytest_mlctx.services import mlflow_plugin

        try:
            self._late_threads.check()
        except RuntimeError:  # of a test before
            return None
        own = {**self._tracking.trace_tags(mlflow.get_tracking_uri()), **mlflow_plugin.tags()}
        info.tags.update({key: value for key, value in own.items() if key not in info.tags})
        if self._of_fixtures:
            return None
        self._authors[getattr(info, "trace_id", None) or info.request_id] = _Author(
            threading.current_thread(), _task()
        )
        return self.finished.append

    def before_setup(self, item: pytest.Item) -> None:
        """Begin a test, or another attempt at it."""
        self.finished, self._authors = [], {}

    def after_teardown(self, item: pytest.Item, *, failed: bool) -> None:
        """Close what the test has left open in other threads, or in no context, and name it."""
        from pytest_mlctx.services.state import mlflow_tracing

        if not self._authors:
            return
        left = self._left_open()
        patient_until = time.monotonic() + _GRACE
        while any(author.thread.is_alive() for _, author in left if not _is_here(author)):
            if time.monotonic() > patient_until:
                break
            time.sleep(0.001)
            left = self._left_open()
        for trace, author in left:
            if mlflow_tracing.abandon(trace.otel_id):
                where = "" if _is_here(author) else " in another thread"
                self._guard.found(f"span {trace.name!r} left open{where}")
        self._authors = {}

    def _left_open(self) -> list[tuple[OpenTrace, _Author]]:
        from pytest_mlctx.services.state import mlflow_tracing

        found = [
            (trace, self._authors[trace.id])
            for trace in mlflow_tracing.open_traces()
            if trace.id in self._authors
        ]
        return [(trace, author) for trace, author in found if not self._outlives(author)]

    def _outlives(self, author: _Author) -> bool:
        """Whether it may be a fixture's of higher scope: its thread, or a task that waits for its loop."""
        if not _is_here(author):
            return self._late_threads.is_welcome(author.thread)
        task = None if author.task is None else author.task()
        return task is not None and not task.done() and not task.get_loop().is_closed()

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


def _is_here(author: _Author) -> bool:
    return author.thread is threading.current_thread()


def _task() -> weakref.ref[asyncio.Task[Any]] | None:
    with suppress(RuntimeError):  # no loop runs in this thread
        task = asyncio.current_task()
        return None if task is None else weakref.ref(task)
    return None
