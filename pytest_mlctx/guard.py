"""What a test left behind in the process-wide state: put back before the next test, and named."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from pytest_mlctx.services.state import Cell, Change, State

Mode = Literal["auto", "off", "warn", "error"]
ChangedBy = dict["Cell", tuple[str, object]]
"""The fixture that changed a cell last, and the value that it left there."""


class LeakWarning(pytest.PytestWarning):
    """A test, or a fixture of it, left the process-wide state changed; it was put back."""


class LeakError(Exception):
    """As `LeakWarning`, where leaks are errors."""


@dataclass
class _Baseline:
    """What the state has to be again, as far as is known by now."""

    state: State


@dataclass
class _Held:
    """What a living fixture of higher scope changed, and the baseline that it was set up on."""

    before: State
    after: State
    under: State
    changed_by: ChangedBy


@dataclass
class _Watched:
    """One attempt at a test, from before its setup until after its teardown."""

    baseline: _Baseline
    changed_by: ChangedBy = field(default_factory=dict)


class Guard:
    """Compares the state around each test and puts back what the test alone changed.

    What a fixture of higher scope changes is its own until it is torn down: its difference moves the
    baselines that are open, and its end moves them back.
    """

    def __init__(self, mode: Mode) -> None:
        from pytest_mlctx.services import state

        self._state = state
        self._mode = mode
        self._watched: _Watched | None = None
        self._leaks: list[str] = []  # of the last test
        self._setups: list[_Baseline] = []  # of the fixtures that are being set up, outermost first
        self._held: dict[pytest.FixtureDef[Any], _Held] = {}
        self._known: set[pytest.FixtureDef[Any]] = set()  # whose setup was seen

    @property
    def _open(self) -> list[_Baseline]:
        return self._setups if self._watched is None else [*self._setups, self._watched.baseline]

    def _now(self) -> State:
        return self._state.capture("mlflow", "environment", "files", "logging", "loguru")

    def watch(self) -> None:
        """Look at the test that is running from now on."""
        self._watched = _Watched(_Baseline(self._now()))

    def renumber_experiment(self, before: str, after: str) -> None:
        """Expect the new id where the old one was to come back: the experiment was made anew between tests."""
        for held in self._held.values():
            for name in ("before", "after", "under"):
                setattr(held, name, self._state.renumbered(getattr(held, name), before, after))
        for baseline in self._open:
            baseline.state = self._state.renumbered(baseline.state, before, after)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Remember the state before anything of the test has run."""
        self.watch()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Tell what the fixture alone changes from what the test does."""
        self._known.add(fixturedef)
        if self._watched is None:
            return (yield)
        own = _Baseline(self._now())
        self._setups.append(own)
        shared = fixturedef.scope != "function"
        try:
            result = yield
        except BaseException:
            self._setups.pop()
            if shared:
                self._state.restore(own.state)
            raise
        self._setups.pop()
        self._settle(fixturedef, own.state, shared=shared)
        return result

    def _settle(self, fixturedef: pytest.FixtureDef[Any], before: State, *, shared: bool) -> None:
        after = self._now()
        changes = self._state.compare(before, after)
        if not changes or self._watched is None:
            return
        changed_by = {change.cell: (fixturedef.argname, change.after) for change in changes}
        if shared:
            self._held[fixturedef] = _Held(before, after, self._watched.baseline.state, changed_by)
        else:
            self._watched.changed_by.update(changed_by)
        for baseline in self._open if shared else self._setups:
            self._move(baseline, before, after)

    def _move(self, baseline: _Baseline, before: State, after: State) -> None:
        baseline.state = self._state.move(baseline.state, before, after)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Expect again what was there before the fixture, of all that it had changed."""
        held = self._held.pop(fixturedef, None)
        if held is None:
            if self._watched and fixturedef.cached_result is not None and fixturedef not in self._known:
                # Alive since before the guard looked: what its end changes can't be told from a leak.
                self._watched.baseline.state = self._now()
            return
        if self._watched:
            self._watched.changed_by.update(held.changed_by)  # the culprit, if it has not undone it
        for baseline in self._open:
            self._move(baseline, held.after, held.before)
            # Under it may lie what the test had changed before: that is healed now.
            if held.under.pristine == held.before.pristine:
                self._move(baseline, held.before, held.under)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Put back what the test left changed, when all of its teardown is done."""
        try:
            result = yield
        except BaseException:
            if leaks := self._heal(item):
                item.add_report_section("teardown", "leak", _told(leaks))  # its own error goes before
            raise
        leaks = self._heal(item)
        if leaks and self._mode == "warn":
            item.warn(LeakWarning(_told(leaks)))
        if leaks and self._mode == "error":
            raise LeakError(_told(leaks))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hand the findings over with the report of the teardown, to xdist's controller too."""
        report = yield
        if call.when == "teardown" and self._leaks:
            report.mlctx_leaks, self._leaks = self._leaks, []
        return report

    def _heal(self, item: pytest.Item) -> list[str]:
        """Put the state back; what is worth a word, one sentence for each culprit, unless switched off."""
        watched, self._watched = self._watched, None
        if watched is None:
            return []
        changes = self._state.compare(watched.baseline.state, self._now())
        if not changes:
            return []
        self._state.restore(watched.baseline.state)
        leaks: dict[str, list[str]] = {}
        for change in changes:
            if change.sentence and self._mode != "off":
                leaks.setdefault(_culprit(watched, item, change), []).append(change.sentence)
        self._leaks = [f"{culprit} left {', '.join(what)}" for culprit, what in leaks.items()]
        return self._leaks


def _culprit(watched: _Watched, item: pytest.Item, change: Change) -> str:
    fixture, value = watched.changed_by.get(change.cell, ("", None))
    return f"fixture {fixture!r} of {item.nodeid}" if fixture and value == change.after else item.nodeid


def _told(sentences: list[str]) -> str:
    return (
        "; ".join(sentences)
        + ". It was put back; undo it in the test itself, or in the fixture after its yield."
    )
