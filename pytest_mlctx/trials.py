"""Trials: a test that is run several times, and has one outcome by the share of trials that passed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import NormalDist
from typing import NamedTuple

import pytest

from pytest_mlctx import findings, pytest_internals
from pytest_mlctx.options import TRIALS_MARKER
from pytest_mlctx.report_data import IDENTITY, TRACKED

TRIALS = "mlctx_trials"
"""The attribute of a recorded test's teardown report: the reports of each trial, as data."""
_CONFIDENCE = 0.95
_APART = 1_000_003  # between seeds: pytest-randomly adds the test's own number, and less or more by one
_WORSE = 0.1  # than `pass_rate`: the agent that the reader of a failure is told about


class TrialsMarker(NamedTuple):
    """What the marker asks for."""

    trials: int
    pass_rate: float

    @property
    def needed(self) -> int:
        """How many trials have to pass; at most ``trials``."""
        return math.ceil(self.trials * self.pass_rate - 1e-9)

    def certain(self, passed: int, failed: int) -> bool:
        """Whether no further trial changes the outcome."""
        return passed >= self.needed or failed > self.trials - self.needed

    def chance(self, rate: float) -> float:
        """The probability that a test passes of which each trial does with this probability."""
        return sum(
            math.comb(self.trials, passed) * rate**passed * (1 - rate) ** (self.trials - passed)
            for passed in range(self.needed, self.trials + 1)
        )


def asked_for(item: pytest.Item) -> TrialsMarker | None:
    """What the closest marker of a test asks for; None where it has none, or one of a single trial.

    Raises:
        TypeError: it is written wrong; the end of a sentence.
    """
    marker = item.get_closest_marker("mlctx_trials")
    if marker is None:
        return None
    count = marker.args[0] if len(marker.args) == 1 else marker.kwargs.get("count")
    pass_rate = marker.kwargs.get("pass_rate", 1.0)
    if marker.kwargs.keys() - {"count", "pass_rate"} or len(marker.args) + ("count" in marker.kwargs) != 1:
        raise TypeError("takes the number of trials, and pass_rate")
    if type(count) is not int or count < 1:
        raise TypeError(f"takes a number of trials of 1 or more, not {count!r}")
    if isinstance(pass_rate, bool) or not isinstance(pass_rate, (int, float)) or not 0 < pass_rate <= 1:
        raise TypeError(f"takes a pass_rate above 0 and up to 1, not {pass_rate!r}")
    return TrialsMarker(count, pass_rate) if count > 1 else None


def wilson(passed: int, count: int) -> tuple[float, float]:
    """The interval that holds the true rate with 95 % confidence (Wilson's score interval)."""
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    rate, scale = passed / count, 1 + z * z / count
    middle = rate + z * z / (2 * count)
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


class Trials:
    """Runs the tests that are marked."""

    @pytest.hookimpl(tryfirst=True)  # before a plugin that runs a test again when it has failed
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run all trials, and report one test."""
        try:
            asked = asked_for(item)
        except TypeError:  # told in its setup
            return None
        if asked is None:
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in _as_one(item, asked, _run(item, nextitem, asked)):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Say of a marker that it is written wrong."""
        try:
            asked_for(item)
        except TypeError as error:
            told = f"the marker mlctx_trials {error}; it is {TRIALS_MARKER}."
            raise pytest.fail.Exception(told, pytrace=False) from None


def _run(item: pytest.Item, nextitem: pytest.Item | None, asked: TrialsMarker) -> list[pytest_internals.Ran]:
    trials: list[pytest_internals.Ran] = []
    given, over = len(item.user_properties), False

    def then(call: pytest.TestReport | None) -> pytest.Item | None:
        nonlocal over
        passed, failed = _counts(trials)
        if call is None or _skips(call):
            over = True
        else:
            over = asked.certain(passed + call.passed, failed + (not call.passed))
        # Another item of the same parents: what is of higher scope stays for the next trial.
        return nextitem if over else copy.copy(item)

    while not over:
        del item.user_properties[given:]
        with _seeded_apart(item.config, len(trials)):
            trials.append(pytest_internals.run(item, then))
    return trials


@contextmanager
def _seeded_apart(config: pytest.Config, number: int) -> Iterator[None]:
    """Within the block pytest-randomly seeds with another number than for the trials before."""
    seed = getattr(config.option, "randomly_seed", None)
    if not isinstance(seed, int):  # it is not in use
        yield
        return
    config.option.randomly_seed = seed + number * _APART
    try:
        yield
    finally:
        config.option.randomly_seed = seed


