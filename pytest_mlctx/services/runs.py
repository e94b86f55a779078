"""Tags for every run that this process opens, and runs detached from MLflow's active ones."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import Any

from pytest_mlctx.services import deadline, mlflow_internals, state, uris
from pytest_mlctx.services.registries import tracking_store
from pytest_mlctx.services.state.mlflow_runs import DEADLINE, active_runs, set_status
from pytest_mlctx.services.state.mlflow_stores import engines
from pytest_mlctx.services.store import builders

Tags = Callable[[str, str], Mapping[str, str]]
"""Tags for a run about to be opened, by the URI of its store and the id of its experiment."""

Opened = Callable[[str, str], None]
"""Told of a run that was opened: the URI of its store, and its id."""

_providers: list[tuple[Tags, Opened]] = []
_wrapping = ExitStack()


def active_run_ids() -> list[str]:
    """The ids of this thread's active runs, the innermost last."""
    return [run.info.run_id for run in active_runs()]


@contextmanager
def set_aside() -> Iterator[None]:
    """Within the block this thread has no active run; those that it opens and leaves open end with it."""
    import mlflow

    stack = active_runs()
    outside = stack.copy()
    stack.clear()
    try:
        yield
    finally:
        while stack:
            mlflow.end_run("KILLED")
        stack[:] = outside


@contextmanager
def tagging(tags: Tags, opened: Opened = lambda uri, run_id: None) -> Iterator[None]:
    """Within the block every run that this process opens gets these tags; those that its code gives win.

    All ways lead through ``TrackingServiceClient.create_run``: the fluent API, a client, autologging.
    """
    if not _providers:
        _wrapping.enter_context(mlflow_internals.wrapped("TrackingServiceClient.create_run", _tagged))
    provider = tags, opened
    _providers.append(provider)
    try:
        yield
    finally:
        _providers.remove(provider)
        if not _providers:
            _wrapping.close()


@contextmanager
def sourced(name: str) -> Iterator[None]:
    """Within the block this is the source that MLflow names, unless code sets another ``sys.argv`` itself."""
    before = sys.argv[:1]
    with mlflow_internals.wrapped(
        "_get_source_name", lambda original: lambda: name if sys.argv[:1] == before else original()
    ):
        yield


def _tagged(original: Any) -> Any:
    def create_run(
        self: Any,
        experiment_id: str,
        start_time: Any = None,
        tags: Any = None,
        run_name: Any = None,
        **more: Any,
    ) -> Any:
        ours = {
            key: value
            for provide, _ in _providers.copy()
            for key, value in provide(self.tracking_uri, str(experiment_id)).items()
        }
        run = original(self, experiment_id, start_time, {**ours, **(tags or {})}, run_name, **more)
        for _, opened in _providers.copy():
            opened(self.tracking_uri, run.info.run_id)
        return run

    return create_run


class Detached:
    """A run that is open in its store and no longer active in this process."""

    def __init__(self, run_id: str, store: Any) -> None:
        self._run_id = run_id
        self._store = store

    def close(self, status: str, tags: Mapping[str, str]) -> str | None:
        """End the run, also after the service has stopped.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
            tags: set beforehand.

        Returns:
            why the run stays open, such as a server that is away by now, in one sentence.
        """
        try:
            set_status(self._store, self._run_id, status, tags)
        except (LookupError, RuntimeError) as error:
            return str(error)
        finally:
            _let_go(self._store)
        return None


def detach(run_id: str, store_uri: str) -> Detached:
    """Take a run from this thread's active runs without ending it."""
    stack = active_runs()
    stack[:] = [run for run in stack if run.info.run_id != run_id]
    return Detached(run_id, tracking_store(store_uri))


@contextmanager
def opened_apart(store_uri: str, ask: Callable[[], None]) -> Iterator[Any]:
    """A store of one's own: after the block MLflow's globals and the environment are as before it.

    Args:
        store_uri: its URI.
        ask: called before it is opened, when mlflow has been imported.
    """
    before = state.capture("environment", "mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's of its own dependencies, which are errors under -W error
        try:
            if uris.is_file_store(store_uri):
                os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
            import_module("mlflow")
            ask()
            builders.install_builders(store_uri)
            yield tracking_store(store_uri)
        finally:
            state.restore(before)


def tag(store: Any, run_ids: Iterable[str], tags: Mapping[str, str]) -> None:
    """Tag runs in their store, also after the service has stopped.

    Raises:
        DeadlineError: the store gave no answer within `DEADLINE` seconds.
    """
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException

    def each() -> None:
        for run_id in run_ids:
            with suppress(MlflowException):  # one that was deleted keeps none of the others
                for key, value in tags.items():
                    store.set_tag(run_id, RunTag(key, value))

    try:
        deadline.within(DEADLINE, each)
    finally:
        _let_go(store)


def read(store_uri: str, run_ids: list[str]) -> list[Any]:
    """These runs (``mlflow.entities.Run``) as they are in their store; none where it is gone by now."""
    from mlflow.exceptions import MlflowException

    if not all(path.exists() for path in uris.files(store_uri)[:1]):  # MLflow would make it anew
        return []
    found: list[Any] = []

    def each() -> None:
        store = tracking_store(store_uri)
        try:
            for run_id in run_ids:
                with suppress(MlflowException):  # deleted by the test
                    found.append(store.get_run(run_id))
        finally:
            _let_go(store)

    with suppress(Exception):  # of a server that is away, which the test has seen itself
        deadline.within(DEADLINE, each)
    return found


def running(store: Any, experiment_ids: Iterable[str], tags: Mapping[str, str]) -> list[Detached]:
    """The runs with these tags that are open in their store, also those that this process knows nothing of.

    Raises:
        Exception: MLflow's own, or that the store gave no answer within `DEADLINE` seconds.
    """
    from mlflow.entities import ViewType

    tagged = [f"tags.`{tag}` = '{value}'" for tag, value in tags.items()]
    wanted = " AND ".join([*tagged, "attributes.status = 'RUNNING'"])
    try:
        found = deadline.within(
            DEADLINE, lambda: store.search_runs([*experiment_ids], wanted, ViewType.ACTIVE_ONLY, 1000)
        )
    finally:
        _let_go(store)
    return [Detached(run.info.run_id, store) for run in found]


def _let_go(store: Any) -> None:
    # MLflow has done so when the service stopped: nobody else would close what was opened again.
    engine = getattr(store, "engine", None)
    if engine is not None and all(
        engine is not kept for by_uri in engines().values() for kept in [*by_uri.values()]
    ):
        engine.dispose()
