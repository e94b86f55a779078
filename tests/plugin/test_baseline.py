"""Gates against history: a metric is compared with what the records of earlier sessions had."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from recorded import records

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin", "put_back")
RECORD = "--mlctx-record=sqlite:///tests.db"

GATE = """
    import os

    def test(mlflow_baseline):
        assert float(os.environ["VALUE"]) >= mlflow_baseline("accuracy", rel=0.02)
"""


class Suite:
    """Runs a suite again and again, each time with another value."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self.path = pytester.path

    def write(self, source: str, **more: str) -> None:
        self._pytester.makepyfile(test_it=source, **more)

    def run(self, value: object = "", *args: str, record: str = RECORD) -> pytest.RunResult:
        os.environ["VALUE"] = str(value)
        return self._pytester.runpytest_inprocess(*filter(None, [record]), *args)

    def recorded(self, *values: object) -> None:
        for value in values:
            assert self.run(value, "--mlctx-baseline=record").ret == 0


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Suite:
    suite = Suite(pytester)
    suite.write(GATE)
    return suite


def explanation(result: pytest.RunResult) -> list[str]:
    return [line.removeprefix("E").strip() for line in result.outlines if line.startswith("E  ")]


def test_without_records_a_comparison_fails(suite: Suite) -> None:
    result = suite.run(1, record="")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["mlflow_baseline('accuracy'): there is no history*with --mlctx-record."])
    assert "pytest_mlctx/" not in result.stdout.str()


def test_without_history_check_fails_and_record_passes(suite: Suite) -> None:
    result = suite.run(0.9)
    result.assert_outcomes(failed=1)
    assert any(
        "no record of 'test_it.py::test' that passed has this metric, record it with" in line
        for line in explanation(result)
    )
    result = suite.run(0.9, "--mlctx-baseline=record")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mlctx: gates: 1 recorded"])
    assert records(suite.path / "tests.db")[-1].metrics["accuracy"] == 0.9
    suite.run(0.9).assert_outcomes(passed=1)  # what was recorded is the history of the next


def test_record_checks_what_has_a_history(suite: Suite) -> None:
    suite.recorded(0.9)
    suite.run(0.8, "--mlctx-baseline=record").assert_outcomes(failed=1)


def test_the_baseline_is_the_median_of_those_that_passed(suite: Suite) -> None:
    suite.recorded(0.90, 0.91, 0.92)
    suite.run(0.5).assert_outcomes(failed=1)  # a record of a failing test is no history
    result = suite.run(0.8)
    result.assert_outcomes(failed=1)
    first, *told = explanation(result)
    assert first.endswith("assert 0.8 >= mlflow_baseline('accuracy')")
    assert told[0] == "accuracy 0.8 against the baseline 0.91: falls, at least 0.8918 is asked for"
    assert told[1] == "difference: -0.11 (-12.09%), 11.0 times its spread; allowed: 0.0182 (rel=0.02)"
    assert re.fullmatch(r"median of 3: 0\.92 \(\d{4}-\d\d-\d\d\), 0\.91 \(\S+\), 0\.9 \(\S+\)", told[2])
    assert told[3] == "history: ▇▇█▁ (the last is this value)"
    (picture,) = {path.name for path in suite.path.glob("mlartifacts/*/*/artifacts/*.svg")}
    assert picture == "baseline-accuracy.svg"
    for path in suite.path.glob("mlartifacts/*/*/artifacts/*.svg"):
        ElementTree.parse(path)


