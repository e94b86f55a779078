"""Trials: a test that is run several times has one outcome, by the share of trials that passed."""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from contextlib import closing
from typing import Any
from xml.etree import ElementTree

import pytest
from recorded import records

from pytest_mlctx.trials import TrialsMarker, wilson

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin", "put_back")


@pytest.mark.parametrize(
    ("trials", "pass_rate", "needed"), [(8, 0.75, 6), (10, 0.7, 7), (5, 1.0, 5), (3, 0.01, 1), (7, 0.5, 4)]
)
def test_how_many_trials_are_needed(trials: int, pass_rate: float, needed: int) -> None:
    asked = TrialsMarker(trials, pass_rate)
    assert asked.needed == needed
    assert asked.certain(needed, 0)
    assert not asked.certain(needed - 1, trials - needed)
    assert asked.certain(0, trials - needed + 1)


def test_four_of_five_passes_what_succeeds_in_seven_of_ten_cases_every_other_time() -> None:
    assert TrialsMarker(5, 0.8).chance(0.7) == pytest.approx(0.528, abs=0.001)
    assert TrialsMarker(8, 0.75).chance(1.0) == 1


@pytest.mark.parametrize(("passed", "count"), [(0, 1), (1, 1), (4, 5), (6, 8), (50, 100), (0, 20)])
def test_the_interval_is_wilsons(passed: int, count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    interval = stats.binomtest(passed, count).proportion_ci(method="wilson")
    assert wilson(passed, count) == pytest.approx((interval.low, interval.high), abs=1e-9)


AGENT = """
    import itertools
    import mlflow
    import pytest

    tried = itertools.count(1)
    events = []

    @pytest.fixture(scope="module")
    def module():
        events.append("module")
        yield
        events.append("end of module")

    @pytest.fixture
    def function():
        events.append("function")

    @pytest.mark.mlctx_trials(8, pass_rate=0.75)
    def test_agent(module, function, mlflow_service, mlflow_traces, record_property):
        number = next(tried)
        print("printed by", number)
        record_property("number", number)
        with mlflow.start_run():
            mlflow.log_metric("number", number)
        with mlflow.start_span("agent"):
            pass
        # A trial sees nothing of those before.
        assert len(mlflow_traces) == 1
        assert len(mlflow.search_runs(output_format="list")) == 1
        if number in FAILING:
            raise ValueError(f"trial {number} is wrong")
        assert number not in UNTRUE

    def test_events():
        assert events == ["module"] + ["function"] * EXPECTED
"""


def _agent(failing: str, untrue: str, expected: int) -> str:
    return AGENT.replace("FAILING", failing).replace("UNTRUE", untrue).replace("EXPECTED", str(expected))


def test_a_test_passes_when_enough_of_its_trials_do(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(_agent("(2,)", "(4,)", 8))
    result = pytester.runpytest_inprocess("-v", "--junitxml=junit.xml")
    result.assert_outcomes(passed=2)
    case = ElementTree.parse(pytester.path / "junit.xml").find(".//testcase")
    assert case is not None
    properties = [(each.get("name"), each.get("value")) for each in case.iter("property")]
    assert properties == [("number", "8"), ("mlctx.trials", "6 of 8 trials passed")]


def test_it_stops_when_no_trial_can_change_the_outcome(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(_agent("()", "()", 6))
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_a_failure_says_how_many_passed_and_shows_the_first_of_each_kind(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=_agent("(1, 4)", "(3,)", 4))
    result = pytester.runpytest_inprocess("-rf")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines_random(
        [
            "E * ValueError: trial 1 is wrong",
            "*_ trials _*",
            "1 of 4 trials passed; 6 of 8 had to (pass_rate=0.75)",
            "the true rate lies between 5% and 70% (Wilson's interval, 95 %)",
            "trials 1, 4: ValueError: trial 1 is wrong",
            "trial 3: *assert 3 not in (3,)",
            "*_ another failure _*",
            "E * assert 3 not in (3,)",
            "FAILED test_it.py::test_agent - 1 of 4 trials passed: ValueError: trial 1 is*",
        ]
    )
    result.stdout.no_fnmatch_line("E * ValueError: trial 4 is wrong")
    result.stdout.no_fnmatch_line("so few trials*")
    # The sections are those of the trial that is shown.
    result.stdout.fnmatch_lines(["printed by 1", "*MLflow runs*", "* metrics: number=1"])
    result.stdout.no_fnmatch_line("printed by 2")


def test_a_failure_says_that_so_few_trials_cannot_tell(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import itertools
        import pytest
        tried = itertools.count()

        @pytest.mark.mlctx_trials(5, pass_rate=0.8)
        def test_agent():
            assert next(tried) not in (3, 4)
        """
    )
    result = pytester.runpytest_inprocess()
    result.stdout.fnmatch_lines(
        [
            "3 of 5 trials passed; 4 of 5 had to (pass_rate=0.8)",
            "so few trials cannot tell: what succeeds in 80% of its trials fails this test 26% of the time, "
            "and what succeeds in 70% passes it 53% of the time",
        ]
    )


KINDS = """
    import asyncio
    import collections
    import unittest
    import pytest

    TRIALS = pytest.mark.mlctx_trials(4, pass_rate=0.5)
    counts = collections.Counter()

    @pytest.fixture
    def number(request):
        counts[request.node.name] += 1
        return counts[request.node.name]

    @pytest.fixture
    def breaks(number):
        if number == 2: raise ValueError("no start")

    @pytest.fixture
    def breaks_at_the_end(number):
        yield
        if number == 1: raise ValueError("no end")

    @TRIALS
    @pytest.mark.parametrize("failures", [0, 2, 3])
    def test_parametrized(failures, number):
        assert number > failures

    @TRIALS
    class TestOfClass:
        def test_method(self):
            self.alone = getattr(self, "alone", 0) + 1
            assert self.alone == 1

    @TRIALS
    class TestOfUnittest(unittest.TestCase):
        def setUp(self):
            counts["unittest"] += 1

        def test_unittest(self):
            self.assertEqual(counts["unittest"] % 2, 0)

    @TRIALS
    @pytest.mark.asyncio
    async def test_async(number):
        await asyncio.sleep(0)
        assert number > 1

    @TRIALS
    def test_error(breaks): pass

    @TRIALS
    def test_error_at_the_end(breaks_at_the_end): pass

    @TRIALS
    def test_skips(number):
        if number == 2: pytest.skip("not here")

    @TRIALS
    @pytest.mark.skip(reason="not today")
    def test_skipped(): pass

    @TRIALS
    @pytest.mark.xfail(reason="known")
    def test_xfailed(): assert 0

    @TRIALS
    @pytest.mark.xfail(reason="known no more")
    def test_xpassed(): pass

    @pytest.mark.mlctx_trials(1)
    def test_single(): pass

    @TRIALS
    def test_without_traceback():
        pytest.fail("said so", pytrace=False)
"""
OUTCOMES = {
    "test_parametrized[0]": "PASSED",
    "test_parametrized[2]": "PASSED",
    "test_parametrized[3]": "FAILED",
    "test_method": "PASSED",
    "test_unittest": "PASSED",
    "test_async": "PASSED",
    "test_error": "ERROR",
    "test_error_at_the_end": "ERROR",
    "test_skips": "SKIPPED",
    "test_skipped": "SKIPPED",
    "test_xfailed": "XFAIL",
    "test_xpassed": "XPASS",
    "test_single": "PASSED",
    "test_without_traceback": "FAILED",
}


@pytest.mark.parametrize("plugin", ["", "-n2", "--reruns=1"])
def test_every_kind_of_test_and_outcome(pytester: pytest.Pytester, plugin: str) -> None:
    pytest.importorskip("pytest_asyncio")
    options = ["-p", "pytest_asyncio.plugin", "-rA", "--junitxml=junit.xml", *filter(None, [plugin])]
    if plugin:
        name = {"-n2": "xdist", "--reruns=1": "pytest_rerunfailures"}[plugin]
        pytest.importorskip(name)
        options += ["-p", "xdist.plugin" if name == "xdist" else name]
    pytester.makepyfile(test_it=KINDS)
    result = pytester.runpytest_inprocess(*options)
    lines = [re.sub(r"^(SKIPPED) \[\d\] test_it.py:\d+: ", r"\1 ", line) for line in result.outlines]
    told = {}
    for line in lines:
        if found := re.match(r"(PASSED|FAILED|ERROR|XFAIL|XPASS) test_it.py::(?:\w+::)?(\S+)", line):
            told[found[2]] = told.get(found[2], "").replace("PASSED", "") + found[1].replace(
                "PASSED", "PASSED"
            )
    skipped = [line.removeprefix("SKIPPED ") for line in lines if line.startswith("SKIPPED")]
    assert sorted(skipped) == ["not here", "not today"]
    assert told == {name: outcome for name, outcome in OUTCOMES.items() if outcome != "SKIPPED"}
    result.stdout.fnmatch_lines(["FAILED *test_without_traceback - 0 of 3 trials passed: *"])
    cases = [case.get("name") for case in ElementTree.parse(pytester.path / "junit.xml").iter("testcase")]
    assert sorted(cases) == sorted(OUTCOMES)


def test_setup_only_sets_up_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest

        @pytest.fixture
        def ready(): print("set up")

        @pytest.mark.mlctx_trials(3)
        def test(ready): assert 0

        @pytest.mark.mlctx_trials(3)
        class TestOfUnittest(unittest.TestCase):
            def test_unittest(self): assert 0
        """
    )
    result = pytester.runpytest_inprocess("--setup-only", "-s")
    result.assert_outcomes()
    assert result.stdout.str().count("set up") == 1


def test_the_first_failure_ends_the_session_where_that_was_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def session():
            yield
            print("session is over")

        @pytest.mark.mlctx_trials(3)
        def test_first(session): assert 0

        def test_second(): pass
        """
    )
    result = pytester.runpytest_inprocess("-x", "-s")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*session is over"])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("0", "takes a number of trials of 1 or more, not 0"),
        ("'8'", "takes a number of trials of 1 or more, not '8'"),
        ("", "takes the number of trials, and pass_rate"),
        ("8, 0.5", "takes the number of trials, and pass_rate"),
        ("8, rate=0.5", "takes the number of trials, and pass_rate"),
        ("8, pass_rate=75", "takes a pass_rate above 0 and up to 1, not 75"),
    ],
)
def test_a_marker_that_is_written_wrong_is_an_error_of_one_sentence(
    pytester: pytest.Pytester, arguments: str, why: str
) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.mlctx_trials({arguments})\ndef test(): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    told = next(line for line in result.outlines if line.startswith("the marker"))
    assert told.startswith(f"the marker mlctx_trials {why}; it is mlctx_trials(count, *, pass_rate=1.0): ")
    result.stdout.no_fnmatch_line("*During handling*")


@pytest.mark.parametrize("options", [(), ("-n2", "-p", "xdist.plugin")])
def test_a_record_has_the_rate_and_each_trial_below_it(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    if options:
        pytest.importorskip("xdist")
    pytester.makepyfile(test_it=_agent("(1,)", "()", 7))
    result = pytester.runpytest_inprocess("--mlctx-record=sqlite:///tests.db", "-k", "agent", *options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("mlctx: 1 record, 0 failed, *")
    store = pytester.path / "tests.db"
    (record,) = records(store)
    assert record.outcome == "passed"
    assert record.metrics["mlctx.pass_rate"] == pytest.approx(6 / 7)
    trials = sorted(records(store, "trial"), key=lambda trial: trial.metrics["number"])
    assert [(trial.name, trial.outcome, trial.status) for trial in trials] == [
        ("trial 1", "failed", "FAILED"),
        *((f"trial {number}", "passed", "FINISHED") for number in range(2, 8)),
    ]
    assert {trial.tags["mlflow.parentRunId"] for trial in trials} == {record.id}
    assert trials[0].tags["mlctx.reason"] == "ValueError: trial 1 is wrong"
    assert trials[0].metrics["mlctx.call_seconds"] <= record.metrics["mlctx.call_seconds"]


SUBTESTS = """
    import itertools
    import unittest
    import pytest

    tried = itertools.count(1)
    COUNT = itertools.count(1)

    @pytest.mark.mlctx_trials(4, pass_rate=0.5)
    def test_enough(subtests):
        number = next(tried)
        for part in range(2):
            with subtests.test("part", part=part):
                assert number > 2

    @pytest.mark.mlctx_trials(4, pass_rate=0.75)
    def test_not_enough(subtests, mlflow_run):
        print("printed outside")
        number = next(COUNT)
        with subtests.test("good"):
            pass
        with subtests.test("bad", number=number):
            print("printed inside")
            raise ValueError("of a subtest")
        with subtests.test("bad in another way"):
            assert 0
        assert number != 2, "of the test"

    @pytest.mark.mlctx_trials(2, pass_rate=0.5)
    class TestOfUnittest(unittest.TestCase):
        def test_unittest(self):
            type(self).tried = getattr(self, "tried", 0) + 1
            for part in range(2):
                with self.subTest(part=part):
                    self.assertEqual(self.tried, 2)

    @pytest.mark.mlctx_trials(2)
    def test_skipped_part(subtests):
        with subtests.test("not here"):
            pytest.skip("not here")

    def test_is_no_trial(subtests):
        with subtests.test("bad"):
            assert 0
"""


pytest_9 = pytest.mark.skipif(importlib.util.find_spec("_pytest.subtests") is None, reason="pytest before 9")


@pytest_9
@pytest.mark.parametrize("plugin", ["", "xdist"])
def test_a_subtest_that_fails_fails_its_trial(pytester: pytest.Pytester, plugin: str) -> None:
    options = ["--mlctx-record=sqlite:///tests.db", "--junitxml=junit.xml"]
    if plugin:
        pytest.importorskip("xdist")
        options += ["-n1", "-p", "xdist.plugin"]
    pytester.makepyfile(test_it=SUBTESTS)
    result = pytester.runpytest_inprocess("-rfE", *options)
    text = result.stdout.str()
    failed = re.findall(r"^(?:FAILED|SUBFAILED.*?|.* SUBFAIL) .*test_it.py::(\S+)", text, re.M)
    assert set(failed) == {"test_not_enough", "test_is_no_trial"}, text
    assert failed.count("test_not_enough") == 1
    result.stdout.fnmatch_lines_random(
        [
            "E * ValueError: of a subtest",
            "0 of 2 trials passed; 3 of 4 had to (pass_rate=0.75)",
            "trials 1, 2, subtest [[]bad[]] (number=*1*): ValueError: of a subtest",
            "trials 1, 2, subtest [[]bad in another way[]]: assert 0",
            "trial 2: AssertionError: of the test",
            "FAILED test_it.py::test_not_enough - 0 of 2 trials passed: ValueError: *",
            "printed inside",
            "printed outside",
        ]
    )
    cases = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    assert [case.get("name") for case in cases if case.find("failure") is not None].count(
        "test_not_enough"
    ) == 1
    of_tests = {record.name: record for record in records(pytester.path / "tests.db")}
    assert of_tests["test_enough"].metrics["mlctx.pass_rate"] == 0.5
    assert of_tests["test_not_enough"].tags["mlctx.reason"].startswith("0 of 2 trials passed: ValueError")

    def trials(test: str) -> list[Any]:
        below = records(pytester.path / "tests.db", "trial")
        return [trial for trial in below if trial.tags["mlflow.parentRunId"] == of_tests[test].id]

    told = [(trial.name, trial.outcome, trial.tags["mlctx.subtests"]) for trial in trials("test_enough")]
    bad, good = "failed", "passed"
    assert sorted(told) == [
        ("trial 1", bad, "2 failed"),
        ("trial 2", bad, "2 failed"),
        ("trial 3", good, "2 passed"),
        ("trial 4", good, "2 passed"),
    ]
    reasons = {trial.tags["mlctx.reason"] for trial in trials("test_not_enough")}
    assert reasons == {"ValueError: of a subtest"}


@pytest_9
def test_the_run_of_a_trial_whose_subtest_fails_has_failed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import itertools
        import pytest
        tried = itertools.count()

        @pytest.mark.mlctx_trials(2, pass_rate=0.5)
        def test_agent(mlflow_run, subtests):
            with subtests.test():
                assert next(tried) == 1
        """
    )
    result = pytester.runpytest_inprocess("-x", "-v", "--mlctx-tracking-uri=sqlite:///runs.db")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*SUB*")
    with closing(sqlite3.connect(pytester.path / "runs.db")) as store:
        statuses = store.execute("SELECT status FROM runs ORDER BY start_time").fetchall()
    assert statuses == [("FAILED",), ("FINISHED",)]
