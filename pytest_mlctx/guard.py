"""Leaks of process-wide state: what a test leaves changed is restored, and reported as that test's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx import options, pytest_internals
from pytest_mlctx.findings import Leaks
from pytest_mlctx.lifecycle import Observer

if TYPE_CHECKING:
    from pytest_mlctx.services.state import Cell, Change, State

Author = tuple[object, str]
"""A value that a cell was left with, and who left it."""

_HARMLESS = ("_pytest.", "pytest_mlctx.")  # their function-scoped fixtures change nothing for good
_FILES = "files.litter"  # the kind that is told and left
_PUT_BACK = "{} was put back; undo it in the test itself, or in the fixture after its yield."
_LEFT_THERE = "{} was left there; track to a temporary store, as the fixture mlflow_service does."


class LeakWarning(pytest.PytestWarning):
    """A test, or a fixture of it, left the process-wide state changed; it was put back, files aside."""


@dataclass(eq=False)
class _Baseline:
    """What the state has to be again, as far as is known by now."""

    state: State


@dataclass
class _Held:
    """What a living fixture of higher scope changed, and the baseline that it was set up on."""

    before: State
    after: State
    under: State


@dataclass
class _Watched:
    """One attempt at a test, from before its setup until after its teardown."""

    baseline: _Baseline
    authors: dict[Cell, list[Author]] = field(default_factory=dict)
    found: list[tuple[Change, str]] = field(default_factory=list)  # and put back, with who left it if known

    def credit(self, changes: list[Change], fixture: pytest.FixtureDef[Any]) -> None:
        """Remember what a fixture has left."""
        who = f"fixture {fixture.argname!r}"
        for change in changes:
            self.authors.setdefault(change.cell, []).append((change.after, who))

    def find(self, changes: list[Change], same: Callable[[object, object], bool]) -> None:
        """Remember what was left, and who of those known by now had left it so."""
        for change in changes:
            authors = reversed(self.authors.get(change.cell, []))
            who = next((who for value, who in authors if same(value, change.after)), "")
            self.found.append((change, who))


class Guard(Observer):
    """Compares the state around each test and puts back what the test alone changed.

    What a fixture of higher scope changes is its own until it is torn down: its difference moves the
    baselines that are open, and its end moves them back.

    Args:
        mode: `warn` and `error` tell what was found, `auto` counts it, `off` only puts back.
        concerns: whether a test is to be looked at although no service is in force yet.
    """

    def __init__(self, mode: options.Leaks, concerns: Callable[[pytest.Item], bool]) -> None:
        from pytest_mlctx.services import state

        self._state = state
        self._mode = mode
        self._names_fixtures = mode in ("warn", "error")
        self._concerns = concerns
        self._in_force = False
        self._watched: _Watched | None = None
        self._leaks: list[str] = []  # of the last test, all its attempts
        self._setups: list[_Baseline] = []  # of the fixtures that are being set up, outermost first
        self._last: State | None = None  # while nothing but pytest can have run since
        self._held: dict[pytest.FixtureDef[Any], _Held] = {}
        self._known: set[pytest.FixtureDef[Any]] = set()  # whose setup was seen
        self._ending: dict[pytest.FixtureDef[Any], State] = {}
        self._tearing_down = False

    @property
    def _open(self) -> list[_Baseline]:
        watched = [] if self._watched is None else [self._watched.baseline]
        return [*watched, *self._setups]

    def _now(self) -> State:
        return self._state.capture("services", "mlflow", "environment", "files", "logging", "loguru")

    def in_force(self, request: pytest.FixtureRequest) -> None:
        """Look at the running test and all that follow: a service is about to start for this request."""
        self._in_force = True
        if self._watched is None:
            self._watched = _Watched(_Baseline(self._now()))
            for fixturedef in pytest_internals.set_up_for(request):
                if fixturedef not in self._known:
                    fixturedef.addfinalizer(functools.partial(self._begin_to_end, fixturedef))

    def found(self, sentence: str) -> None:
        """Name what an observer has found and put back, like what else the test left."""
        if self._watched is not None:
            change = self._state.Change(("found", sentence), self._state.ABSENT, "open", sentence)
            self._watched.find([change], self._state.same)

    def renumber_experiment(self, before: str, after: str) -> None:
        """Expect the new id where the old one was to come back: the experiment was made anew."""
        self._last = None
        for held in self._held.values():
            for name in ("before", "after", "under"):
                setattr(held, name, self._state.renumbered(getattr(held, name), before, after))
        for baseline in self._open:
            baseline.state = self._state.renumbered(baseline.state, before, after)

    def at_start(self, item: pytest.Item) -> None:
        """Remember the state before anything of the test has run."""
        self._watched = self._last = None
        if self._in_force or self._concerns(item):
            self._last = self._now()
            self._watched = _Watched(_Baseline(self._last))

    def before_call(self) -> None:
        """What changes from now on is the test's."""
        self._last = None

    def during_setup_of_own(self, fixturedef: pytest.FixtureDef[Any]) -> AbstractContextManager[object]:
        """Tell what the fixture changes from what the test does, where fixtures are to be named."""
        self._known.add(fixturedef)
        if not self._names_fixtures or fixturedef.func.__module__.startswith(_HARMLESS):
            return nullcontext()
        return self._comparing(fixturedef, _Baseline(self._now() if self._last is None else self._last))

    @contextmanager
    def during_setup_of_shared(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Let the fixture keep what it changes until it is torn down; put back what a failed setup did."""
        self._known.add(fixturedef)
        own = _Baseline(self._now())
        try:
            with self._comparing(fixturedef, own):
                yield
        except BaseException:
            self._state.restore(own.state)
            raise

    @contextmanager
    def _comparing(self, fixturedef: pytest.FixtureDef[Any], own: _Baseline) -> Iterator[None]:
        self._last = None
        self._setups.append(own)
        teardowns = pytest_internals.teardowns(fixturedef)
        try:
            yield
        finally:
            self._setups.remove(own)
        has_teardown = pytest_internals.teardowns(fixturedef) > teardowns
        after = self._settle(fixturedef, own.state, has_teardown=has_teardown)
        self._last = None if self._setups else after

    def _settle(self, fixturedef: pytest.FixtureDef[Any], before: State, *, has_teardown: bool) -> State:
        after = self._now()
        changes = self._state.compare(before, after)
        shared = pytest_internals.is_higher_scoped(fixturedef)
        if shared or (self._names_fixtures and (changes or has_teardown)):
            fixturedef.addfinalizer(lambda: self._begin_to_end(fixturedef))
        if not changes:
            return after
        if shared:
            under = before if self._watched is None else self._watched.baseline.state
            self._held[fixturedef] = _Held(before, after, under)
        elif self._watched is not None:
            self._watched.credit(changes, fixturedef)
        for baseline in self._open if shared else self._setups:
            self._move(baseline, before, after)
        return after

    def _begin_to_end(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if pytest_internals.is_higher_scoped(fixturedef) and self._tearing_down and self._watched is not None:
            self._collect(self._watched)  # what the fixture takes back with its own would be told of nobody
        self._ending[fixturedef] = self._now()

    def _collect(self, watched: _Watched) -> None:
        """Put back what differs from the baseline, and remember it."""
        changes = self._state.compare(watched.baseline.state, self._now())
        if changes:
            baseline = watched.baseline.state
            self._state.restore(baseline)
            watched.find(changes, self._state.same)
            files = {change.cell: change.after for change in changes if change.cell[0] == _FILES}
            watched.baseline.state = replace(baseline, cells={**baseline.cells, **files})

    def _move(self, baseline: _Baseline, before: State, after: State) -> None:
        baseline.state = self._state.move(baseline.state, before, after)

    def after_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Expect again what was there before the fixture, of all that it had changed."""
        ending, held = self._ending.pop(fixturedef, None), self._held.pop(fixturedef, None)
        if self._watched is not None:
            if ending is not None:
                self._watched.credit(self._state.compare(ending, self._now()), fixturedef)
            if held is None and pytest_internals.is_set_up(fixturedef) and fixturedef not in self._known:
                # Alive since before the guard looked: what its end changes is no leak.
                now = self._now()
                self._move(
                    self._watched.baseline, self._watched.baseline.state if ending is None else ending, now
                )
        if held is not None:
            self._undo(held, fixturedef)
            for baseline in self._open:
                self._move(baseline, held.after, held.before)
                # Under it may lie what the test had changed before: that is healed now.
                if held.under.pristine == held.before.pristine:
                    self._move(baseline, held.before, held.under)

    def _undo(self, held: _Held, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Put back at once what the fixture has not: the next one, of another parameter, may be waiting."""
        now = self._now()
        cells = dict(now.cells)
        left: list[Change] = []
        for change in self._state.compare(held.before, held.after):
            value = cells.get(change.cell, self._state.ABSENT)
            if self._state.same(value, change.after):
                left.append(change)
                if change.before is self._state.ABSENT:
                    cells.pop(change.cell, None)
                else:
                    cells[change.cell] = change.before
        if left and self._watched is not None:
            self._watched.credit(left, fixturedef)
            left = [change for change in left if change.cell[0] != _FILES]
            self._watched.find(left, self._state.same)
            self._state.restore(replace(now, cells=cells))

    def before_teardown(self) -> None:
        """What fixtures of higher scope take back from now on is theirs."""
        self._tearing_down = True

    def after_teardown(self, item: pytest.Item, *, failed: bool) -> None:
        """Put back what the test left changed."""
        told = self._heal(item)
        if told and failed:
            item.add_report_section("teardown", "leak", told)  # its own error goes before
        elif told and self._mode == "warn":
            try:
                item.warn(LeakWarning(told))
            except LeakWarning:  # warnings are errors in this suite, and `error` would have been asked for
                item.add_report_section("teardown", "leak", told)
        elif told and self._mode == "error":
            pytest.fail(told, pytrace=False)

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Hand the findings over with the report of the teardown."""
        if report.when == "teardown" and self._leaks:
            Leaks.attach(report, self._leaks)

    def on_logged_report(self, report: pytest.TestReport) -> None:
        """Forget what was handed over; the report of an attempt that is repeated never comes by."""
        if report.when == "teardown":
            self._leaks = []

    @contextmanager
    def during_sessionfinish(self, exitstatus: int) -> Iterator[None]:
        """Put the state back behind a test that was interrupted, which gets no teardown of its own."""
        try:
            yield
        finally:
            if self._watched is not None:
                self._state.restore(self._watched.baseline.state)
                self._watched = None

    def _heal(self, item: pytest.Item) -> str:
        """Put the state back; what is worth a word, unless switched off, with what to do about it."""
        self._tearing_down = False
        watched, self._watched = self._watched, None
        if watched is None:
            return ""
        self._collect(watched)
        told = [found for found in watched.found if found[0].sentence and self._mode != "off"]
        if not told:
            return ""
        by_culprit: dict[str, list[str]] = {}
        for change, who in told:
            culprit = f"{item.nodeid}, {who}" if who else item.nodeid
            by_culprit.setdefault(culprit, []).append(str(change.sentence))
        leaks = [f"{culprit}: {', '.join(what)}" for culprit, what in by_culprit.items()]
        self._leaks += [leak for leak in leaks if leak not in self._leaks]
        return f"{'; '.join(leaks)}. {_remedy([change for change, _ in told])}"


def _remedy(told: list[Change]) -> str:
    files = [change for change in told if change.cell[0] == _FILES]
    if not files:
        return _PUT_BACK.format("It")
    if len(files) == len(told):
        return _LEFT_THERE.format("It")
    return f"{_LEFT_THERE.format('What was written')} {_PUT_BACK.format('The rest')}"