@pytest.mark.parametrize(
    ("comparison", "good", "bad"),
    [
        ("value >= baseline", 0.89, 0.87),
        ("baseline <= value", 0.89, 0.87),
        ("value <= baseline", 0.91, 0.93),
        ("baseline >= value", 0.91, 0.93),
        ("value == baseline", 0.91, 0.93),
        ("baseline == value", 0.89, 0.87),
        ("numpy.float64(value) >= baseline", 0.89, 0.87),
        ("numpy.float32(value) <= baseline", 0.91, 0.93),
        ("numpy.array(value) >= baseline", 0.89, 0.87),
        ("baseline >= numpy.array(value)", 0.91, 0.93),
        ("pandas.Series([value])[0] >= baseline", 0.89, 0.87),
        ("[value, value] >= baseline", 0.89, 0.87),
        ("numpy.array([value, value]) >= baseline", 0.89, 0.87),
        ("pandas.Series([value, value]) >= baseline", 0.89, 0.87),
        ("float('nan') >= baseline", None, 1),
        ("float('inf') >= baseline", None, 1),
        ("-float('inf') <= baseline", None, 1),
        ("float('nan') == baseline", None, 1),
    ],
)
def test_the_operator_says_which_way_is_better(
    suite: Suite, comparison: str, good: float | None, bad: float
) -> None:
    suite.write(f"""
        import os
        import numpy, pandas

        def test(mlflow_baseline):
            value = float(os.environ["VALUE"])
            baseline = mlflow_baseline("m", rel=0.02)
            if os.environ.get("FIRST"):
                assert value >= baseline
            else:
                assert {comparison}
    """)
    os.environ["FIRST"] = "1"
    suite.recorded(0.9)
    del os.environ["FIRST"]
    if good is not None:
        suite.run(good).assert_outcomes(passed=1)
    suite.run(bad).assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("assert 1 > mlflow_baseline('m')", "TypeError: mlflow_baseline('m') is compared by >="),
        ("assert 1 < mlflow_baseline('m')", "TypeError: mlflow_baseline('m') is compared by >="),
        ("assert 1 != mlflow_baseline('m')", "TypeError: mlflow_baseline('m') is compared by >="),
        ("assert {'m': 1} >= mlflow_baseline('m')", "TypeError: a dict cannot be compared with a baseline"),
        ("assert 'one' >= mlflow_baseline('m')", "TypeError: a str cannot be compared with a baseline"),
        ("assert None >= mlflow_baseline('m')", "TypeError: a NoneType cannot be compared with a baseline"),
        ("assert [] >= mlflow_baseline('m')", "TypeError: an empty list cannot be compared"),
        (
            "assert pandas.DataFrame({'m': [1]}) >= mlflow_baseline('m')",
            "TypeError: a DataFrame cannot be compared with a baseline",
        ),
        ("mlflow_baseline('m', rel=-1)", "ValueError: mlflow_baseline: rel=-1 is no allowance"),
        ("mlflow_baseline('m', abs='x')", "ValueError: mlflow_baseline: abs='x' is no allowance"),
        ("mlflow_baseline('m', runs=0)", "ValueError: mlflow_baseline: runs=0 is no count of records"),
        (
            "mlflow_baseline(3)",
            "TypeError: mlflow_baseline: a int is neither the name of a metric nor",
        ),
        (
            "assert 1 >= mlflow_baseline('m'); assert 2 >= mlflow_baseline('m')",
            "mlflow_baseline('m'): the test compares two values of this name, 1 and 2: give one of them",
        ),
    ],
)
def test_a_mistake_is_one_sentence(suite: Suite, line: str, sentence: str) -> None:
    suite.write(f"import pandas\ndef test(mlflow_baseline):\n    {line}\n")
    result = suite.run("", "--mlctx-baseline=record")
    result.assert_outcomes(failed=1)
    assert sentence in result.stdout.str()


