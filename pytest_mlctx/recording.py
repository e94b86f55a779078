"""Recording: each attempt at a test becomes a record once it is over, written by the reporting process."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx import gate_report
from pytest_mlctx.attempts import STATUS, Attempt, Outcome
from pytest_mlctx.lifecycle import Observer
from pytest_mlctx.report_data import IDENTITY
from pytest_mlctx.trials import TRIALS

if TYPE_CHECKING:
    from pytest_mlctx.gates import Gate
    from pytest_mlctx.services.records import Record, Records
    from pytest_mlctx.settings import Settings

_CRASH = "???"  # the phase of the report that xdist makes for a test whose worker has died
_MOST_FAILURES = 3  # to write, one after another, until the store is given up
_Test = tuple[str, str]
"""Its node id, and the worker that runs it."""


class Recording(Observer):
    """Follows reports, under xdist those of all workers, and writes a record when a test is over."""

    def __init__(self, config: pytest.Config, settings: Settings, opened: Callable[[], Records]) -> None:
        assert settings.record is not None
        self.uri: str = settings.record
        self.experiment: str = settings.experiment
        self.address: str | None = None  # of the session's run
        self.gates: dict[str, list[Gate]] = {}  # by node id, of the last attempt
        self._outcomes: dict[_Test, Outcome] = {}  # of the last attempt
        self._failed: dict[_Test, tuple[Attempt, str | None]] = {}  # with the address of its record
        self._recorded = self._unrecorded = 0
        self.why_not: str = ""
        self._arguments = " ".join(["pytest", *map(str, config.invocation_params.args)])
        self._config, self._root = config, config.rootpath
        self._opened = opened
        self._asked_for = settings.tags
        self._pins = settings.baseline == "pin"
        self._records: Records | None = None
        self._source: Mapping[str, str] = {}
        self._session = ""
        self._pending: dict[_Test, Attempt] = {}
        self._attempts = Counter[_Test]()
        self._failures = 0
        self._began = time.time()

    def open(self) -> None:
        """Open the store before a test can be in the way; a mistake ends nothing but the recording."""
        from pytest_mlctx import source
        from pytest_mlctx.services import ServiceError

        try:
            self._records = self._opened()
        except ServiceError as error:
            self.why_not = str(error)
        else:
            self._source = source.tags(self._arguments, self._root, os.environ)

    def on_logged_report(self, report: pytest.TestReport) -> None:
        """Follow a test from its setup to the last report of the attempt."""
        key = report.nodeid, getattr(report, "worker_id", "")
        if IDENTITY in vars(report):
            self._pending[key] = self._attempt(key, vars(report)[IDENTITY], report)
        elif report.when == _CRASH:
            key = next((known for known in self._pending if known[0] == report.nodeid), key)
            if key not in self._pending:  # its worker died in the setup
                identity = {"name": report.nodeid.rpartition("::")[2], "tags": {}}
                self._pending[key] = self._attempt(key, identity, report)
        attempt = self._pending.get(key)
        if attempt is None:
            return
        attempt.add(report)
        trials = vars(report).pop(TRIALS, ())
        attempt.trials = [self._trial(number, data) for number, data in enumerate(trials, 1)]
        if report.when in ("teardown", _CRASH) or report.outcome == "rerun":  # type: ignore[comparison-overlap]
            self._write(key, report)

    def _attempt(self, key: _Test, identity: Mapping[str, Any], report: Any) -> Attempt:
        self._attempts[key] += 1
        started = getattr(report, "start", None) or time.time() - report.duration
        return Attempt(identity, self._attempts[key], started)

    def _trial(self, number: int, data: Sequence[Mapping[str, Any]]) -> Attempt:
        restored = self._config.hook.pytest_report_from_serializable
        reports = [restored(config=self._config, data=dict(report)) for report in data]
        identity = vars(reports[0])[IDENTITY]
        trial = Attempt({**identity, "name": f"trial {number}"}, number, reports[0].start)
        for report in reports:
            trial.add(report)
        return trial

    def _write(self, key: _Test, report: pytest.TestReport | None) -> None:
        attempt = self._pending.pop(key)
        self._session = self._session or attempt.session
        self._outcomes[key] = attempt.outcome
        self.gates[key[0]] = attempt.gates
        run_id = self._written(attempt.record(key[0], self._session, self._source))
        address = self._records.address(run_id) if self._records is not None and run_id else None
        if attempt.failures:
            self._failed[key] = attempt, address
        else:
            self._failed.pop(key, None)  # an attempt before has failed
        if run_id is None:
            return
        if attempt.failures:
            attempt.failures[0].sections.append(("MLflow record", address or f"run {run_id} in {self._told}"))
        if report is not None:
            for gate in attempt.gates:
                told = f"{gate.value:.6g}, {gate.verdict}, {gate.change}"
                report.user_properties.append((f"mlctx.gate.{gate.metric}", told))
            report.user_properties.append(("mlctx.record", run_id))
            if address:
                report.user_properties.append(("mlctx.address", address))

    @property
    def _told(self) -> str:
        from pytest_mlctx.services.credentials import redact

        return redact(self.uri)

    def _written(self, record: Record) -> str | None:
        """The id of the record's run; None where it could not be written."""
        from pytest_mlctx.services import deadline

        if self._records is None:
            self._unrecorded += 1
            return None
        try:
            if self._records.session_run is None:
                tags = {**self._source, **_versions(), **self._asked_for}
                self._records.begin(self._arguments, record.session, self._began, tags)
                self.address = self._records.address()
            run_id = self._records.write(record)
        except Exception as error:
            self._failures += 1
            self._unrecorded += 1
            self.why_not = deadline.reason(error)
            if isinstance(error, deadline.DeadlineError) or self._failures == _MOST_FAILURES:
                self._records = None
            return None
        self._failures = 0
        self._recorded += 1
        return run_id

    @contextmanager
    def during_sessionfinish(self, exitstatus: int) -> Iterator[None]:
        """Record what was interrupted, and end the session's run."""
        yield
        for key in [*self._pending]:
            self._pending[key].outcome = "interrupted"
            self._write(key, None)
        if self._records is None or self._records.session_run is None:
            return
        from pytest_mlctx.services import deadline

        counts = {f"mlctx.{outcome}": float(count) for outcome, count in self._counts().items()}
        status = {0: "FINISHED", int(pytest.ExitCode.INTERRUPTED): "KILLED"}
        try:
            if self._pins and exitstatus == 0:
                self._records.pin()
            self._records.end(
                status.get(int(exitstatus), "FAILED"), {**counts, "mlctx.seconds": time.time() - self._began}
            )
        except Exception as error:
            self.why_not = f"the session's run stays open ({deadline.reason(error)})"

    def _counts(self) -> Counter[Outcome]:
        return Counter(self._outcomes.values())

    def lines(self, *, quiet: bool, verbose: bool = False) -> list[str]:
        """What the summary says: the gates, how many records, and where to look.

        Args:
            quiet: say only what is missing.
            verbose: have a line for each gate.
        """
        from pytest_mlctx.services import uris

        told = [] if quiet else gate_report.summary(self.gates, verbose=verbose)
        if self._recorded and not quiet:
            where = self.address or f"mlflow ui --backend-store-uri {shlex.quote(self._told)}"
            if uris.scheme(self.uri) not in ("http", "https", "sqlite", "file", ""):
                where = f"store {self._told}"
            counts = "1 record" if self._recorded == 1 else f"{self._recorded} records"
            bad = sum(self._counts()[outcome] for outcome in STATUS)
            told.append(f"mlctx: {counts}, {bad} failed, in experiment {self.experiment!r}: {where}")
        if self._unrecorded:
            tests = "1 test was" if self._unrecorded == 1 else f"{self._unrecorded} tests were"
            told.append(f"mlctx: {tests} not recorded: {self.why_not}")
        elif self.why_not:
            told.append(f"mlctx: {self.why_not}")
        return told

    def write_step_summary(self, path: Path) -> None:
        """Add a table of failed tests to the file that GitHub shows on the page of the job."""
        lines = ["", *self.lines(quiet=False), ""]
        lines += gate_report.table(self.gates)
        if self._failed:
            lines += ["| failed test | reason | metrics |", "|---|---|---|"]
        for (nodeid, _), (attempt, address) in self._failed.items():
            test = f"[`{nodeid}`]({address})" if address else f"`{nodeid}`"
            metrics = ", ".join(f"{name} {value:.6g}" for name, value in attempt.metrics.items())
            cells = (test, f"{attempt.outcome}: {attempt.reason}", metrics)
            lines.append(gate_report.row(cells))
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines) + "\n")


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    import mlflow

    return {
        "mlctx.python": platform.python_version(),
        "mlctx.platform": platform.platform(),
        "mlctx.pytest": version("pytest"),
        "mlctx.mlflow": mlflow.__version__,
    }
