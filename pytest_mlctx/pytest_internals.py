"""pytest's private names: fixture definitions, requests, phases of a test, reports, log handlers."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from _pytest import runner
from _pytest.unittest import TestCaseFunction


def is_higher_scoped(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Whether the fixture can outlive the test that it is set up for."""
    return fixturedef.scope != "function"


def definitions(item: pytest.Item) -> Mapping[str, Sequence[pytest.FixtureDef[Any]]]:
    """The fixtures that a test is known to use, by name; the last of each name is in force."""
    found: Mapping[str, Sequence[pytest.FixtureDef[Any]]] = getattr(
        getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}
    )
    return found


def set_up_for(request: pytest.FixtureRequest) -> list[pytest.FixtureDef[Any]]:
    """The fixtures that are set up already for the test of this request."""
    found: Mapping[str, pytest.FixtureDef[Any]] = getattr(request, "_fixture_defs", {})
    return [fixturedef for fixturedef in found.values() if is_set_up(fixturedef)]


def is_set_up(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Whether the fixture's setup has ended, well or not."""
    return fixturedef.cached_result is not None


def teardowns(fixturedef: pytest.FixtureDef[Any]) -> int:
    """How much runs when the fixture ends: its setup adds to it; pytest 9 itself has added one before."""
    return len(getattr(fixturedef, "_finalizers", ()))


def setup_error(fixturedef: pytest.FixtureDef[Any]) -> BaseException | None:
    """The exception that ended the fixture's setup."""
    raised: Any = fixturedef.cached_result and fixturedef.cached_result[2]
    # pytest 7 keeps type, exception and traceback, later ones the exception first.
    return next((part for part in raised or () if isinstance(part, BaseException)), None)


def waiting_for(request: pytest.FixtureRequest) -> Iterator[pytest.FixtureDef[Any]]:
    """The fixtures of higher scope in the middle of whose setup this request was made, innermost first.

    They asked by ``getfixturevalue``; one that asks by an argument is set up after that.
    """
    asked = request.fixturename
    parent = getattr(request, "_parent_request", None)
    while parent is not None:
        fixturedef = getattr(parent, "_fixturedef", None)
        if fixturedef is not None:
            if is_higher_scoped(fixturedef) and asked not in fixturedef.argnames:
                yield fixturedef
            asked = fixturedef.argname
        parent = getattr(parent, "_parent_request", None)


def log_file_handlers(config: pytest.Config) -> Iterator[logging.Handler]:
    """What writes ``--log-file`` and live logs."""
    return _of_logging_plugin(config, "log_file_handler", "log_cli_handler")


def log_handlers(config: pytest.Config) -> list[logging.Handler]:
    """Log handlers of pytest in use; while a test runs also those that code has taken off the root."""
    root = [handler for handler in logging.root.handlers if type(handler).__module__ == "_pytest.logging"]
    if "PYTEST_CURRENT_TEST" not in os.environ:
        return root
    lost = _of_logging_plugin(
        config, "caplog_handler", "report_handler", "log_file_handler", "log_cli_handler"
    )
    return root + [handler for handler in lost if handler not in root]


def _of_logging_plugin(config: pytest.Config, *names: str) -> Iterator[logging.Handler]:
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    for name in names:
        handler = getattr(plugin, name, None)
        if isinstance(handler, logging.Handler):
            yield handler


class Ran(NamedTuple):
    """What running a test once has reported."""

    phases: Mapping[str, pytest.TestReport]
    """By their names; the call has failed also where a subtest has."""
    subtests: Sequence[pytest.TestReport]

    @property
    def in_order(self) -> list[pytest.TestReport]:
        """All reports, as they were made."""
        setup, *later = self.phases.values()
        return [setup, *self.subtests, *later]

    @property
    def failures(self) -> list[pytest.TestReport]:
        """Of the call, each with a traceback of its own: subtests that failed, then the test itself."""
        subtests = [report for report in self.subtests if report.failed]
        call = self.phases["call"]
        repeated = any(call.longrepr is report.longrepr for report in subtests)
        return subtests if call.passed or repeated else [*subtests, call]


def run(item: pytest.Item, then: Callable[[pytest.TestReport | None], pytest.Item | None]) -> Ran:
    """Run a test once, as often as it is called, without a word to the terminal.

    Args:
        item: the test.
        then: given the report of the call, or None where there was none: the item that runs next.
    """
    own: Any = item
    vars(own)["_report_sections"] = []  # what was captured is kept with the item
    # Of another instance each time; unittest's sees to that itself.
    if inspect.ismethod(vars(own).get("_obj")) and not isinstance(item, TestCaseFunction):
        vars(own).pop("_instance", None)
        del own._obj
    if not getattr(own, "_request", True):  # as in runner.runtestprotocol
        own._initrequest()
    try:
        with _subtests(item) as subtests:
            reports = {"setup": runner.call_and_report(item, "setup", log=False)}
            if reports["setup"].passed and not item.config.getoption("setuponly", False):
                reports["call"] = runner.call_and_report(item, "call", log=False)
        failed = next((report for report in subtests if report.failed), None)
        if failed is not None and "call" in reports and not reports["call"].failed:
            _fail_by(reports["call"], failed)
        following = then(reports.get("call"))
        reports["teardown"] = runner.call_and_report(item, "teardown", log=False, nextitem=following)
        return Ran(reports, subtests)
    finally:
        if hasattr(own, "_request"):
            own._request, own.funcargs = False, None


@contextmanager
def _subtests(item: pytest.Item) -> Iterator[list[pytest.TestReport]]:
    """Within the block the test's subtests report to this list alone, by pytest 9 or a plugin."""
    reports: list[pytest.TestReport] = []
    session = item.session
    hooks = session.gethookproxy(item.path)

    class Withholding:
        def __getattr__(self, name: str) -> Any:
            return getattr(hooks, name)

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            reports.append(report)

    key = getattr(sys.modules.get("_pytest.subtests"), "failed_subtests_key", None)
    counts: dict[object, int] = {} if key is None else item.config.stash.get(key, {})
    before = dict(counts)
    vars(session)["gethookproxy"] = lambda path: Withholding()
    try:
        yield reports
    finally:
        del vars(session)["gethookproxy"]
        counts.clear()  # else pytest fails the test for them
        counts.update(before)


def _fail_by(call: pytest.TestReport, subtest: pytest.TestReport) -> None:
    call.outcome, call.longrepr = "failed", subtest.longrepr
    call.sections = [*subtest.sections, *(each for each in call.sections if each not in subtest.sections)]
    vars(call).pop("wasxfail", None)


def subtest_of(report: pytest.TestReport) -> str:
    """Which subtest this is the report of, such as ``[name] (number=1)``; empty where it is of none."""
    told = getattr(report, "_sub_test_description", None) or getattr(report, "sub_test_description", None)
    return str(told()) if told is not None else ""


def headline(report: pytest.TestReport) -> str:
    """The exception of a failure and the first line of its message."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr) if crash is None else crash.message
    return next(iter(text.strip().splitlines()), "")


def kind_of_failure(report: pytest.TestReport) -> object:
    """Equal for failures of one type at one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return headline(report)
    exception = re.match(r"[\w.]+(?=:|$)", headline(report))  # none before what an assertion says
    return crash.path, crash.lineno, exception and exception[0]


def add_to_failure(report: pytest.TestReport, text: str, sections: Sequence[tuple[str, str]]) -> None:
    """Put a text before the headline of a failure, and sections below its traceback."""
    longrepr: Any = report.longrepr
    crash = getattr(longrepr, "reprcrash", None)
    if crash is None:
        parts = [f"{title}:\n{content}" for title, content in sections]
        report.longrepr = "\n".join([f"{text}: {longrepr}", *parts])
        return
    crash.message = f"{text}: {crash.message}"
    for title, content in sections:
        longrepr.addsection(title, content, "_")
