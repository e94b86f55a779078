"""Records: each test of a suite leaves one run in the store of --mlctx-record, and nothing else changes."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest
from recorded import Recorded, records

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin", "put_back")
RECORD = "--mlctx-record=sqlite:///tests.db"


OUTCOMES = """
    import unittest
    import pytest

    @pytest.fixture
    def broken(): raise ValueError("no start")

    @pytest.fixture
    def broken_end():
        yield
        raise ValueError("no end")

    def test_passed(): pass

    def test_failed():
        print("printed before")
        assert 1 == 2

    def test_error(broken): pass
    def test_error_at_the_end(broken_end): pass

    def test_failed_and_error_at_the_end(broken_end):
        assert "first" == "second"

    @pytest.mark.skip(reason="not today")
    def test_skipped(): pass

    def test_skips_itself(): pytest.skip("not here")

    @pytest.mark.xfail(reason="known")
    def test_xfailed(): assert 0

    @pytest.mark.xfail(reason="known no more")
    def test_xpassed(): pass

    @pytest.mark.xfail(strict=True, reason="known no more")
    def test_xpassed_strict(): pass

    @pytest.mark.parametrize("x", [1, "a/b", 0.5, b"\\xff", ""])
    @pytest.mark.slow(3, why="it is")
    def test_parameters(x): pass

    class TestOfClass:
        def test_method(self): pass

    class TestOfUnittest(unittest.TestCase):
        @unittest.expectedFailure
        def test_expected(self): self.fail()
        def test_method(self): pass
"""
EXPECTED = {
    "test_passed": ("passed", None),
    "test_failed": ("failed", "assert 1 == 2"),
    "test_error": ("error", "ValueError: no start"),
    "test_error_at_the_end": ("error", "ValueError: no end"),
    "test_failed_and_error_at_the_end": ("failed", "AssertionError: assert 'first' == 'second'"),
    "test_skipped": ("skipped", "not today"),
    "test_skips_itself": ("skipped", "not here"),
    "test_xfailed": ("xfailed", "known"),
    "test_xpassed": ("xpassed", "known no more"),
    "test_xpassed_strict": ("failed", "[XPASS(strict)] known no more"),
    "test_parameters": ("passed", None),
    "test_method": ("passed", None),
    "test_expected": ("xfailed", ""),
}


def of_junit(path: Path) -> Counter[tuple[str, str, str]]:
    """Class, name and the outcomes that junit's own words know, of each test case."""
    found: Counter[tuple[str, str, str]] = Counter()
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[case.get("classname", ""), case.get("name", ""), " ".join(sorted(kinds)) or "passed"] += 1
    return found


def in_words_of_junit(record: Recorded) -> set[str]:
    words = {"failed": "failure", "error": "error", "xpassed": "passed"}
    return {words.get(record.outcome, "skipped" if record.outcome != "passed" else "passed")}


