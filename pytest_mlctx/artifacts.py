"""Artifacts of tests: a folder for each test, and the files of living fixtures, restored after each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx.lifecycle import Observer

if TYPE_CHECKING:
    from pytest_mlctx.services.store import Store
    from pytest_mlctx.services.store.kept_files import Version


class Artifacts(Observer):
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
