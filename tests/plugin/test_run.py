from __future__ import annotations

import gc
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")

STORE = "--mlctx-tracking-uri=sqlite:///runs.db"


class Run(NamedTuple):
    name: str
    status: str
    tags: dict[str, str]
    experiment: str


def runs(folder: Path) -> list[Run]:
    """The runs of the store, oldest first, read with plain SQL."""
    with closing(sqlite3.connect(folder / "runs.db")) as store:
        rows = store.execute(
            "SELECT run_uuid, r.name, status, e.name FROM runs r JOIN experiments e USING (experiment_id) "
            "ORDER BY r.start_time, r.rowid"
        ).fetchall()
        return [
            Run(
                name,
                status,
                dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (key,))),
                to,
            )
            for key, name, status, to in rows
        ]


OUTCOMES = """
    import unittest
    import mlflow
    import pytest

    def test_passed(mlflow_run):
        assert mlflow.active_run() is mlflow_run
        assert mlflow_run.info.run_name == "test_passed"
        mlflow.log_metric("m", 1)

    def test_failed(mlflow_run):
        assert 0

    @pytest.fixture
    def bad_setup(mlflow_run):
        raise ValueError

    def test_setup(bad_setup): pass

    @pytest.fixture
    def bad_teardown(mlflow_run):
        yield
        raise ValueError

    def test_teardown(bad_teardown): pass

    @pytest.fixture
    def bad_teardown_below():
        yield
        raise ValueError

    def test_teardown_after_the_run(bad_teardown_below, mlflow_run): pass

    def test_skipped(mlflow_run): pytest.skip("later")

    @pytest.mark.xfail
    def test_xfailed(mlflow_run): assert 0

    @pytest.mark.xfail(strict=True)
    def test_xpassed(mlflow_run): pass

    def test_subtests(mlflow_run, subtests):
        with subtests.test("bad"): assert 0
        with subtests.test("good"): pass

    class Test(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def run_of_mine(self, mlflow_run): pass

        def test_unittest(self):
            with self.subTest("bad"): self.assertEqual(1, 2)
            with self.subTest("good"): pass

    @pytest.mark.parametrize("text", ["a/b", "ü 🚀", "%41 #?", "'\\"", "x" * 300])
    def test_named(mlflow_run, text): pass

    def test_ended_by_itself(mlflow_run):
        mlflow.end_run("KILLED")

    def test_child(mlflow_run):
        with mlflow.start_run(nested=True, run_name="child"): pass
        mlflow.MlflowClient().create_run(mlflow_run.info.experiment_id, run_name="by the client")

    def test_none_is_left(mlflow_service):
        assert mlflow.active_run() is None
"""
EXPECTED = {
    "test_passed": ("FINISHED", "passed"),
    "test_failed": ("FAILED", "failed"),
    "test_setup": ("FAILED", "failed"),
    "test_teardown": ("FAILED", "failed"),
    "test_teardown_after_the_run": ("FAILED", "failed"),
    "test_skipped": ("FINISHED", "skipped"),
    "test_xfailed": ("FINISHED", "xfailed"),
    "test_xpassed": ("FAILED", "failed"),
    "test_subtests": ("FAILED", "failed"),
    "test_unittest": ("FAILED", "failed"),
    "test_ended_by_itself": ("FINISHED", "passed"),
    "test_child": ("FINISHED", "passed"),
}


@pytest.mark.criterion("a block logs the start and end of a run")
def test_a_run_ends_as_its_test_does(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=OUTCOMES)
    pytester.runpytest_inprocess(STORE, "--mlctx-experiment=demo", "--mlctx-tag=team=fraud")
    found = runs(pytester.path)
    named = {run.name: run for run in found}
    for name, (status, outcome) in EXPECTED.items():
        assert (named[name].status, named[name].tags["mlctx.outcome"]) == (status, outcome), name
    assert named["test_passed"].tags["mlctx.nodeid"] == "test_it.py::test_passed"
    assert {run.experiment for run in found} == {"demo"}
    assert {run.tags["team"] for run in found} == {"fraud"}
    assert len({run.tags["mlctx.session"] for run in found}) == 1
    for text in ("a/b", "%41 #?", "'\""):
        assert named[f"test_named[{text}]"].status == "FINISHED"
    assert len([run for run in found if run.name.startswith("test_named[")]) == 5
    assert not [run for run in found if run.status == "RUNNING" and run.name != "by the client"]
    parents = [named[name].tags.get("mlflow.parentRunId") for name in ("child", "by the client")]
    assert parents[0] is not None
    assert parents[0] == parents[1]
    assert "mlflow.parentRunId" not in named["test_child"].tags