@pytest.mark.parametrize("frozen", [1e9, 4e9], ids=["past", "future"])
def test_the_times_of_a_record_are_not_those_that_a_fixture_has_frozen(
    pytester: pytest.Pytester, frozen: float
) -> None:
    pytester.makepyfile(f"""
        from unittest import mock
        import pytest

        @pytest.fixture(scope="module", autouse=True)
        def frozen():  # as freezegun does in each module
            with mock.patch("_pytest.timing.time", return_value={frozen}):
                with mock.patch("_pytest.timing.perf_counter", return_value={frozen}):
                    yield

        def test_one(): pass
        def test_two(): pass
        def test_three(): pass
    """)
    before = time.time()
    pytester.runpytest_inprocess(RECORD).assert_outcomes(passed=3)
    with closing(sqlite3.connect(pytester.path / "tests.db")) as store:
        times = store.execute("SELECT start_time, end_time FROM runs").fetchall()
    assert len(times) == 4
    for start, end in times:
        assert before <= start / 1000 <= end / 1000 <= time.time(), times


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])
def test_each_test_has_one_record_that_says_what_junit_says(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=OUTCOMES)
    result = pytester.runpytest_inprocess(*workers, RECORD, "--junitxml=junit.xml", "--mlctx-experiment=ours")
    result.assert_outcomes(passed=9, failed=3, errors=3, skipped=2, xfailed=2, xpassed=1)
    found = records(pytester.path / "tests.db")
    assert len({record.nodeid for record in found}) == len(found) == 18

    for record in found:
        outcome, reason = EXPECTED[record.tags["mlctx.function"]]
        assert (record.outcome, record.tags.get("mlctx.reason")) == (outcome, reason or None), record.nodeid
        assert record.status == ("FAILED" if outcome in ("failed", "error") else "FINISHED")
        assert record.tags["mlctx.attempt"] == "1"
        assert record.tags["mlflow.test.name"] == record.nodeid
        assert record.tags["mlflow.runType"] == "test"
        assert record.metrics["mlctx.setup_seconds"] >= 0 <= record.metrics["mlctx.teardown_seconds"]
        assert ("mlctx.call_seconds" in record.metrics) == (record.name not in ("test_error", "test_skipped"))
        assert ("mlctx.worker" in record.tags) == bool(workers)

    cases = of_junit(pytester.path / "junit.xml")
    for record in found:
        place = record.nodeid.replace("/", ".").replace(".py", "").split("::")
        words = {word for (_, name, word) in cases if name == record.name and word}
        assert in_words_of_junit(record) <= words, (record.nodeid, words, place)
    assert {name for _, name, _ in cases} == {record.name for record in found}

    (session,) = records(pytester.path / "tests.db", "session")
    assert session.status == "FAILED"
    assert {record.tags["mlflow.parentRunId"] for record in found} == {session.id}
    assert {record.tags["mlctx.session"] for record in found} == {session.tags["mlctx.session"]}
    counts = Counter(f"mlctx.{record.outcome}" for record in found)
    assert {name: count for name, count in session.metrics.items() if name != "mlctx.seconds"} == counts
    assert session.tags["mlctx.python"] == ".".join(map(str, sys.version_info[:3]))
    result.stdout.fnmatch_lines(
        [
            "mlctx: 18 records, 5 failed, in experiment 'ours': mlflow ui --backend-store-uri sqlite:///*tests.db"
        ]
    )


def test_the_command_that_shows_the_records_is_one_for_a_shell(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(): pass")
    result = pytester.runpytest_inprocess("--mlctx-record=sqlite:///our tests.db")
    (command,) = re.findall("mlflow ui .*", result.stdout.str())
    assert shlex.split(command)[3].endswith("our tests.db")


def test_what_a_record_says_of_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=OUTCOMES)
    pytester.runpytest_inprocess(RECORD, "--mlctx-tag=team=fraud", "-k", "parameters or Class or failed")
    by_name = {record.name: record for record in records(pytester.path / "tests.db")}
    tags = by_name["test_parameters[a/b]"].tags
    assert tags["mlctx.parameter.x"] == "'a/b'"
    assert tags["mlctx.markers"] == "slow(3, why='it is')"
    assert tags["team"] == "fraud"
    (session,) = records(pytester.path / "tests.db", "session")
    assert session.tags["team"] == "fraud"
    assert tags["mlctx.file"] == "test_it.py"
    assert tags["mlflow.source.name"].startswith("pytest ")
    assert by_name["test_method"].tags["mlctx.class"] == "TestOfClass"
    failed = by_name["test_failed"]
    (written,) = pytester.path.glob(f"mlartifacts/*/{failed.id}/artifacts/*")
    assert written.name == "failure.txt"
    text = written.read_text()
    assert "assert 1 == 2" in text
    assert "Captured stdout call" in text
    assert "printed before" in text


def test_what_its_runs_logged_goes_into_the_record(pytester: pytest.Pytester) -> None:
    """On a store of the test's own, on the temporary one that isolation takes back, and in a sandbox."""
    pytester.makepyfile(
        test_it="""
        import mlflow

        def test_own(tmp_path):
            mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/own.db")
            with mlflow.start_run():
                mlflow.log_param("depth", 3)
                mlflow.log_metric("loss", 1.0)
                mlflow.log_metric("loss", 0.25, step=2)

        def test_service(mlflow_service):
            for name in ("a", "b", "b"):
                with mlflow.start_run(run_name=name):
                    mlflow.log_metric("loss", 0.5)

        def test_sandbox(mlflow_sandbox, mlflow_run):
            mlflow.log_metric("accuracy", 0.9)

        def test_nothing(mlflow_service):
            assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
            assert mlflow.active_run() is None
        """
    )
    pytester.runpytest_inprocess(RECORD, "-p", "no:randomly").assert_outcomes(passed=4)
    nothing, own, sandbox, service = records(pytester.path / "tests.db")
    assert nothing.params == {}
    assert "mlctx.runs" not in nothing.tags
    assert own.params == {"depth": "3"}
    assert own.metrics["loss"] == 0.25
    assert sandbox.metrics["accuracy"] == 0.9
    assert service.tags["mlctx.runs"] == "3"
    assert service.metrics["a/loss"] == 0.5
    assert sum(re.fullmatch(r"b [0-9a-f]{8}/loss", key) is not None for key in service.metrics) == 2


