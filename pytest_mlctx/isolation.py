"""A test and its store: taken back before each test to what living fixtures of higher scope left in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx.lifecycle import Room

if TYPE_CHECKING:
    from pytest_mlctx.guard import Guard
    from pytest_mlctx.late_threads import LateThreads
    from pytest_mlctx.services.store import Savepoint, Store
    from pytest_mlctx.services.store.layers import Layer


class Artifacts(Room):
    """A folder for the artifacts of each test, deleted where pytest would delete the test's ``tmp_path``."""

    def __init__(self, config: pytest.Config, root: Path) -> None:
        self._root = root
        self._policy = config.getini("tmp_path_retention_policy")
        self._taken = 0
        self._tests: list[Path] = []  # of the test that is running
        self._fixtures: set[Path] = set()  # of living fixtures of higher scope
        self._failed = False

    def take(self) -> Path:
        """A folder for the test that is about to run; it is made by who writes to it first."""
        self._taken += 1
        folder = self._root / str(self._taken)
        self._tests.append(folder)
        return folder

    def hold(self, folder: Path) -> None:
        """Keep a folder that a fixture of higher scope has written to, until it is let go."""
        self._fixtures.add(folder)

    def let_go(self, folder: Path) -> None:
        """The fixture is gone."""
        self._fixtures.discard(folder)
        if self._policy == "none":
            shutil.rmtree(folder, ignore_errors=True)

    def on_logged_report(self, report: pytest.TestReport) -> None:
        """Delete at the end of a test what its outcome does not keep."""
        self._failed |= report.failed
        if report.when == "teardown":
            if self._policy == "none" or (self._policy == "failed" and not self._failed):
                for folder in set(self._tests) - self._fixtures:
                    shutil.rmtree(folder, ignore_errors=True)
            # A test that writes nothing leaves its folder to the next.
            self._tests = [folder for folder in self._tests[-1:] if not folder.exists()]
            self._failed = False


_Mark = tuple[int, int]
"""The data's version and the number of MLflow's transactions: a change tells that the store was used."""


@dataclass
class _Left:
    """What a living fixture of higher scope left in the store, and where its artifacts lie."""

    layer: Layer
    artifacts: Path


class Isolation(Room):
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

        self._defaults, self._layers = defaults, layers
        self._guard = guard
        self._late_threads = late_threads
        self._transactions = 0
        store.refuse = self._admit
        self._artifacts = artifacts
        self._store = store
        self._empty = empty
        self._experiment = experiment
        self._experiment_id = defaults.active_experiment_id()
        self._left: dict[pytest.FixtureDef[Any], _Left] = {}
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
        if self._store.data_version() != self._version:
            with _told(self._nodeid):
                self._renew()
        self._nodeid = item.nodeid

    def _renew(self) -> None:
        before = self._experiment_id
        start = self._layers.stacked(self._empty, (left.layer for left in self._left.values()))
        self._experiment_id = self._store.back(
            start, experiment=self._experiment, artifacts=self._artifacts.take()
        )
        self._version = self._store.data_version()
        if self._defaults.active_experiment_id() == before:
            self._defaults.activate_experiment(self._experiment_id)
        self._guard.renumber_experiment(before, self._experiment_id)

    @contextmanager
    def during_setup_of_shared(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Keep what the fixture writes for all the tests that it lives for."""
        mark, before = self._mark(), self._store.savepoint()
        yield
        if self._mark() != mark:
            # One that only looked may hold the id of the experiment: that stays while it lives.
            layer = self._layers.between(before, self._store.savepoint(), experiment=self._experiment_id)
            self._left[fixturedef] = _Left(layer, self._store.artifacts)
            self._artifacts.hold(self._store.artifacts)

    def before_call(self) -> None:
        """The setup is over."""
        self._setting_up = False

    def before_teardown(self) -> None:
        """The setup is over, also where it failed."""
        self._setting_up = False

    def after_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Forget what the fixture left: the next test starts without it."""
        left = self._left.pop(fixturedef, None)
        if left is not None:
            self._version = -1
            self._artifacts.let_go(left.artifacts)
            if self._setting_up:  # a parameter of it ends to make room for the next
                self._renew()


class Sandbox:
    """A store of its own beside the session's, empty for each test that asks."""

    def __init__(self, artifacts: Artifacts, store: Store) -> None:
        self._artifacts = artifacts
        self._store = store
        self._empty = store.savepoint()
        self.uri = store.uri

    def empty(self, experiment: str) -> None:
        """Make the store hold the experiment and nothing else."""
        with _told("A test before"):
            self._store.back(self._empty, experiment=experiment, artifacts=self._artifacts.take())


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
