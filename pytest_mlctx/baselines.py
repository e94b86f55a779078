"""`mlflow_baseline`: a metric's values in earlier sessions, to be compared with by an assertion."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

import pytest

from pytest_mlctx.gates import Allowance, Gate, Operator, Past, compare, measured

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mlctx.report_data import ReportData
    from pytest_mlctx.services.records import Records
    from pytest_mlctx.settings import Settings

_NAMES = ">= (a drop is allowed), <= (a rise is allowed) or =="


class Baseline:
    """Compares: ``value >= baseline`` allows a drop, ``value <= baseline`` a rise, ``==`` both.

    The value may stand on either side. It is recorded with the record of the test.
    """

    # NumPy and pandas leave the comparison to this side then.
    __array_ufunc__ = None
    __pandas_priority__ = 10_000
    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __init__(self, compare: Callable[[Operator, Any], list[Gate]], what: str) -> None:
        self._compare = compare
        self._what = what
        self.lines: list[str] = []
        """What the last comparison that failed says."""

    def __le__(self, value: object) -> bool:
        return self._holds(">=", value)

    def __ge__(self, value: object) -> bool:
        return self._holds("<=", value)

    def __eq__(self, value: object) -> bool:
        return self._holds("==", value)

    def _holds(self, operator: Operator, value: object) -> bool:
        gates = self._compare(operator, value)
        bad = [gate for gate in gates if gate.verdict in ("fallen", "undecided")]
        self.lines = [line for gate in bad for line in gate.lines]
        return not bad

    def _refuse(self) -> NoReturn:
        raise TypeError(f"{self!r} is compared by {_NAMES}: <, > and != leave no allowance.")

    def __lt__(self, value: object) -> NoReturn:
        self._refuse()

    def __gt__(self, value: object) -> NoReturn:
        self._refuse()

    def __ne__(self, value: object) -> bool:
        self._refuse()

    def __repr__(self) -> str:
        return f"mlflow_baseline({self._what})"


def explained(op: str, left: object, right: object) -> list[str] | None:
    """What pytest shows of a comparison that failed; None where no baseline takes part."""
    for baseline, other in ((right, left), (left, right)):
        if isinstance(baseline, Baseline) and baseline.lines:
            shown = repr(other) if isinstance(other, (int, float)) else type(other).__name__
            sides = (shown, repr(baseline)) if baseline is right else (repr(baseline), shown)
            return [f"{sides[0]} {op} {sides[1]}", *baseline.lines]
    return None


class _Asked(NamedTuple):
    """One baseline as a test asks for it."""

    nodeid: str
    key: str
    runs: int
    allowance: Allowance
    anchored: Allowance

    @property
    def name(self) -> str:
        return self.key or self.nodeid


class Baselines:
    """Makes the baselines of a session's tests, and notes what was compared."""

    def __init__(
        self,
        settings: Settings,
        root: Path,
        report_data: ReportData | None,
        records: Callable[[], Records],
        session: str,
    ) -> None:
        self._settings = settings
        self._report_data = report_data  # none where there are no records
        self._records = records
        self._session = session  # its id
        self._root = root
        self._why_not = ""  # the records cannot be read

    @cached_property
    def _branch(self) -> str | None:
        from pytest_mlctx import source

        return self._settings.baseline_branch or source.default_branch(self._root)

    def of(self, item: pytest.Item) -> Callable[..., Baseline]:
        """The function that `mlflow_baseline` gives."""

        def mlflow_baseline(
            metric: Any,
            *,
            rel: float = 0.0,
            abs: float = 0.0,  # noqa: A002  (as in pytest.approx)
            runs: int = 5,
            key: str | None = None,
            anchor: float | None = None,
        ) -> Baseline:
            """A value to compare with.

            Args:
                metric: its name, or a result of ``mlflow.genai.evaluate``, each of whose metrics is compared.
                rel: how much worse it may be, as a share of the baseline.
                abs: the same in the unit of the metric; the larger of both holds.
                runs: of at most how many records the baseline is the median.
                key: a name for the history that outlives another name of the test.
                anchor: the share that is allowed against a pinned session; that of `rel` where not given.
            """
            for name, number in {"rel": rel, "abs": abs, "anchor": anchor or 0.0}.items():
                if not (isinstance(number, (int, float)) and 0 <= number < math.inf):
                    raise ValueError(f"mlflow_baseline: {name}={number!r} is no allowance, give 0 or more.")
            if not (isinstance(runs, int) and runs >= 1):
                raise ValueError(f"mlflow_baseline: runs={runs!r} is no count of records, give 1 or more.")
            allowance = Allowance(rel, abs)
            anchored = allowance if anchor is None else Allowance(anchor, 0.0)
            asked = _Asked(item.nodeid, key or "", runs, allowance, anchored)

            def compare(operator: Operator, value: Any) -> list[Gate]:
                values = {metric: value} if isinstance(metric, str) else _metrics_of(value)
                return [self._gate(asked, each, operator, number) for each, number in values.items()]

            return Baseline(
                compare, repr(metric if isinstance(metric, str) else ", ".join(_metrics_of(metric)))
            )

        return mlflow_baseline

    def _gate(self, asked: _Asked, metric: str, operator: Operator, given: Any) -> Gate:
        data = self._report_data
        if data is None:
            pytest.fail(
                f"mlflow_baseline({metric!r}): there is no history to compare with, "
                "name the store of records with --mlctx-record.",
                pytrace=False,
            )
        value, values = measured(given)
        for gate in data.gates:
            if gate.metric == metric and gate.value != value:
                pytest.fail(
                    f"mlflow_baseline({metric!r}): the test compares two values of this name, "
                    f"{gate.value:.6g} and {value:.6g}: give one of them another name.",
                    pytrace=False,
                )
        data.key = asked.key or data.key
        gate = self._judged(asked, metric, operator, value, values)
        data.gates.append(gate)
        return gate

    def _judged(
        self, asked: _Asked, metric: str, operator: Operator, value: float, values: tuple[float, ...]
    ) -> Gate:
        if not math.isfinite(value):
            sentence = f"mlflow_baseline({metric!r}): NaN and infinity never pass."
            return Gate(metric, operator, value, values, "fallen", lines=(sentence,))
        history, pinned = self._read(asked, metric)
        gates = [compare(metric, operator, value, values, history, asked.allowance)] if history else []
        if pinned:
            anchored = compare(metric, operator, value, values, pinned, asked.anchored, against="the anchor")
            gates.append(anchored)
        if gates:
            return next((gate for gate in gates if gate.verdict != "held"), gates[0])
        if self._settings.baseline != "check":
            return Gate(metric, operator, value, values, "recorded")
        where = f" on the branch {self._branch!r}" if self._branch else ""
        sentence = (
            f"mlflow_baseline({metric!r}): no record of {asked.name!r} that passed{where} has this metric, "
            "record it with --mlctx-baseline=record."
        )
        return Gate(metric, operator, value, values, "fallen", lines=(sentence,))

    def _read(self, asked: _Asked, metric: str) -> tuple[list[Past], list[Past]]:
        """The history, and what was pinned; that of a key begins with what the test had without it."""
        from pytest_mlctx.services import ServiceError, deadline, history

        if self._why_not:
            pytest.fail(self._why_not, pytrace=False)
        try:
            for each in dict.fromkeys((asked.name, asked.nodeid)):
                of_test = history.name_of(each), self._session, self._branch
                earlier = _pasts(self._records().history.of(*of_test, asked.runs), metric)
                pinned = _pasts(self._records().history.anchored(*of_test), metric)
                if earlier or pinned:
                    return earlier, pinned
            return [], []
        except ServiceError as error:
            why = str(error)
        except Exception as error:
            why = deadline.reason(error)
        self._why_not = f"mlflow_baseline: the records cannot be read: {why}"
        pytest.fail(self._why_not, pytrace=False)


def _metrics_of(result: Any) -> dict[str, Any]:
    metrics = getattr(result, "metrics", None)
    if not isinstance(metrics, dict):
        raise TypeError(
            f"mlflow_baseline: a {type(result).__name__} is neither the name of a metric nor a result of "
            "mlflow.genai.evaluate: give one of them."
        )
    return metrics


def _pasts(found: list[Any], metric: str) -> list[Past]:
    from pytest_mlctx.services.records import storable_key

    known = storable_key(metric)
    return [
        Past(
            run.data.metrics[known],
            tuple(json.loads(run.data.tags.get(f"mlctx.values.{known}", "[]"))),
            run.data.tags.get("mlflow.source.git.commit", ""),
            run.info.start_time / 1000,
        )
        for run in found
        if math.isfinite(run.data.metrics.get(known, math.nan))
    ]
