"""One attempt at a test, put together from its reports: outcome, reason, durations, its record."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_mlctx import gate_report, pytest_internals
from pytest_mlctx.gates import Gate
from pytest_mlctx.report_data import TRACKED

if TYPE_CHECKING:
    from pytest_mlctx.services.records import Record

Outcome = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "interrupted"]

STATUS: Mapping[Outcome, str] = {"failed": "FAILED", "error": "FAILED", "interrupted": "KILLED"}
"""Of the runs of those that are not ``FINISHED``."""
_LONGEST_LIST = 5000  # characters, which a tag can hold
_PHASES = ("setup", "call", "teardown")


class Attempt:
    """One attempt at a test, from what its reports say."""

    def __init__(self, identity: Mapping[str, Any], number: int, started: float) -> None:
        self.name: str = identity["name"]
        self.number = number
        self.outcome: Outcome = "passed"
        self.reason: str = ""
        self.failures: list[pytest.TestReport] = []
        self._tags: Mapping[str, str] = identity["tags"]
        self._started, self._ended = started, started
        self._seconds: dict[str, float] = {}
        self._subtests = Counter[str]()
        self.gates: list[Gate] = []
        self._key = ""
        self.trials: list[Attempt] = []
        self._runs: Mapping[str, Any] = {"count": 0, "params": {}, "metrics": {}, "children": []}

    def add(self, report: pytest.TestReport) -> None:
        """Take in the report of a phase, or of a subtest."""
        if tracked := vars(report).get(TRACKED):
            self._runs, self._key = tracked["runs"], tracked["key"]
            self.gates = [Gate(**fields) for fields in tracked["gates"]]
        self._ended = max(self._ended, _stop(report))
        if report.failed or report.outcome == "rerun":  # type: ignore[comparison-overlap]
            self.failures.append(report)
            if self.outcome != "failed":
                self.outcome = "error" if report.when in ("setup", "teardown") else "failed"
            self.reason = self.reason or pytest_internals.headline(report)
        if hasattr(report, "context"):
            self._subtests[report.outcome] += 1
            return
        if report.when in _PHASES:
            self._seconds[f"mlctx.{report.when}_seconds"] = report.duration
        if report.skipped and not self.failures:
            expected = hasattr(report, "wasxfail")
            self.outcome = "xfailed" if expected else "skipped"
            self.reason = _expected(report) if expected else _skipped(report)
        elif report.passed and hasattr(report, "wasxfail") and report.when == "call":
            self.outcome, self.reason = "xpassed", _expected(report)

    def record(self, nodeid: str, session: str, source: Mapping[str, str]) -> Record:
        """The record of the attempt, as its run is to be."""
        from pytest_mlctx.services.records import Record

        tags = {**source, **self._tags, "mlctx.outcome": self.outcome, "mlctx.attempt": str(self.number)}
        if self.reason:
            tags["mlctx.reason"] = self.reason
        if self._subtests:
            tags["mlctx.subtests"] = ", ".join(f"{count} {what}" for what, count in self._subtests.items())
        if self._runs["count"]:
            tags["mlctx.runs"] = str(self._runs["count"])
        files = {f"baseline-{_as_file_name(gate.metric)}.svg": gate_report.svg(gate) for gate in self.gates}
        if self.failures:
            files["failure.txt"] = "\n\n".join(map(_printed, self.failures))
        for gate in self.gates:
            values = json.dumps([float(f"{value:.6g}") for value in gate.values])
            if gate.values and len(values) < _LONGEST_LIST:
                tags[f"mlctx.values.{gate.metric}"] = values
        return Record(
            name=self.name,
            nodeid=nodeid,
            session=self.session or session,
            started=self._started,
            ended=self._ended,
            status=STATUS.get(self.outcome, "FINISHED"),
            tags=tags,
            params=self._runs["params"],
            metrics={**self.metrics, **self._seconds},
            key=self._key,
            children=self._runs["children"],
            files=files,
            trials=[trial.record(nodeid, session, source) for trial in self.trials],
        )

    @property
    def session(self) -> str:
        """The id of the session, unknown where a worker died in the setup."""
        return self._tags.get("mlctx.session", "")

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last metrics of the runs that the test opened, what it compared with a baseline, its rate."""
        gates = {gate.metric: gate.value for gate in self.gates}
        passed = sum(trial.outcome in ("passed", "xpassed") for trial in self.trials)
        rate = {"mlctx.pass_rate": passed / len(self.trials)} if self.trials else {}
        return {**self._runs["metrics"], **gates, **rate}


def _as_file_name(metric: str) -> str:
    return re.sub(r"[^\w.-]", "_", metric)[:100]


def _stop(report: pytest.TestReport) -> float:
    return getattr(report, "stop", None) or time.time()


def _expected(report: pytest.TestReport) -> str:
    return str(report.wasxfail).removeprefix("reason: ")  # so pytest writes that of pytest.xfail()


def _skipped(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def _printed(report: pytest.TestReport) -> str:
    parts = [f"{report.nodeid}: {report.when}", report.longreprtext]
    parts += [f"{title:-^80}\n{text}" for title, text in report.sections]
    return "\n\n".join(parts)
