"""Isolation by test: a restored store, or a new experiment on the server; the sandbox."""

from __future__ import annotations

import gc
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx import setup_errors
from pytest_mlctx.lifecycle import Observer

if TYPE_CHECKING:
    from pytest_mlctx.artifacts import Artifacts
    from pytest_mlctx.guard import Guard
    from pytest_mlctx.late_threads import LateThreads
    from pytest_mlctx.services.store import Savepoint, Store
    from pytest_mlctx.services.store.layers import Layer


# How MLflow's errors name an experiment, run, model or trace that is not there.
_NAMED = re.compile(r"(?:experiment|run|model|trace)s? (?:with )?id[= ]'?([\w-]+)", re.IGNORECASE)
_REMEDY = (
    "Make it in a fixture of higher scope, or clear between tests what remembers it (a cache, a global); "
    "--mlctx-isolation=session keeps what all tests log."
)
_PATIENCE = 1.0  # seconds in which a thread that a test left may end its transaction
_Mark = tuple[int, int]
"""The data's version and the number of MLflow's transactions: a change tells that the store was used."""


class Isolation(Observer):
    """Each test finds the temporary store without the rows and the artifacts of the tests before it."""

    def __init__(
        self,
        guard: Guard,
        late_threads: LateThreads,
        artifacts: Artifacts,
        store: Store,
        empty: Savepoint,
        experiment: str,
    ) -> None:
        from pytest_mlctx.services import defaults
        from pytest_mlctx.services.store import layers

        self._layers = layers
        self._guard = guard
        self._late_threads = late_threads
        self._transactions = 0
        store.refuse = self._admit
        self._artifacts = artifacts
        self._store = store
        self._empty = empty
        self._experiment = experiment
        self._experiment_id = defaults.active_experiment_id()
        self._left: dict[pytest.FixtureDef[Any], Layer] = {}  # by living fixtures of higher scope
        self._taken_back: dict[str, str] = {}  # by the id of an entity, the test that made it
        self._version = -1  # of the store's data when a test began
        self._setting_up = False
        self._nodeid = os.environ.get("PYTEST_CURRENT_TEST", "A test before (setup)").rpartition(" ")[0]
        self._renew()  # the first test has a folder of its own as well

    def _admit(self) -> None:
        """Called for each transaction of MLflow's on the store."""
        self._late_threads.check()
        self._transactions += 1

    def _mark(self) -> _Mark:
        return self._store.data_version(), self._transactions

    def before_setup(self, item: pytest.Item) -> None:
        """Take the store back, unless nobody has written to it since."""
        self._setting_up = True
        self._taken_back.update(dict.fromkeys(self._store.pending.drop(), self._nodeid))
        if self._store.data_version() != self._version:
            with _told(self._nodeid):
                self._renew()
        self._nodeid = item.nodeid

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Say of an error about an entity that is there no more, that isolation took it back."""
        for found in _NAMED.findall(str(report.longrepr)) if report.failed else ():
            if found in self._taken_back and found not in self._store.ids():
                section = f"{found} was made for {self._taken_back[found]} and taken back after it. {_REMEDY}"
                report.sections.append(("mlctx isolation", section))
                return

    def _renew(self) -> None:
        before = self._experiment_id
        self._taken_back.update(dict.fromkeys(self._store.ids() - self._taken_back.keys(), self._nodeid))
        start = self._layers.stacked(self._empty, self._left.values())
        self._experiment_id = self._store.back(
            start, experiment=self._experiment, artifacts=self._artifacts.take(self._store)
        )
        self._version = self._store.data_version()
        _move_experiment(self._guard, before, self._experiment_id)

    @contextmanager
    def during_setup_of_shared(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Keep what the fixture writes for all the tests that it lives for."""
        before = self._store.savepoint()
        mark = self._mark()
        yield
        if self._mark() != mark:
            # One that only looked may hold the id of the experiment: that stays while it lives.
            layer = self._layers.between(before, self._store.savepoint(), experiment=self._experiment_id)
            self._left[fixturedef] = layer

    def before_call(self) -> None:
        """The setup is over."""
        self._setting_up = False

    def after_teardown(self, item: pytest.Item, *, failed: bool) -> None:
        """Free the store from a transaction that the test left open, so that no other waits for it."""
        if _freed(self._store):
            self._version = -1
            self._guard.found("a transaction left open in the temporary store")

    def before_teardown(self) -> None:
        """The setup is over, also where it failed."""
        self._setting_up = False

    def after_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Forget what the fixture left: the next test starts without it."""
        if self._left.pop(fixturedef, None) is not None:
            self._version = -1
            if self._setting_up:  # a parameter of it ends to make room for the next
                self._renew()


class ServerIsolation(Observer):
    """Each test on the session's server has an experiment of its own, which MLflow falls back on."""

    def __init__(self, guard: Guard, url: str, experiment: str) -> None:
        from mlflow import MlflowClient

        from pytest_mlctx.services import defaults

        self._guard = guard
        self._client = MlflowClient(url)
        self._experiment = experiment
        self._experiment_id = defaults.active_experiment_id()
        self._begin(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])

    def before_setup(self, item: pytest.Item) -> None:
        """Make the experiment."""
        self._begin(item.nodeid)

    def _begin(self, nodeid: str) -> None:
        from pytest_mlctx.services import deadline, uris

        before, name = self._experiment_id, f"{self._experiment} {nodeid} {uuid.uuid4().hex[:8]}"
        try:
            self._experiment_id = deadline.within(uris.DEADLINE, lambda: self._client.create_experiment(name))
        except Exception as error:
            raise setup_errors.failure(
                f"mlflow_server gives no experiment ({deadline.reason(error)})."
            ) from None
        _move_experiment(self._guard, before, self._experiment_id)


def _move_experiment(guard: Guard, before: str, after: str) -> None:
    """Let MLflow fall back on another experiment, unless a test has set one of its own."""
    from pytest_mlctx.services import defaults

    if defaults.active_experiment_id() == before:
        defaults.activate_experiment(after)
    guard.renumber_experiment(before, after)


class Sandbox:
    """A store of its own beside the session's, empty for each test that asks."""

    def __init__(self, artifacts: Artifacts, store: Store) -> None:
        self._artifacts = artifacts
        self._store = store
        self._empty = store.savepoint()
        self.uri: str = store.uri

    def empty(self, experiment: str) -> None:
        """Make the store hold the experiment and nothing else."""
        _freed(self._store)
        self._store.pending.drop()
        with _told("A test before"):
            self._store.back(self._empty, experiment=experiment, artifacts=self._artifacts.take(self._store))


def _freed(store: Store) -> bool:
    """Whether the store was locked by a transaction that was left open, and has a new file now."""
    if not store.is_locked(seconds=0) or (gc.collect() >= 0 and not store.is_locked(_PATIENCE)):
        return False
    with suppress(OSError):  # then the next test says so
        store.replace()
    return True


@contextmanager
def _told(who: str) -> Iterator[None]:
    """One sentence where the store is locked by a transaction that was left open."""
    import sqlite3

    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        raise pytest.fail.Exception(
            f"{who} left a transaction open in the temporary store, which cannot be emptied for this test: "
            "close the connection or the session there.",
            pytrace=False,
        ) from None