def test_the_runs_of_a_test_are_children_where_they_are_in_the_store_of_records(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_it="""
        import mlflow

        def test_run(mlflow_service):
            with mlflow.start_run(run_name="outer"):
                with mlflow.start_run(run_name="inner", nested=True):
                    pass

        def test_own_run(mlflow_run):
            with mlflow.start_run(run_name="below", nested=True):
                pass
        """
    )
    uri = "sqlite:///tests.db"
    result = pytester.runpytest_inprocess(f"--mlctx-record={uri}", f"--mlctx-tracking-uri={uri}")
    result.assert_outcomes(passed=2)
    import mlflow

    found = mlflow.MlflowClient(f"sqlite:///{pytester.path}/tests.db").search_runs(["1"])
    runs = {
        "record " + run.info.run_name if "mlctx.record" in run.data.tags else run.info.run_name: run
        for run in found
    }
    (session,) = [run for run in found if run.data.tags.get("mlctx.record") == "session"]

    def parent(name: str) -> str:
        return runs[name].data.tags["mlflow.parentRunId"]

    assert parent("record test_run") == parent("record test_own_run") == session.info.run_id
    assert parent("outer") == runs["record test_run"].info.run_id
    assert parent("inner") == runs["outer"].info.run_id
    assert parent("test_own_run") == runs["record test_own_run"].info.run_id
    assert parent("below") == runs["test_own_run"].info.run_id
    assert {run.info.status for run in found} == {"FINISHED"}


def test_the_marker_leaves_a_test_out_or_describes_its_record(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.mlctx_record(False)
        def test_left_out(): pass

        @pytest.mark.mlctx_record(tags={"team": "fraud", "n": 1})
        class Test:
            @pytest.mark.mlctx_record(name="A name", description="What it is for")
            def test(self): pass

        @pytest.mark.mlctx_record(nam="A name")
        def test_mistaken(): pass
        """
    )
    result = pytester.runpytest_inprocess(RECORD, "--strict-markers")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*the marker mlctx_record has no 'nam'; it is mlctx_record(record=True, *, *"]
    )
    (record,) = records(pytester.path / "tests.db")
    assert record.name == "A name"
    assert record.tags["team"] == "fraud"
    assert record.tags["n"] == "1"
    assert record.tags["mlflow.note.content"] == "What it is for"
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.mlctx_record(record=True*"])


def test_each_attempt_has_a_record(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    pytester.makepyfile(
        test_it="""
        import mlflow

        attempts = []

        def test_flaky(mlflow_service):
            attempts.append(1)
            with mlflow.start_run():
                mlflow.log_metric("attempt", len(attempts))
            assert len(attempts) == 3, f"attempt {len(attempts)}"

        def test_fails(request):
            assert 0
        """
    )
    result = pytester.runpytest_inprocess(RECORD, "-p", "pytest_rerunfailures", "--reruns=2", "-v")
    assert "1 passed" in result.outlines[-1]
    found = records(pytester.path / "tests.db")
    tried = [(record.name, record.tags["mlctx.attempt"], record.outcome) for record in found]
    assert sorted(tried) == [
        ("test_fails", "1", "failed"),
        ("test_fails", "2", "failed"),
        ("test_fails", "3", "failed"),
        ("test_flaky", "1", "failed"),
        ("test_flaky", "2", "failed"),
        ("test_flaky", "3", "passed"),
    ]
    flaky = [record for record in found if record.name == "test_flaky"]
    assert {record.tags["mlctx.attempt"]: record.metrics["attempt"] for record in flaky} == {
        "1": 1,
        "2": 2,
        "3": 3,
    }
    # The session counts tests, by the attempt that counts.
    result.stdout.fnmatch_lines("mlctx: 6 records, 1 failed, *")
    (session,) = records(pytester.path / "tests.db", "session")
    assert (session.metrics["mlctx.passed"], session.metrics["mlctx.failed"]) == (1, 1)
    (row,) = [line for line in summary.read_text().splitlines() if "`test_it.py::" in line]
    assert "test_fails" in row


@pytest.mark.skipif(importlib.util.find_spec("_pytest.subtests") is None, reason="pytest before 9")
def test_subtests_are_counted(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        def test(subtests):
            for number in range(3):
                with subtests.test(number=number):
                    assert number != 1
        """
    )
    pytester.runpytest_inprocess(RECORD)
    (record,) = records(pytester.path / "tests.db")
    assert record.outcome == "failed"
    assert record.tags["mlctx.reason"] == "assert 1 != 1"
    assert record.tags["mlctx.subtests"] == "2 passed, 1 failed"