def test_the_history_is_of_the_branch(suite: Suite) -> None:
    """The remote's default branch, or the one that is named."""

    def git(*args: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@x")
        subprocess.run(("git", "-C", str(suite.path), *identity, *args), check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    suite.recorded(0.9)
    git("checkout", "-q", "-b", "topic")
    assert suite.run(0.7, "--mlctx-baseline=record", "--mlctx-baseline-branch=topic").ret == 0
    git("update-ref", "refs/remotes/origin/main", "main")
    git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    result = suite.run(0.7)
    result.assert_outcomes(failed=1)
    commit = subprocess.run(
        ("git", "-C", str(suite.path), "rev-parse", "--short=7", "main"), capture_output=True, text=True
    ).stdout.strip()
    assert any(f"median of 1: 0.9 ({commit} " in line for line in explanation(result))
    suite.run(0.7, "--mlctx-baseline-branch=topic").assert_outcomes(passed=1)
    suite.run(0.9, "--mlctx-baseline-branch=it's").assert_outcomes(failed=1)


def test_a_session_is_no_history_of_itself(pytester: pytest.Pytester, suite: Suite) -> None:
    suite.write("""
        import pytest

        attempts = []

        def test(mlflow_baseline):
            attempts.append(1)
            assert 0.5 / len(attempts) >= mlflow_baseline("m", rel=0.01)
            assert len(attempts) > 1
    """)
    result = suite.run("", "--mlctx-baseline=record", "-p", "pytest_rerunfailures", "--reruns=2")
    assert "1 passed" in result.outlines[-1]
    result.stdout.fnmatch_lines(["mlctx: gates: 1 recorded"])  # the attempt that counts


def test_a_key_outlives_the_name_of_the_test(suite: Suite) -> None:
    suite.recorded(0.9)
    with_key = GATE.replace('"accuracy"', '"accuracy", key="it\'s \\"ours\\""')
    suite.write(with_key)
    suite.run(0.8).assert_outcomes(failed=1)  # its history until now was by its name
    suite.recorded(0.9)
    suite.write(with_key.replace("def test(", "def test_moved("))
    suite.run(0.8).assert_outcomes(failed=1)
    suite.run(0.9).assert_outcomes(passed=1)
    suite.write(GATE.replace("def test(", "def test_other("))
    result = suite.run(0.9)
    assert any("no record of 'test_it.py::test_other'" in line for line in explanation(result))


def test_an_anchor_catches_what_creeps(suite: Suite) -> None:
    assert suite.run(0.9, "--mlctx-baseline=pin").ret == 0
    for value in (0.893, 0.886):
        suite.recorded(value)
    result = suite.run(0.879)
    result.assert_outcomes(failed=1)
    assert explanation(result)[1] == (
        "accuracy 0.879 against the anchor 0.9: falls, at least 0.882 is asked for"
    )
    suite.write(GATE.replace("rel=0.02", "rel=0.02, anchor=0.1"))
    suite.run(0.879).assert_outcomes(passed=1)


def test_a_red_session_is_no_anchor(suite: Suite) -> None:
    suite.write(GATE + "\n    def test_red(): assert 0\n")
    suite.run(0.9, "--mlctx-baseline=pin").assert_outcomes(passed=1, failed=1)
    (session,) = records(suite.path / "tests.db", "session")
    assert "mlctx.anchor" not in session.tags


def test_drift_is_told(suite: Suite) -> None:
    suite.recorded(0.900, 0.892, 0.885)
    result = suite.run(0.878)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["mlctx: test_it.py::test: accuracy drifts, each time within what is allowed (*): pin an anchor *"]
    )


def test_trials_hold_fall_or_are_too_few(suite: Suite) -> None:
    pytest.importorskip("scipy")
    suite.write("""
        import json, os

        def test(mlflow_baseline):
            assert json.loads(os.environ["VALUE"]) >= mlflow_baseline("accuracy", abs=0.02)
    """)
    steady = [0.90, 0.91, 0.89, 0.90, 0.90]
    suite.recorded(json.dumps(steady))
    suite.run(json.dumps(steady)).assert_outcomes(passed=1)
    result = suite.run(json.dumps([0.80, 0.81, 0.79, 0.80, 0.80]))
    assert "falls" in explanation(result)[1]
    result = suite.run(json.dumps([0.7, 1.05]))
    result.assert_outcomes(failed=1)
    assert re.search(r": 2 values are too few to tell: about \d+ values would do, ", explanation(result)[1])


def test_each_metric_of_an_evaluation_is_compared(suite: Suite) -> None:
    suite.write("""
        import os, types

        def test(mlflow_baseline):
            result = types.SimpleNamespace(metrics={"mean": 0.9, "rate": float(os.environ["VALUE"])})
            assert result >= mlflow_baseline(result, rel=0.02)
    """)
    suite.recorded(0.5)
    result = suite.run(0.4)
    result.assert_outcomes(failed=1)
    assert explanation(result)[1].startswith("rate 0.4 against the baseline 0.5: falls")
    result.stdout.fnmatch_lines(["mlctx: gates: 1 fallen, 1 held"])


def test_a_history_that_is_all_noise_says_so(suite: Suite) -> None:
    suite.recorded(0.9)
    loose = GATE.replace("rel=0.02", "rel=0.5")
    suite.write(loose)
    suite.recorded(0.7, 1.0)
    suite.write(GATE)
    told = explanation(suite.run(0.8))
    assert told[-1] == (
        "the history spreads by 0.153, more than is allowed: this gate cannot tell a drop from noise; "
        "an allowance of 0.412 could"
    )


def test_a_server_that_is_away_fails_every_gate_with_one_sentence(suite: Suite) -> None:
    suite.write("""
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test(mlflow_baseline, n):
            assert 1 >= mlflow_baseline("m")
    """)
    result = suite.run("", record="--mlctx-record=http://127.0.0.1:9")
    result.assert_outcomes(failed=3)
    sentence = "mlflow_baseline: the records cannot be read: --mlctx-record 'http://127.0.0.1:9' cannot be *"
    result.stdout.fnmatch_lines([sentence] * 3)


def test_the_table_of_all_gates(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.recorded(0.9)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "summary.md"))
    result = suite.run(0.89, "-v", "--junitxml=junit.xml")
    result.stdout.fnmatch_lines(
        [
            "mlctx: gates: 1 held",
            "mlctx: test_it.py::test: accuracy 0.89, baseline 0.9, -0.01 (-1.11%): held",
        ]
    )
    row = "| `test_it.py::test` | accuracy | 0.9 | 0.89 | -0.01 (-1.11%) | held |"
    assert row in (suite.path / "summary.md").read_text().splitlines()
    named = {
        each.get("name"): each.get("value")
        for each in ElementTree.parse(suite.path / "junit.xml").iter("property")
    }
    assert named["mlctx.gate.accuracy"] == "0.89, held, -0.01 (-1.11%)"


