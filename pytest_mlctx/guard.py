"""What a test left behind in the process-wide state: put back before the next test, and named."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

if TYPE_CHECKING:
    from pytest_mlctx.services.state import Change, State

Mode = Literal["auto", "off", "warn", "error"]


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


@dataclass
class _Watched:
    """One attempt at a test, from before its setup until after its teardown."""

    baseline: _Baseline
    by_fixture: dict[Any, tuple[str, object]] = field(default_factory=dict)  # cell -> fixture, value it left


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
        self._setups: list[_Baseline] = []  # of the fixtures that are being set up, outermost first
        self._held: dict[pytest.FixtureDef[Any], _Held] = {}
        self._known: set[pytest.FixtureDef[Any]] = set()  # whose setup was seen
        self.healed = 0

    def _now(self) -> State:
        return self._state.capture("mlflow", "environment", "files", "logging", "loguru")

    def watch(self) -> None:
        """Look at the test that is running from now on."""
        self._watched = _Watched(_Baseline(self._now()))

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
        if shared:
            self._held[fixturedef] = _Held(before, after, self._watched.baseline.state)
            self._move(self._watched.baseline, before, after)
        else:
            self._watched.by_fixture.update(
                {change.cell: (fixturedef.argname, change.after) for change in changes}
            )
        for baseline in self._setups:
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
        for baseline in (*self._setups, *((self._watched.baseline,) if self._watched else ())):
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
            self._heal(item)
            raise
        leaks = self._heal(item)
        if leaks and self._mode == "error":
            raise LeakError(_told(leaks))
        return result

    def _heal(self, item: pytest.Item) -> list[str]:
        watched, self._watched = self._watched, None
        if watched is None:
            return []
        changes = self._state.compare(watched.baseline.state, self._now())
        if not changes:
            return []
        self._state.restore(watched.baseline.state)
        leaks = [
            f"{self._culprit(watched, item, change)}: {change.sentence}"
            for change in changes
            if change.sentence
        ]
        if leaks and self._mode != "off":
            self.healed += 1
            if self._mode != "auto":
                item.user_properties.append(("mlctx_leaks", leaks))
            if self._mode == "warn":
                item.warn(LeakWarning(_told(leaks)))
        return leaks

    def _culprit(self, watched: _Watched, item: pytest.Item, change: Change) -> str:
        fixture, value = watched.by_fixture.get(change.cell, ("", None))
        if fixture and value == change.after:
            return f"fixture {fixture} of {item.nodeid}"
        return item.nodeid


def _told(leaks: list[str]) -> str:
    return (
        "the process-wide state was left changed, and has been put back. "
        + "; ".join(leaks)
        + ". Undo it in the test, or in a fixture after its yield."
    )