def test_the_same_outcomes_and_no_trace_of_a_service(pytester: pytest.Pytester) -> None:
    """A suite that uses MLflow by itself: nothing is in force for it, and no run is active."""
    pytester.makepyfile(
        test_it="""
        import os
        import mlflow

        def test_nothing_in_force(tmp_path):
            assert not [name for name in os.environ if name.startswith("MLFLOW_TRACKING")]
            assert mlflow.active_run() is None
            mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/own.db")
            with mlflow.start_run() as run:
                assert not [tag for tag in run.data.tags if tag.startswith("mlctx.")]
        """
    )
    pytester.runpytest_inprocess(RECORD, "--mlctx-leaks=off").assert_outcomes(passed=1)
    assert len(records(pytester.path / "tests.db")) == 1


def test_a_failing_test_names_its_record(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=OUTCOMES)
    result = pytester.runpytest_inprocess(RECORD, "-k", "test_failed", "--junitxml=junit.xml")
    failed = next(run for run in records(pytester.path / "tests.db") if run.name == "test_failed")
    result.stdout.fnmatch_lines(["*- MLflow record -*", f"run {failed.id} in sqlite:///*tests.db"])
    properties = {
        case.get("name"): {each.get("name"): each.get("value") for each in case.iter("property")}
        for case in ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    }
    assert properties["test_failed"] == {"mlctx.record": failed.id}


def test_quiet_says_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test(): pass")
    assert "mlctx" not in pytester.runpytest_inprocess(RECORD, "-q").stdout.str()


def test_listing_and_a_session_without_tests_record_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test(): pass")
    pytester.runpytest_inprocess(RECORD, "--collect-only")
    assert not (pytester.path / "tests.db").exists()
    pytester.runpytest_inprocess(RECORD, "-k", "nothing")
    assert records(pytester.path / "tests.db", "session") == []


def test_credentials_are_nowhere(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("uri", ["https://me:geheim@host"])
        @pytest.mark.slow("https://me:geheim@host")
        def test(uri):
            print(uri)
            raise ValueError("no answer of https://me:geheim@host")
        """
    )
    pytester.runpytest_inprocess(RECORD, "--mlctx-tag=x=https://me:geheim@host", "-p", "no:terminal")
    (record,) = records(pytester.path / "tests.db")
    assert "geheim" not in f"{record}"
    (session,) = records(pytester.path / "tests.db", "session")
    assert "geheim" not in f"{session}"
    (written,) = pytester.path.glob("mlartifacts/*/*/artifacts/failure.txt")
    assert "geheim" not in written.read_text()


def test_the_summary_of_a_github_job(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    pytester.makepyfile(
        test_it="""
        import mlflow

        def test_passes(): pass

        def test_poor(mlflow_service):
            with mlflow.start_run():
                mlflow.log_metric("accuracy", 0.25)
            assert "a|b" == ""
        """
    )
    pytester.runpytest_inprocess(RECORD, "--mlctx-experiment=ours", "-q")
    lines = summary.read_text().splitlines()
    assert lines[1].startswith("mlctx: 2 records, 1 failed, in experiment 'ours'")
    assert lines[-1] == (
        "| `test_it.py::test_poor` | failed: AssertionError: assert 'a\\|b' == '' | accuracy 0.25 |"
    )
