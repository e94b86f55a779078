"""mlflow_sandbox: empty for this test alone, and what is outside comes back untouched."""

from __future__ import annotations

import builtins
import gc
import os
import sqlite3
import textwrap
import threading
from typing import Any

import pytest
from test_isolation import HEAD

MORE = """
    def state():
        return (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run(),
                mlflow.tracking.fluent._get_experiment_id(),
                {name: value for name, value in os.environ.items() if "MLFLOW" in name})
"""


@pytest.fixture
def session(mlflow_imported: None, no_other_plugin: None, pytester: pytest.Pytester) -> Any:
    def run(source: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=textwrap.dedent(HEAD + MORE) + textwrap.dedent(source))
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)

    return run


@pytest.fixture(params=["temporary", "named"])
def store_options(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> tuple[str, ...]:
    """The session's store: ours, or a SQLite file of the user's."""
    if request.param == "temporary":
        return ()
    return (f"--mlctx-tracking-uri=sqlite:///{pytester.path / 'user.db'}",)


def test_it_is_empty_for_each_test_and_the_service_in_force(
    session: Any, store_options: tuple[str, ...]
) -> None:
    result = session(
        """
        from pytest_mlctx import MlflowService

        @pytest.mark.parametrize("number", range(3))
        def test(mlflow_service, mlflow_sandbox, number):
            client = mlflow_sandbox.client()
            assert MlflowService.current() is mlflow_sandbox
            assert mlflow_sandbox.running and mlflow_service.running
            assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == mlflow_sandbox.tracking_uri
            assert mlflow_sandbox.tracking_uri != mlflow_service.tracking_uri
            assert mlflow_sandbox.experiment_name == "demo"
            assert names() == [] and client.search_registered_models() == []
            assert {e.name for e in client.search_experiments()} == {"demo", "Default"}
            with mlflow.start_run() as run:
                mlflow.log_text("x", "x.txt")
            assert mlflow.get_experiment(run.info.experiment_id).name == "demo"
            client.create_registered_model("model")
            assert str(client.create_model_version("model", "x").version) == "1"
            mlflow.start_run(run_name="left open")

        def test_alone(mlflow_sandbox):
            assert names() == []

        def test_asked_twice(request):
            assert request.getfixturevalue("mlflow_sandbox") is request.getfixturevalue("mlflow_sandbox")
            log("one")
            assert names() == ["one"]

        def test_outside(mlflow_service):
            assert names() == []
        """,
        "--mlctx-experiment=demo",
        *store_options,
    )
    result.assert_outcomes(passed=6)


def test_what_is_outside_comes_back_untouched(
    session: Any, store_options: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    result = session(
        """
        @pytest.fixture(scope="module")
        def held(mlflow_service):
            mlflow.set_experiment("outside")
            with mlflow.start_run(run_name="held", log_system_metrics=True) as run:
                yield run.info.run_id

        @pytest.fixture
        def compared(held):
            before, threads = state(), {thread.name for thread in threading.enumerate()}
            yield before
            assert state() == before
            assert mlflow.get_run(held).info.status == "RUNNING"
            assert "held" in names() and "inside" not in names()
            assert {thread.name for thread in threading.enumerate()} <= threads

        def test_a_run_is_open_outside(compared, mlflow_sandbox):
            assert mlflow.active_run() is None
            mlflow.set_experiment("inside")
            log("inside", log_system_metrics=True)
            mlflow.set_tag("in", "a run that is left open")
            os.environ["MLFLOW_X"] = "1"
            assert len(names()) == 2

        @pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
        def test_fails(compared, mlflow_sandbox):
            mlflow.start_run(run_name="inside")
            1 / 0

        def test_after(compared):
            assert mlflow.active_run().info.run_name == "held"
            mlflow.log_metric("m", 1)
        """,
        *store_options,
    )
    result.assert_outcomes(passed=2, xfailed=1)
    if store_options:
        with sqlite3.connect(pytester.path / "user.db") as connection:
            assert connection.execute("SELECT name, status FROM runs").fetchall() == [("held", "FINISHED")]
            experiments = {name for (name,) in connection.execute("SELECT name FROM experiments")}
            assert experiments == {"Default", "outside", pytester.path.name}


def test_with_a_run_of_the_test_in_either_order(
    session: Any, store_options: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    result = session(
        """
        def test_run_first(mlflow_run, mlflow_sandbox):
            assert mlflow.active_run().info.run_id == mlflow_run.info.run_id
            assert names() == ["test_run_first"]
            log("child", nested=True)
            assert names() == ["child", "test_run_first"]

        def test_run_last(mlflow_sandbox, mlflow_run):
            assert mlflow.active_run().info.run_id == mlflow_run.info.run_id
            assert names() == ["test_run_last"]

        def test_service_and_both(mlflow_service, mlflow_run, mlflow_sandbox):
            assert mlflow.get_tracking_uri() == mlflow_sandbox.tracking_uri
            assert names() == ["test_service_and_both"]

        def test_outside(mlflow_service):
            assert names() == [] and mlflow.active_run() is None
        """,
        *store_options,
    )
    result.assert_outcomes(passed=4)
    if store_options:
        with sqlite3.connect(pytester.path / "user.db") as connection:
            assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_alerts_and_logs_go_on(session: Any) -> None:
    result = session("""
        from pathlib import Path

        @pytest.mark.parametrize("number", range(2))
        def test(logger_service, alerts_service, alerts_outbox, mlflow_sandbox, caplog, number):
            logger_service.logger().info("logged inside")
            alerts_service.notify("title", "inside")
            assert [alert.message for alert in alerts_outbox] == ["inside"]
            assert caplog.messages.count("logged inside") == 1
            assert Path(logger_service.sink).read_text().count("logged inside") == number + 1
    """)
    result.assert_outcomes(passed=2)


def test_a_named_store_and_isolation_by_test_exclude_each_other(
    session: Any, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_it="def test(): pass")
    uri = f"sqlite:///{pytester.path}/user.db"
    both = pytester.runpytest_inprocess("--mlctx-isolation=test", f"--mlctx-tracking-uri={uri}")
    assert both.ret == 4
    (line,) = [line for line in both.errlines if "mlctx" in line]
    assert line == (
        "ERROR: --mlctx-isolation: 'test' needs the temporary store and --mlctx-tracking-uri names another, "
        "drop one of them."
    )
    source = """
        def test_one(mlflow_service): log("one")
        def test_two(mlflow_service): assert names() == {expected}
    """
    for ini, argument, expected in (
        ("mlctx_isolation = test", f"--mlctx-tracking-uri={uri}", ["one"]),
        (f"mlctx_tracking_uri = {uri}", "--mlctx-isolation=test", []),
        ("mlctx_isolation = session", "--mlctx-experiment=x", ["one"]),
        ("mlctx_experiment = x", "--mlctx-isolation=auto", []),
    ):
        pytester.makeini(f"[pytest]\n{ini}")
        result = session(source.format(expected=expected), argument)
        result.assert_outcomes(passed=2)
    assert (pytester.path / "user.db").exists()


def test_a_configuration_that_names_a_store_and_isolation_by_test(
    session: Any, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def mlflow_config(mlflow_config, tmp_path_factory):
            folder = tmp_path_factory.getbasetemp()
            return {**mlflow_config, "tracking_uri": f"sqlite:///{folder}/own.db"}
    """)
    source = """
        def test_one(mlflow_service): log("one")
        def test_nothing(): pass
        def test_two(mlflow_run): assert names() == ["one", "test_two"]
        def test_sandbox(mlflow_sandbox): assert names() == []
    """
    session(source).assert_outcomes(passed=4)
    result = session(source, "--mlctx-isolation=test")
    result.assert_outcomes(passed=2, errors=2)
    said = [line for line in result.outlines if line.startswith("--mlctx-isolation: 'test' needs")]
    assert len(said) == 1
    result.stdout.fnmatch_lines("as in *::test_one")


def test_a_configuration_of_its_own(session: Any, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session", params=[{}, {"experiment_name": 3}, {"colour": "red"}], ids=str)
        def mlflow_config(request):
            return {"autolog_disable": True, **request.param}
    """)
    result = session("""
        def test(mlflow_sandbox):
            assert mlflow_sandbox.experiment_name == "default"
            log("one")
            assert names() == ["one"]
    """)
    result.assert_outcomes(passed=1, errors=2)
    said = [line for line in result.outlines if line.startswith("mlflow_config: ")]
    assert said == [
        "mlflow_config: 'experiment_name' of MlflowService: Input should be a valid string.",
        *[line for line in said if "'colour' is not a field of MlflowService" in line],
    ]
    assert len(said) == 2


@pytest.mark.slow
def test_five_hundred_leave_no_more_than_fifty(session: Any) -> None:
    psutil = pytest.importorskip("psutil")
    seen = {}

    def note(number: Any) -> None:
        gc.collect()
        process = psutil.Process()
        engines = [thing for thing in gc.get_objects() if type(thing).__name__ == "Engine"]
        seen[number] = (process.memory_info().rss / 2**20, process.num_fds(), threading.active_count(),
                        len(engines))  # fmt: skip

    builtins.mlctx_note = note  # the suite runs in this process
    try:
        result = session("""
            import builtins

            @pytest.mark.parametrize("number", range(501))
            def test(mlflow_sandbox, number):
                with mlflow.start_run():
                    mlflow.log_metric("m", number)
                    mlflow.log_param("p", number)
                MlflowClient().create_registered_model("model")
                with mlflow.start_span("span"):
                    pass
                if number in (50, 275, 500):
                    builtins.mlctx_note(number)
        """)
    finally:
        del builtins.mlctx_note
    result.assert_outcomes(passed=501)
    assert seen[500][1:] == seen[50][1:]
    assert seen[500][0] - seen[275][0] < 4, seen  # MiB


def test_it_stands_in_for_a_suite_s_own_function_scoped_service(
    session: Any, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(autouse=True)
        def mlflow_service(mlflow_sandbox): return mlflow_sandbox
    """)
    result = session(
        """
        def test_by_name(mlflow_service):
            with mlflow.start_run(): pass
            assert mlflow_service.running
            assert len(mlflow.search_runs(search_all_experiments=True)) == 1

        def test_without():
            assert len(mlflow.search_runs(search_all_experiments=True)) == 0
        """
    )
    result.assert_outcomes(passed=2)


# Sandboxes of wider scope.


def test_a_module_trains_once_and_asserts_often(session: Any, store_options: tuple[str, ...]) -> None:
    result = session(
        """
        from pytest_mlctx import MlflowService

        @pytest.fixture(scope="module")
        def trained(mlflow_sandbox_factory):
            with mlflow_sandbox_factory() as service:
                with mlflow.start_run(run_name="trained") as run:
                    mlflow.log_text("x", "report.txt")
                yield service, run.info.run_id

        def test_before(mlflow_service):
            assert names() == []
            with mlflow.start_run(run_name="outside"): pass

        def test_finds_it(trained):
            service, run_id = trained
            assert MlflowService.current() is service
            assert names() == ["trained"]
            assert mlflow.artifacts.load_text(f"runs:/{run_id}/report.txt") == "x"

        def test_finds_it_again(trained, mlflow_service):
            assert names() == ["trained"]
            assert mlflow_service.tracking_uri != trained[0].tracking_uri

        def test_is_empty_in_a_sandbox_of_its_own(trained, mlflow_sandbox):
            assert names() == []

        class TestOther:
            @pytest.fixture(scope="class", params=[1, 2])
            def other(self, mlflow_sandbox_factory, request):
                with mlflow_sandbox_factory() as service:
                    with mlflow.start_run(run_name=f"other {request.param}"): pass
                    yield request.param

            def test(self, trained, other):
                assert names() == [f"other {other}"]

        def test_finds_its_own_once_more(trained):
            assert names() == ["trained"]
        """,
        "--mlctx-leaks=error",
        *store_options,
    )
    result.assert_outcomes(passed=7)


def test_after_a_sandbox_of_wider_scope_all_is_as_before(session: Any) -> None:
    result = session(
        """
        @pytest.fixture(scope="class")
        def boxed(mlflow_sandbox_factory):
            with mlflow_sandbox_factory():
                yield

        def test_outside(mlflow_service):
            global before
            before = state()

        @pytest.mark.usefixtures("boxed")
        class TestInside:
            def test(self):
                mlflow.start_run(run_name="left open")
                assert state() != before

        def test_outside_again(mlflow_service):
            uris = slice(0, 3)
            assert state()[uris] == before[uris]
            assert names() == []
        """
    )
    result.assert_outcomes(passed=3)


def test_the_service_may_be_asked_for_within_a_sandbox_of_wider_scope(session: Any) -> None:
    before = {name for name in os.environ if "MLFLOW" in name}
    result = session(
        """
        @pytest.fixture(scope="class")
        def boxed(mlflow_sandbox_factory):
            with mlflow_sandbox_factory() as service:
                yield service

        class TestBoxed:
            def test_alone(self, boxed):
                assert mlflow.get_tracking_uri() == boxed.tracking_uri

            def test_with_the_service(self, boxed, mlflow_service):
                assert mlflow.get_tracking_uri() == boxed.tracking_uri

        def test_after(mlflow_service):
            assert mlflow.get_tracking_uri() == mlflow_service.tracking_uri
            with mlflow.start_run() as run: pass
            assert mlflow.get_experiment(run.info.experiment_id).name == mlflow_service.experiment_name
        """,
        "--mlctx-leaks=error",
    )
    result.assert_outcomes(passed=3)
    assert {name for name in os.environ if "MLFLOW" in name} == before