def test_the_runs_that_a_test_opens_itself_get_its_outcome(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import mlflow

        def test_passes(mlflow_service):
            with mlflow.start_run(run_name="fluent"): pass

        def test_fails(mlflow_service):
            with mlflow.start_run(run_name="of a test that fails"): pass
            experiment = mlflow.get_experiment_by_name(mlflow_service.experiment_name).experiment_id
            gone = mlflow.MlflowClient().create_run(experiment, run_name="deleted")
            mlflow.delete_run(gone.info.run_id)
            mlflow.MlflowClient().create_run(experiment, run_name="of a client")
            assert 0

        def test_last(mlflow_service):
            with mlflow.start_run(run_name="last"): pass
    """)
    pytester.runpytest_inprocess(STORE).assert_outcomes(passed=2, failed=1)
    outcomes = {run.name: run.tags.get("mlctx.outcome") for run in runs(pytester.path)}
    assert outcomes == {
        "fluent": "passed",
        "of a test that fails": "failed",
        "deleted": None,
        "of a client": "failed",
        "last": "passed",
    }


@pytest.mark.parametrize("stop", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
@pytest.mark.parametrize("where", ["test", "setup", "teardown"])
def test_killed(pytester: pytest.Pytester, stop: str, where: str) -> None:
    lines = {name: stop if name == where else "pass" for name in ("setup", "test", "teardown")}
    pytester.makepyfile(f"""
        import pytest

        @pytest.fixture
        def around(mlflow_run):
            {lines["setup"]}
            yield
            {lines["teardown"]}

        def test_before(mlflow_run): pass

        def test_stopped(around):
            {lines["test"]}

        def test_after(mlflow_run): pass
    """)
    result = pytester.runpytest_inprocess(STORE, no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    states = {run.name: run.status for run in runs(pytester.path)}
    assert states == {"test_before": "FINISHED", "test_stopped": "KILLED"}


def test_ctrl_c_within_mlflows_own_call_leaves_no_run_open(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import mlflow

        def test_before(mlflow_service):
            mlflow.MlflowClient().create_run("0", tags={"mlctx.session": "another"}, run_name="of another")

        def test_interrupted(mlflow_service, monkeypatch):
            create_run = mlflow.MlflowClient.create_run

            def interrupted(*arguments, **options):
                create_run(*arguments, **options)
                raise KeyboardInterrupt

            monkeypatch.setattr(mlflow.MlflowClient, "create_run", interrupted)
            mlflow.start_run(run_name="in no list")
    """)
    result = pytester.runpytest_inprocess(STORE, no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    states = {run.name: run.status for run in runs(pytester.path)}
    assert states == {"of another": "RUNNING", "in no list": "KILLED"}


@pytest.mark.parametrize(
    ("fixture", "scope"),
    [("mlflow_run", "function"), ("mlflow_sandbox", "function"), ("mlflow_service", "session")],
)
def test_ctrl_c_in_a_teardown_leaves_nothing_to_be_undone_later(
    pytester: pytest.Pytester, request: pytest.FixtureRequest, fixture: str, scope: str
) -> None:
    from mlflow.tracking._tracking_service.registry import _building_store_lock

    from pytest_mlctx.services import MlflowService, ServiceError, state

    before = state.capture("environment", "mlflow", "loguru", "logging")
    request.addfinalizer(lambda: state.restore(before))
    pytester.makepyfile(f"""
        import mlflow, pytest

        @pytest.fixture(scope="{scope}")
        def around({fixture}):
            yield
            raise KeyboardInterrupt

        def test_one(around): mlflow.log_metric("a", 1)
    """)
    gc.disable()
    request.addfinalizer(gc.enable)
    result = pytester.runpytest_inprocess(no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert state.compare(before, state.capture("environment", "mlflow", "loguru", "logging")) == []
    with pytest.raises(ServiceError):
        MlflowService.current()

    os.environ["MLFLOW_EXPERIMENT_NAME"] = "of whoever comes later"
    collection = threading.Thread(target=gc.collect, daemon=True)
    with _building_store_lock:  # where Python may well collect garbage: what is undone then waits for ever
        collection.start()
        collection.join(30)
        assert not collection.is_alive()
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "of whoever comes later"


def test_each_attempt_has_a_run(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile("""
        attempts = []

        def test_flaky(mlflow_run):
            attempts.append(mlflow_run.info.run_id)
            assert len(attempts) == 3
    """)
    pytester.runpytest_inprocess(STORE, "-p", "rerunfailures", "--reruns=4").assert_outcomes(passed=1)
    assert [run.status for run in runs(pytester.path)] == ["FAILED", "FAILED", "FINISHED"]


def test_in_a_run_that_a_module_holds_open_it_is_nested(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import mlflow
        import pytest

        @pytest.fixture(scope="module", autouse=True)
        def outer(mlflow_service):
            with mlflow.start_run(run_name="outer") as run:
                yield run

        def test_one(mlflow_run, outer):
            assert mlflow.active_run() is mlflow_run
            assert mlflow_run.data.tags["mlflow.parentRunId"] == outer.info.run_id

        def test_between(outer):
            assert mlflow.active_run() is outer
            mlflow.log_param("p", 1)

        def test_two(mlflow_run): assert 0
    """)
    pytester.runpytest_inprocess(STORE).assert_outcomes(passed=2, failed=1)
    states = {run.name: run.status for run in runs(pytester.path)}
    assert states == {"outer": "FINISHED", "test_one": "FINISHED", "test_two": "FAILED"}


def test_it_ends_in_the_store_where_it_was_opened(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import mlflow
        import pytest

        @pytest.fixture
        def elsewhere(mlflow_service):
            mlflow.set_tracking_uri("sqlite:///runs.db")
            mlflow.set_experiment("elsewhere")
            yield
            mlflow.set_tracking_uri(mlflow_service.tracking_uri)

        def test_one(elsewhere, mlflow_run):
            mlflow.MlflowClient().create_run(mlflow_run.info.experiment_id, run_name="child")
            assert 0
    """)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*could not be closed*")
    named = {run.name: run for run in runs(pytester.path)}
    assert (named["test_one"].status, named["test_one"].tags["mlctx.outcome"]) == ("FAILED", "failed")
    assert "mlflow.parentRunId" in named["child"].tags


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["-x"], {"test_one", "test_two"}),
        (["--maxfail=2"], {"test_one", "test_two", "test_three"}),
        (["--setup-show"], {"test_one", "test_two", "test_three"}),
    ],
)
def test_sessions_that_end_early_leave_no_open_run(
    pytester: pytest.Pytester, args: list[str], names: set[str]
) -> None:
    pytester.makepyfile("""
        def test_one(mlflow_run): pass
        def test_two(mlflow_run): assert 0
        def test_three(mlflow_run): assert 0
    """)
    pytester.runpytest_inprocess(STORE, *args)
    found = runs(pytester.path)
    assert {run.name for run in found} == names
    assert "RUNNING" not in {run.status for run in found}


def test_setup_plan_opens_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(mlflow_run): pass")
    result = pytester.runpytest_inprocess(STORE, "--setup-plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*SETUP    F mlflow_run*"])
    assert not (pytester.path / "runs.db").exists()


def test_a_store_that_is_away_is_told_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test(mlflow_run, number): pass
        """
    )
    result = pytester.runpytest_inprocess("--mlctx-tracking-uri=http://127.0.0.1:1")
    result.assert_outcomes(errors=3)
    told = [line for line in result.outlines if line.startswith("MlflowService.tracking_uri")]
    assert told == [
        "MlflowService.tracking_uri 'http://127.0.0.1:1' cannot be reached (Connection refused): "
        "check the address and that the server is up."
    ]
    assert result.outlines.count("as in test_it.py::test[0]") == 2
