from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

import pytest

pytestmark = pytest.mark.usefixtures("no_other_plugin")
WORKERS = ("-p", "xdist", "-n", "2", "--dist=load")


def test_workers_log_beside_the_file_that_was_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test(logger_service, caplog, number):
            logger_service.logger().info("number {}", number)
            assert caplog.messages == [f"number {number}"]
    """)
    result = pytester.runpytest_inprocess(*WORKERS, "--mlctx-log-sink=logs.d.log", "--mlctx-log-level=INFO")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["mlctx: *logger_service: */logs.d.log, INFO; *"])
    files = sorted(file.name for file in pytester.path.glob("*.log"))
    assert files == ["logs.d.gw0.log", "logs.d.gw1.log"]
    text = "".join((pytester.path / file).read_text() for file in files)
    assert sorted(line[-1] for line in text.splitlines() if " - number " in line) == list("0123")


def test_all_workers_track_to_the_store_that_was_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import mlflow
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_run(mlflow_run, number, worker_id, testrun_uid):
            mlflow.log_metric("m", number)
            assert mlflow_run.data.tags["mlctx.worker"] == worker_id
            assert mlflow_run.data.tags["mlctx.session"] == testrun_uid
    """)
    result = pytester.runpytest_inprocess(*WORKERS, "--mlctx-tracking-uri=sqlite:///runs.db")
    result.assert_outcomes(passed=8)
    with closing(sqlite3.connect(pytester.path / "runs.db")) as store:
        assert store.execute("SELECT status, count(*) FROM runs GROUP BY 1").fetchall() == [("FINISHED", 8)]
        tags = dict(
            store.execute("SELECT key, count(DISTINCT value) FROM tags WHERE key LIKE 'mlctx.%' GROUP BY 1")
        )
        assert tags == {"mlctx.session": 1, "mlctx.worker": 2, "mlctx.nodeid": 8, "mlctx.outcome": 1}
        assert store.execute("SELECT count(*) FROM experiments").fetchall() == [(2,)]  # and Default
        sources = "SELECT DISTINCT value FROM tags WHERE key = 'mlflow.source.name'"
        assert store.execute(sources).fetchall() == [(sys.argv[0],)]
    assert not (pytester.path / "mlruns").exists()


def test_each_worker_has_a_temporary_folder(pytester: pytest.Pytester) -> None:
    """Where its log and its store lie; with a store mlflow would be imported in each worker."""
    pytester.makepyfile("""
        import pathlib

        def check(logger_config, worker_id):
            assert pathlib.Path(logger_config["sink"]).parent.parent.name == f"popen-{worker_id}"

        def test_one(logger_config, worker_id): check(logger_config, worker_id)
        def test_two(logger_config, worker_id): check(logger_config, worker_id)
    """)
    pytester.runpytest_inprocess(*WORKERS).assert_outcomes(passed=2)


def test_a_field_that_is_wrong_is_told_by_each_worker_and_the_other_tests_run(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def alerts_config(alerts_config):
            return {**alerts_config, "app": "x"}
    """)
    pytester.makepyfile("""
        def test_one(): pass
        def test_two(alerts_service): pass
        def test_three(): pass
        def test_four(alerts_service): pass
    """)
    result = pytester.runpytest_inprocess(*WORKERS)
    result.assert_outcomes(passed=2, errors=2)
    said = [line for line in result.outlines if line.startswith("alerts_config: 'app' is not a field")]
    assert len(said) == 2


@pytest.mark.parametrize(("args", "told"), [((), True), (("-q",), False), (("--mlctx-alerts=off",), False)])
def test_what_the_workers_used_is_told_once_at_the_end(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], told: bool
) -> None:
    """The controller collects nothing, so that it can tell only what was asked for by options."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@tracking.example.org")
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def mlflow_service(mlflow_service): return None
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(): return True
    """)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test(mlflow_service, number): pass
    """)
    lines = pytester.runpytest_inprocess(*WORKERS, *args).outlines
    at_the_end = [line for line in lines[lines.index("") :] if line.startswith("mlctx:")]
    assert (
        at_the_end
        == [
            f"mlctx: mlflow_service: temporary store, experiment {pytester.path.name!r} "
            "(MLFLOW_TRACKING_URI=http://***@tracking.example.org not followed)"
        ]
        * told
    )
