"""The only hooks around every test and every fixture: they call the observers in one fixed order."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal, get_args

import pytest

from pytest_mlctx import pytest_internals

# Outermost first: calls before a test or a fixture go down this list, calls after it go up.
Role = Literal[
    "redaction",  # reads a report when nobody adds to it any more
    "setup_errors",
    "failure_sections",
    "model_requirements",
    "guard",  # captures the state before an observer changes it, and compares when all observers are done
    "isolation",  # moves the guard's baseline when it makes the experiment anew
    "artifacts",
    "late_threads",
    "default_store",
    "recording",
    "mlflow_plugin",
    "traces",  # writes those of a fixture before artifacts and isolation look at what it left
    "report_data",  # reads the runs of a test when they are closed
    "tracking",  # knows of a test before the innermost, pytest itself, runs it
]
_ORDER: tuple[Role, ...] = get_args(Role)


class Observer:
    """Callbacks around the setup, call, teardown and reports of tests; here none does anything."""

    def at_start(self, item: pytest.Item) -> None:
        """Nothing has run for the test, no other plugin either; nothing may be raised or printed."""

    def before_setup(self, item: pytest.Item) -> None:
        """The setup begins; what is raised here is an error of it."""

    def before_call(self) -> None:
        """The setup went well."""

    def before_teardown(self) -> None:
        """The setup is over, well or not."""

    def after_teardown(self, item: pytest.Item, *, failed: bool) -> None:
        """All of the test has run; what is raised here is an error of its teardown."""

    def during_setup_of_shared(self, fixturedef: pytest.FixtureDef[Any]) -> AbstractContextManager[object]:
        """A fixture of higher scope is set up within this block."""
        return nullcontext()

    def during_setup_of_own(self, fixturedef: pytest.FixtureDef[Any]) -> AbstractContextManager[object]:
        """A fixture of the test's own is set up within this block."""
        return nullcontext()

    def after_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """A fixture has been torn down."""

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """The report of a setup, call or teardown was made, of each attempt at the test."""

    def on_logged_report(self, report: pytest.TestReport) -> None:
        """A report was handed out, a subtest's too, but not that of an attempt which is repeated."""

    def during_sessionfinish(self, exitstatus: int) -> AbstractContextManager[object]:
        """The last fixtures are torn down within this block; the summary is written after it."""
        return nullcontext()


class Lifecycle:
    """Calls the observers that are registered; one that does not define a method is not asked."""

    def __init__(self, config: pytest.Config) -> None:
        config.pluginmanager.register(self, "mlctx-lifecycle")
        config.pluginmanager.register(_Start(self), "mlctx-start")
        self._observers: dict[Role, Observer] = {}
        self._callees: dict[str, list[Observer]] = {}
        # Fixtures that were met in the middle of their setup, outermost first, with their observer's blocks.
        self._met_halfway: list[tuple[pytest.FixtureDef[Any], ExitStack]] = []

    def register(self, role: Role, observer: Observer, request: pytest.FixtureRequest | None = None) -> None:
        """Call this observer from now on.

        Args:
            role: its place in the order.
            observer: its methods.
            request: that leads to it; a fixture that goes on after this request is followed from here.
        """
        self._observers[role] = observer
        self._callees.clear()
        for fixturedef in pytest_internals.waiting_for(request) if request is not None else ():
            self._meet(fixturedef).enter_context(observer.during_setup_of_shared(fixturedef))

    def unregister(self, role: Role) -> None:
        """Call this observer no more."""
        del self._observers[role]
        self._callees.clear()

    def _meet(self, fixturedef: pytest.FixtureDef[Any]) -> ExitStack:
        for known, blocks in self._met_halfway:
            if known is fixturedef:
                return blocks
        self._met_halfway.insert(0, (fixturedef, ExitStack()))
        return self._met_halfway[0][1]

    def _leave_finished(self) -> None:
        while self._met_halfway and pytest_internals.is_set_up(self._met_halfway[-1][0]):
            fixturedef, blocks = self._met_halfway.pop()
            error = pytest_internals.setup_error(fixturedef)
            if error is None:
                blocks.close()
            else:
                blocks.__exit__(type(error), error, error.__traceback__)

    def inward(self, method: str) -> list[Observer]:
        """The observers that define a method, outermost first."""
        if method not in self._callees:
            observers = (self._observers[role] for role in _ORDER if role in self._observers)
            self._callees[method] = [
                observer
                for observer in observers
                if getattr(type(observer), method) is not getattr(Observer, method)
            ]
        return self._callees[method]

    def _outward(self, method: str) -> list[Observer]:
        return self.inward(method)[::-1]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin a test, or another attempt at it."""
        for observer in self.inward("before_setup"):
            observer.before_setup(item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Follow the setup of a fixture."""
        self._leave_finished()
        shared = pytest_internals.is_higher_scoped(fixturedef)
        method = "during_setup_of_shared" if shared else "during_setup_of_own"
        with ExitStack() as blocks:
            for observer in self.inward(method):
                blocks.enter_context(getattr(observer, method)(fixturedef))
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        """Tell the test from its fixtures."""
        self._leave_finished()
        for observer in self.inward("before_call"):
            observer.before_call()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Follow the teardown, and all that it tears down."""
        for observer in self.inward("before_teardown"):
            observer.before_teardown()
        failed = True
        try:
            yield
            failed = False
        finally:
            self._leave_finished()
            for observer in self._outward("after_teardown"):
                observer.after_teardown(item, failed=failed)

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Follow the end of a fixture."""
        for observer in self._outward("after_finalizer"):
            observer.after_finalizer(fixturedef)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hand findings over with the report, to xdist's controller too."""
        report = yield
        for observer in self._outward("on_report"):
            observer.on_report(item, report)
        return report

    @pytest.hookimpl(tryfirst=True)  # what an observer adds to a report stands in all that is made of it
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Follow the reports of subtests, which come this way only, and the end of all attempts."""
        for observer in self._outward("on_logged_report"):
            observer.on_logged_report(report)

    @pytest.hookimpl(
        wrapper=True, trylast=True
    )  # the innermost: pytest writes the summary in another wrapper
    def pytest_sessionfinish(self, exitstatus: int) -> Generator[None, None, None]:
        """Follow the end, also of a test that was interrupted, which gets no teardown and no report."""
        with ExitStack() as blocks:
            for observer in self.inward("during_sessionfinish"):
                blocks.enter_context(observer.during_sessionfinish(exitstatus))
            return (yield)


class _Start:
    """The outermost hook of a test's setup: pytest's own log capture is not there yet."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        for observer in self._lifecycle.inward("at_start"):
            observer.at_start(item)
        return (yield)