@pytest.mark.parametrize(
    "workers",
    [(), pytest.param(("-p", "xdist", "-n", "2"), marks=pytest.mark.slow)],
    ids=["alone", "xdist"],
)
def test_parametrized_classes_unittest_and_async(suite: Suite, workers: tuple[str, ...]) -> None:
    suite.write("""
        import unittest
        import pytest

        @pytest.mark.parametrize("n", [1, 2])
        def test_parametrized(mlflow_baseline, n):
            assert n >= mlflow_baseline("m")

        class TestClass:
            def test(self, mlflow_baseline):
                assert 3 >= mlflow_baseline("m")

        class TestUnit(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _baseline(self, mlflow_baseline): self.baseline = mlflow_baseline

            def test(self):
                assert 4 >= self.baseline("m")

        @pytest.mark.asyncio
        async def test_async(mlflow_baseline):
            assert 5 >= mlflow_baseline("m")
    """)
    args = ("-p", "asyncio", *workers)
    suite.run("", "--mlctx-baseline=record", *args).assert_outcomes(passed=5)
    suite.run("", *args).assert_outcomes(passed=5)
    found = {record.nodeid: record.metrics["m"] for record in records(suite.path / "tests.db")}
    assert sorted(found.values()) == [1, 2, 3, 4, 5]


def test_a_metric_of_another_name_has_no_history(suite: Suite) -> None:
    suite.recorded(0.9)
    suite.write(GATE.replace("accuracy", "precision"))
    assert any("has this metric" in line for line in explanation(suite.run(0.9)))


def test_a_history_that_was_deleted_is_none(suite: Suite, tmp_path: Path) -> None:
    suite.recorded(0.9)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{suite.path}/tests.db")
    for record in records(suite.path / "tests.db"):
        client.delete_run(record.id)
    suite.run(0.9).assert_outcomes(failed=1)
