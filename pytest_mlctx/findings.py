"""Findings about a test, such as leaks: attached to its reports, shown in the terminal summary."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest


class Finding:
    """One kind of finding: a subclass says what of it stands in the summary.

    Reports carry findings from xdist's workers to the controller, so that a finding is made of plain data.
    """

    attribute: ClassVar[str]  # of the report

    @classmethod
    def attach(cls, report: pytest.TestReport, found: Any) -> None:
        """Hand a finding over with the report of the test."""
        vars(report)[cls.attribute] = found

    @classmethod
    def attached(cls, reports: Iterable[Any]) -> list[Any]:
        """The findings of this kind that reports carry."""
        attributes = (getattr(report, "__dict__", {}) for report in reports)
        return [of_report[cls.attribute] for of_report in attributes if cls.attribute in of_report]

    @classmethod
    def merged(cls, found: list[Any]) -> Any:
        """One finding of those of all attempts at a test, which is reported once."""
        return found[-1]

    @classmethod
    def told(cls, found: list[Any], *, checks_every_test: bool) -> tuple[str, list[str]]:
        """What the summary says of the findings of all tests: a title, or none, and lines.

        Args:
            found: what was attached, in the order of the reports.
            checks_every_test: whether each leak is to be told.
        """
        raise NotImplementedError


class Leaks(Finding):
    """What a test left changed, sentence by sentence."""

    attribute = "mlctx_leaks"

    @classmethod
    def told(cls, found: list[list[str]], *, checks_every_test: bool) -> tuple[str, list[str]]:
        """Each leak where every test is checked, else one line with the count of tests."""
        if checks_every_test:
            return "mlctx: left changed", _grouped([leak for of_a_test in found for leak in of_a_test])
        tests = "1 test" if len(found) == 1 else f"{len(found)} tests"
        return "", [f"mlctx: {tests} left the global context changed: --mlctx-leaks=warn tells what"]


# pytest's temporary folder of one session and worker, at the start of a path or after sqlite:///.
_TEMPORARY = re.compile(
    r"(?:(?<=:///)|(?<![:/\w]))/(?:[^\s:]*/)?pytest-of-[^/\s]+/pytest-\d+/(?:popen-gw\d+/)?"
)


def _grouped(leaks: list[str]) -> list[str]:
    """One line for each fixture, or for tests, and what it left, with the count of those like it."""
    alike: dict[tuple[str, str], list[str]] = {}
    for leak in leaks:
        culprit, _, what = leak.partition(": ")
        fixture = re.search(r", fixture '(.*)'$", culprit)
        kind = re.sub(rf"{_TEMPORARY.pattern}\S+|[0-9a-f]{{8}}…|\d+", "…", what)
        shortened = f"{culprit}: {_TEMPORARY.sub('…/', what)}"
        alike.setdefault((fixture[1] if fixture else "", kind), []).append(shortened)
    return [
        f"{examples[0]} (and {len(examples) - 1} more like this)" if examples[1:] else examples[0]
        for examples in alike.values()
    ]


class UnclosedRuns(Finding):
    """Why runs of a test stay open in their store."""

    attribute = "mlctx_unclosed"

    @classmethod
    def merged(cls, found: list[list[str]]) -> list[str]:
        """All reasons."""
        return [why for of_an_attempt in found for why in of_an_attempt]

    @classmethod
    def told(cls, found: list[list[str]], *, checks_every_test: bool) -> tuple[str, list[str]]:
        """Each reason."""
        return "", [f"mlctx: {why}" for of_a_test in found for why in of_a_test]


class InferredRequirements(Finding):
    """What became of the requirements of a test's models: counts, seconds, why none are kept."""

    attribute = "mlctx_models"

    @classmethod
    def merged(cls, found: list[dict[str, Any]]) -> dict[str, Any]:
        """The sums."""
        sums = {name: sum(each[name] for each in found) for name in ("reused", "inferred", "seconds")}
        return {**sums, "refused": found[-1]["refused"]}

    @classmethod
    def told(cls, found: list[dict[str, Any]], *, checks_every_test: bool) -> tuple[str, list[str]]:
        """One line, where inferring took more than a second."""
        seconds = sum(of_a_test["seconds"] for of_a_test in found)
        if seconds <= 1:
            return "", []
        reused, inferred = (sum(of_a_test[what] for of_a_test in found) for what in ("reused", "inferred"))
        kinds = "1 kind" if inferred == 1 else f"{inferred} kinds"
        refused = sorted({of_a_test["refused"] for of_a_test in found if of_a_test["refused"]})
        return "", [
            f"mlctx: requirements of {kinds} of model inferred in {seconds:.1f} s, {reused} reused",
            *(f"mlctx: {why}" for why in refused),
        ]


class DefaultStoreUse(Finding):
    """A test that used MLflow's default store, and how that was seen."""

    attribute = "mlctx_unserved"

    @classmethod
    def told(cls, found: list[tuple[str, str]], *, checks_every_test: bool) -> tuple[str, list[str]]:
        """The first, with the remedy."""
        test, did = found[0]
        remedy = "let it request mlflow_service, or set mlctx_autouse = mlflow"
        return "", [f"mlctx: {test} {did}: {remedy}"]


class MissingInternals(Finding):
    """Private names that this MLflow has no more, and what follows."""

    attribute = "mlctx_missing"

    @classmethod
    def told(cls, found: list[list[str]], *, checks_every_test: bool) -> tuple[str, list[str]]:
        """Each once."""
        return "", [f"mlctx: {why}" for why in dict.fromkeys(why for of_a_test in found for why in of_a_test)]


KINDS: tuple[type[Finding], ...] = (
    Leaks,
    UnclosedRuns,
    InferredRequirements,
    DefaultStoreUse,
    MissingInternals,
)
"""In the order of the summary."""
