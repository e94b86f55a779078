"""The runs of a test: their tags, and the run of `mlflow_run`, which ends with the test's outcome."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_mlctx.findings import MissingInternals, UnclosedRuns
from pytest_mlctx.lifecycle import Observer
from pytest_mlctx.settings import Settings

if TYPE_CHECKING:
    import mlflow

    from pytest_mlctx.services.runs import Detached


class OpenedRun(NamedTuple):
    """A run that was opened in this session."""

    store_uri: str
    run_id: str
    fixture: str = ""
    """The fixture of higher scope that opened it."""


class Tracking(Observer):
    """Follows each test from its setup to its outcome; registered once the MLflow service is in force."""

    def __init__(self, settings: Settings, workerinput: Mapping[str, Any]) -> None:
        self._command = str(workerinput.get("mainargv", [""])[0])  # of xdist's controller
        self._asked_for = settings.tags
        self._stays = settings.isolation == "session"
        self.session_tags: dict[str, str] = {
            **settings.tags,
            "mlctx.session": workerinput.get("testrunuid", uuid.uuid4().hex),
            **({"mlctx.worker": workerinput["workerid"]} if "workerid" in workerinput else {}),
        }
        self._item: pytest.Item | None = None
        self._record: tuple[str, str, str] | None = None  # store, experiment and run of the open record
        self._detached: list[Detached] = []
        self._opened: dict[str, set[str]] = {}  # by the URI of a store that stays, the experiments of runs
        self._stores: dict[str, Any] = {}  # that stay and answer, by URI
        self.unclosed: list[str] = []  # of a test that was interrupted, which gets no report
        self._outcome = "passed"
        self._setting_up: list[str] = []  # fixtures of higher scope: their runs are no test's
        self.runs: list[OpenedRun] = []  # that the test opened, oldest first
        self.runs_of_fixtures: list[OpenedRun] = []  # of higher scope, of the whole session

    def tags(self, store_uri: str, experiment_id: str) -> dict[str, str]:
        """The tags of a run that is about to be opened."""
        from pytest_mlctx.services import store

        stays = self._stays or not store.is_temporary(store_uri)
        if not store.is_temporary(store_uri):
            self._opened.setdefault(store_uri, set()).add(experiment_id)
        tags = self._tags(stays=stays)
        of_test = self._item is not None and not self._setting_up
        if of_test and self._record is not None and self._record[:2] == (store_uri, experiment_id):
            tags["mlflow.parentRunId"] = self._record[2]
        return tags

    def trace_tags(self, store_uri: str) -> dict[str, str]:
        """The tags of a trace that is about to begin."""
        from pytest_mlctx.services import store

        return self._tags(stays=self._stays or not store.is_temporary(store_uri))

    def _tags(self, *, stays: bool) -> dict[str, str]:
        # Nobody looks for what isolation takes back, and tests compare the tags of what they log.
        tags = dict(self.session_tags if stays else self._asked_for)
        if stays and self._item is not None and not self._setting_up:
            tags["mlctx.nodeid"] = self._item.nodeid
        return tags

    def opened(self, store_uri: str, run_id: str) -> None:
        """Remember a run for the report of a test that fails."""
        runs = self.runs_of_fixtures if self._setting_up else self.runs
        run = OpenedRun(store_uri, run_id, self._setting_up[-1] if self._setting_up else "")
        if run not in runs:  # told twice within a sandbox, by its service and the session's
            runs.append(run)
        if store_uri in self._opened and store_uri not in self._stores:
            from pytest_mlctx.services import registries

            self._stores[store_uri] = registries.tracking_store(store_uri)

    def sourced(self) -> AbstractContextManager[None]:
        """Within the block MLflow names the same source as without xdist, whose workers start as ``-c``."""
        from pytest_mlctx.services import runs

        return runs.sourced(self._command) if self._command else nullcontext()

    def open(self, item: pytest.Item) -> mlflow.ActiveRun:
        """Start the run that stands for the test, where MLflow tracks now."""
        import mlflow

        from pytest_mlctx.services import MlflowService, ServiceError, deadline, remote, store, uris

        self._item, uri = item, mlflow.get_tracking_uri()
        try:
            if remote.reaches(uri) and not store.is_temporary(uri):
                # In seconds, before all of MLflow's retries.
                uris.ask("MlflowService.tracking_uri", uri, MlflowService.current().experiment_name)
            tags = {**self.session_tags, "mlctx.nodeid": item.nodeid}
            run = mlflow.start_run(run_name=item.name, nested=mlflow.active_run() is not None, tags=tags)
        except ServiceError as error:
            mistake = str(error)
        except mlflow.MlflowException as error:
            mistake = f"No run can be opened for this test ({deadline.reason(error)}): see to its store."
        else:
            self._record = (uri, run.info.experiment_id, run.info.run_id)
            return run
        pytest.fail(mistake, pytrace=False)

    def detach(self) -> None:
        """Take the test's run from the active ones; it stays open until the test's outcome is known."""
        from pytest_mlctx.services import runs

        if self._record is not None:
            store_uri, _, run_id = self._record
            self._detached.append(runs.detach(run_id, store_uri))
            self._record = None

    def before_setup(self, item: pytest.Item) -> None:
        """Begin a test, or another attempt at it."""
        self._item, self._outcome = item, "passed"
        self.runs.clear()

    @contextmanager
    def during_setup_of_shared(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """The runs of a fixture of higher scope are no test's."""
        self._setting_up.append(fixturedef.argname)
        try:
            yield
        finally:
            self._setting_up.remove(fixturedef.argname)

    def on_logged_report(self, report: pytest.TestReport) -> None:
        """Collect the outcome of a subtest, whose report comes this way only."""
        self._note(report)

    def _note(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._outcome = "failed"
        elif report.skipped and self._outcome == "passed":
            self._outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """End the test's run when the last of its reports is made."""
        self._note(report)  # here, since a plugin that runs the test again logs another outcome
        if report.when == "teardown":
            unclosed = self._close("FAILED" if self._outcome == "failed" else "FINISHED", self._outcome)
            if unclosed:
                UnclosedRuns.attach(report, unclosed)
            internals = sys.modules.get("pytest_mlctx.services.mlflow_internals")
            if internals is not None and internals.missing:
                MissingInternals.attach(report, internals.missing)
            self._tag_outcome()
            self._item = None

    def _tag_outcome(self) -> None:
        """Tag the runs of the test in a store that stays; one that is away is not asked again."""
        from pytest_mlctx.services import deadline, runs

        for uri in {run.store_uri for run in self.runs} & self._stores.keys():
            run_ids = [run.run_id for run in self.runs if run.store_uri == uri]
            try:
                runs.tag(self._stores[uri], run_ids, {"mlctx.outcome": self._outcome})
            except deadline.DeadlineError:  # a server that is gone: the test has seen that itself
                del self._stores[uri]

    @contextmanager
    def during_sessionfinish(self, exitstatus: int) -> Iterator[None]:
        """End the run of a test that was interrupted, which gets no report."""
        from pytest_mlctx.services import registries

        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        stores = {uri: registries.tracking_store(uri) for uri in self._opened} if interrupted else {}
        yield
        self.unclosed = self._close("KILLED", "interrupted")
        for uri, store in stores.items():
            # Ctrl-C within MLflow's own call leaves a run in the store that is in no list of the process.
            session = self.session_tags["mlctx.session"], self.session_tags.get("mlctx.worker")
            self.unclosed += _end_left_open(store, self._opened[uri], *session)

    def _close(self, status: str, outcome: str) -> list[str]:
        """Close what a test has detached; why what stays open does."""
        left_open = _closed(reversed(self._detached), status, outcome)
        self._detached.clear()
        return left_open


def _closed(runs: Iterable[Detached], status: str, outcome: str) -> list[str]:
    """Close runs; why some stay open."""
    told = [run.close(status, {"mlctx.outcome": outcome}) for run in runs]
    return [why for why in told if why is not None]


def _end_left_open(store: Any, experiment_ids: Iterable[str], session: str, worker: str | None) -> list[str]:
    """End the runs of a session, or of one worker of it, that are open in their store; why some stay so."""
    from pytest_mlctx.services import deadline, runs

    tags = {"mlctx.session": session, **({"mlctx.worker": worker} if worker else {})}
    try:
        found = runs.running(store, experiment_ids, tags)
    except Exception as error:
        return [f"Runs of this session may be open in their store ({deadline.reason(error)})."]
    return _closed(found, "KILLED", "interrupted")


def close_lost(workers: Mapping[str, str], store_uri: str, experiment: str) -> list[str]:
    """End the runs that killed workers left open; why some may stay so.

    Args:
        workers: their ids, with that of the session.
        store_uri: where they tracked.
        experiment: that they tracked to, by its name.
    """
    from functools import partial

    from pytest_mlctx.services import deadline, runs, uris

    ask = partial(uris.ask, "--mlctx-tracking-uri", store_uri, experiment)
    try:
        with runs.opened_apart(store_uri, ask) as store:
            found = deadline.within(uris.DEADLINE, lambda: store.get_experiment_by_name(experiment))
            ended = [
                _end_left_open(store, [found.experiment_id], session, worker)
                for worker, session in workers.items()
            ]
    except Exception as error:
        return [f"Runs of killed workers may be open in their store ({deadline.reason(error)})."]
    return [why for of_worker in ended for why in of_worker]
