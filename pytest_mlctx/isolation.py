"""Isolation by test: a restored store, or a new experiment on the server; artifacts; the sandbox."""

from __future__ import annotations

import gc
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx import mistakes
from pytest_mlctx.lifecycle import Room

if TYPE_CHECKING:
    from pytest_mlctx.guard import Guard
    from pytest_mlctx.late_threads import LateThreads
    from pytest_mlctx.services.store import Savepoint, Store
    from pytest_mlctx.services.store.kept_files import Version
    from pytest_mlctx.services.store.layers import Layer


class Artifacts(Room):
    """The artifacts of tests: a folder for each, and what fixtures of higher scope wrote, put back after it.

    A test's folder is deleted where pytest would delete the test's ``tmp_path``.
    """

    def __init__(self, config: pytest.Config, root: Path) -> None:
        from pytest_mlctx.services.store import kept_files

        self._kept_files = kept_files
        self._root = root
        self._policy = config.getini("tmp_path_retention_policy")
        self._taken = 0
        self._in_use: dict[str, Path] = {}  # by the URI of the store
        self._tests: list[Path] = []  # of the test that is running
        self._versions: dict[pytest.FixtureDef[Any], dict[Path, Version]] = {}  # of living fixtures
        self._failed = False
        self._discards = False  # what the test before changed

    def take(self, store: Store) -> Path:
        """A folder for the test that is about to run; it is made by who writes to it first."""
        self._taken += 1
        folder = self._in_use[store.uri] = self._root / str(self._taken)
        self._tests.append(folder)
        return folder

    def before_setup(self, item: pytest.Item) -> None:
        """Put back what the test before changed of the files of living fixtures."""
        aside = self._root / f"{self._taken}-changed"
        try:
            for folder, version in self._latest().items():
                self._kept_files.put_back(version, aside / folder.name)
        except OSError as error:
            reason = (
                f"Artifacts of a fixture, which a test before has changed, cannot be put back ({error}): "
                "free space there, or choose another folder with --basetemp."
            )
            raise pytest.fail.Exception(reason, pytrace=False) from None
        if self._discards:
            shutil.rmtree(aside, ignore_errors=True)
            self._discards = False

    @contextmanager
    def during_setup_of_shared(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Keep what the fixture writes for all the tests that it lives for."""
        before = {
            folder: self._kept_files.look(folder) for folder in {*self._latest(), *self._in_use.values()}
        }
        yield
        earlier, copies = self._latest(), self._copies(fixturedef)
        self._versions[fixturedef] = {
            folder: self._kept_files.keep(
                earlier.get(folder) or self._kept_files.Version(folder),
                before.get(folder, {}),
                copies / folder.name,
            )
            for folder in {*earlier, *self._in_use.values()}
        }

    def after_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """What the fixture wrote goes with it."""
        gone = self._versions.pop(fixturedef, {})
        if gone:
            shutil.rmtree(self._copies(fixturedef), ignore_errors=True)
            if self._policy == "none":
                for folder in gone.keys() - self._latest().keys():
                    shutil.rmtree(folder, ignore_errors=True)

    def _latest(self) -> dict[Path, Version]:
        """The folders that living fixtures have written to, as the last of them left each."""
        latest: dict[Path, Version] = {}
        for versions in self._versions.values():
            latest.update(versions)
        return latest

    def _copies(self, fixturedef: pytest.FixtureDef[Any]) -> Path:
        return self._root.with_name("kept") / f"{id(fixturedef):x}"

    def on_logged_report(self, report: pytest.TestReport) -> None:
        """Delete at the end of a test what its outcome does not keep."""
        self._failed |= report.failed
        if report.when == "teardown":
            if self._policy == "none" or (self._policy == "failed" and not self._failed):
                self._discards = True
                for folder in set(self._tests) - self._latest().keys():
                    shutil.rmtree(folder, ignore_errors=True)
            # A test that writes nothing leaves its folder to the next.
            self._tests = [folder for folder in self._tests[-1:] if not folder.exists()]
            self._failed = False


# How MLflow's errors name an experiment, run, model or trace that is not there.
_NAMED = re.compile(r"(?:experiment|run|model|trace)s? (?:with )?id[= ]'?([\w-]+)", re.IGNORECASE)
_REMEDY = (
    "Make it in a fixture of higher scope, or clear between tests what remembers it (a cache, a global); "
    "--mlctx-isolation=session keeps what all tests log."
)
_PATIENCE = 1.0  # seconds in which a thread that a test left may end its transaction
_Mark = tuple[int, int]
"""The data's version and the number of MLflow's transactions: a change tells that the store was used."""


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


class ServerIsolation(Room):
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
            raise mistakes.error(f"mlflow_server gives no experiment ({deadline.reason(error)}).") from None
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