def _skips(call: pytest.TestReport) -> bool:
    return call.skipped and not hasattr(call, "wasxfail")


def _counts(trials: Sequence[pytest_internals.Ran]) -> tuple[int, int]:
    passed = sum(trial.phases["call"].passed for trial in trials)
    return passed, len(trials) - passed


def _as_one(
    item: pytest.Item, asked: TrialsMarker, trials: Sequence[pytest_internals.Ran]
) -> list[pytest.TestReport]:
    """The reports of one test: an error in a setup or teardown is an error, a skip skips the test."""
    first, last = trials[0].phases, trials[-1].phases
    setup = first["setup"] if last["setup"].passed else last["setup"]
    teardowns = [trial.phases["teardown"] for trial in trials]
    teardown = next((each for each in teardowns if each.failed), last["teardown"])
    for kind in findings.KINDS:
        found = kind.attached(teardowns)
        if found:
            kind.attach(teardown, kind.merged(found))
    if "call" not in last:
        return [setup, teardown]
    if _skips(last["call"]):
        return [setup, last["call"], teardown]
    if IDENTITY in vars(setup):  # before they become those of the test
        vars(teardown)[TRACKED] = vars(last["teardown"]).get(TRACKED)
        vars(teardown)[TRIALS] = [
            [
                item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
                for report in trial.in_order
            ]
            for trial in trials
        ]
    passed, _ = _counts(trials)
    told = f"{passed} of {len(trials)} trials passed"
    if passed >= asked.needed:
        call = [trial.phases["call"] for trial in trials if trial.phases["call"].passed][-1]
    else:
        failures = [trial.phases["call"] for trial in trials if not trial.phases["call"].passed]
        call = next((failure for failure in failures if failure.failed), failures[0])  # or all were expected
        kinds = _by_kind(trials)
        others = [
            ("another failure", report.longreprtext)
            for report in (numbered[min(numbered)] for numbered in kinds)
            if report.longrepr is not call.longrepr
        ]
        explained = "\n".join(_explained(asked, trials, told, kinds))
        pytest_internals.add_to_failure(call, told, [("trials", explained), *others])
    for phase, report in (("setup", setup), ("call", call), ("teardown", teardown)):
        report.duration = sum(trial.phases[phase].duration for trial in trials)
    teardown.user_properties.append(("mlctx.trials", told))
    return [setup, call, teardown]


_Numbered = Mapping[int, pytest.TestReport]
"""What failed in one way, a call or a subtest, by the number of its trial."""


def _by_kind(trials: Sequence[pytest_internals.Ran]) -> list[_Numbered]:
    kinds: dict[object, dict[int, pytest.TestReport]] = {}
    for number, trial in enumerate(trials, 1):
        for failure in () if trial.phases["call"].passed else trial.failures:
            kind = pytest_internals.kind_of_failure(failure)
            kinds.setdefault(kind, {}).setdefault(number, failure)
    return [*kinds.values()]


def _explained(
    asked: TrialsMarker, trials: Sequence[pytest_internals.Ran], told: str, kinds: Sequence[_Numbered]
) -> Iterator[str]:
    passed, _ = _counts(trials)
    low, high = wilson(passed, len(trials))
    yield f"{told}; {asked.needed} of {asked.trials} had to (pass_rate={asked.pass_rate:g})"
    yield f"the true rate lies between {low:.0%} and {high:.0%} (Wilson's interval, 95 %)"
    if high >= asked.pass_rate:
        worse = asked.pass_rate - min(_WORSE, asked.pass_rate / 2)
        yield (
            f"so few trials cannot tell: what succeeds in {asked.pass_rate:.0%} of its trials fails this "
            f"test {1 - asked.chance(asked.pass_rate):.0%} of the time, "
            f"and what succeeds in {worse:.0%} passes it {asked.chance(worse):.0%} of the time"
        )
    for numbered in kinds:
        first = numbered[min(numbered)]
        which = f"trial{'s' if len(numbered) > 1 else ''} {', '.join(map(str, numbered))}"
        subtest = pytest_internals.subtest_of(first)
        yield f"{which}{f', subtest {subtest}' if subtest else ''}: {pytest_internals.headline(first)}"
