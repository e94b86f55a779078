"""The report of a failing test shows what it tracked and sent."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")

SUITE = """
    import threading
    import mlflow, pytest

    @pytest.fixture(scope="module")
    def trained(mlflow_service):
        with mlflow.start_run(run_name="trained once"):
            mlflow.log_metric("loss", 1)

    @pytest.fixture(scope="module")
    def other(mlflow_service):
        with mlflow.start_run(run_name="of nobody"): pass

    def test_passes(other, alerts_service):
        with mlflow.start_run(run_name="passes"): pass
        alerts_service.notify("before", "m")

    def test_fails(trained, alerts_service):
        with mlflow.start_run(run_name="fluent", tags={"team": "fraud"}):
            mlflow.log_param("depth", 3)
            for step in range(4):
                mlflow.log_metric("loss", 1 / (step + 1), step=step)
            mlflow.log_metric("accuracy", 0.93)
            mlflow.log_text("x" * 1500, "report/long.txt")
            alerts_service.notify("Training", "poor at https://me:geheim@host", level="WARNING")
        client = mlflow.MlflowClient()
        client.create_run(mlflow.get_experiment_by_name("Default").experiment_id, run_name="of a client")
        thread = threading.Thread(target=lambda: mlflow.start_run(run_name="of a thread"))
        thread.start(); thread.join()
        assert 0

    def test_fails_in_a_sandbox(mlflow_sandbox):
        with mlflow.start_run(run_name="sandboxed"):
            for number in range(20):
                mlflow.log_param(f"param{number}", number)
        assert 0

    @pytest.fixture
    def fails(mlflow_service):
        with mlflow.start_run(run_name="of the setup"): pass
        raise ValueError

    def test_setup(fails): pass
"""


def sections(result: pytest.RunResult, test: str) -> str:
    text = result.stdout.str()
    return re.search(rf"_+ (?:ERROR at setup of )?{test} _+\n(.*?)(?=\n_{{5,}}|\n={{5,}})", text, re.S)[1]


@pytest.mark.parametrize("args", [[], ["--tb=short"], ["-q"]])
def test_runs_and_alerts_of_a_failing_test(pytester: pytest.Pytester, args: list[str]) -> None:
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_inprocess(*args)
    result.assert_outcomes(passed=1, failed=2, errors=1)
    told = sections(result, "test_fails")
    assert "- MLflow runs -" in told
    for line in (
        r"run fluent \([0-9a-f]{8}…\): FINISHED, \d+\.\d\d s",
        r"    params: depth=3",
        r"    metrics: .*loss=1 → 0.25 in 4 steps",
        r"    metrics: .*accuracy=0.93",
        r"    tags: team=fraud",
        r"    artifacts: report/long.txt 1.5 kB",
        r"run of a client \(.*\): RUNNING",
        r"run of a thread \(.*\): RUNNING",
        r"run trained once \(.*\): FINISHED, .* s, of fixture 'trained'",
        r"WARNING Training: .*",
    ):
        assert re.search(rf"^{line}", told, re.M), (line, told)
    assert "of nobody" not in told
    assert "geheim" not in told
    assert "before" not in told
    assert "passes" not in told
    (params,) = re.findall("^    params: .*", sections(result, "test_fails_in_a_sandbox"), re.M)
    shown, more = params.count("="), int(re.search(r", … and (\d+) more$", params)[1])
    assert shown + more == 20
    assert len(params) <= 80
    assert "run of the setup" in sections(result, "test_setup")
    assert len(re.findall("run sandboxed", result.stdout.str())) == 1


def test_where_nothing_captured_is_shown_this_is_not_either(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_inprocess("--show-capture=no")
    result.stdout.no_fnmatch_line("*MLflow runs*")


def test_lines_are_cut_to_the_terminal(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    pytester.makepyfile("""
        import mlflow

        def test(mlflow_service):
            for number in range(12):
                with mlflow.start_run(run_name="r" * 200): pass
            assert 0
    """)
    told = sections(pytester.runpytest_inprocess(), "test")
    lines = [line for line in told.splitlines() if line.startswith("run ")]
    assert len(lines) == 10
    assert {len(line) for line in lines} == {90}
    assert "… and 2 more runs" in told


def test_workers_hand_them_over(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("-p", "xdist", "-n1")
    assert "run fluent" in sections(result, "test_fails")


def test_what_isolation_took_back_is_named_where_code_remembers_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import functools
        import mlflow

        @functools.lru_cache
        def experiment(): return mlflow.create_experiment("remembered")

        @functools.lru_cache
        def run():
            with mlflow.start_run() as run: return run.info.run_id

        def test_first(mlflow_service):
            mlflow.start_run(experiment_id=experiment())
            mlflow.end_run()
            mlflow.MlflowClient().log_param(run(), "a", 1)

        def test_experiment(mlflow_service): mlflow.start_run(experiment_id=experiment())
        def test_run(mlflow_service): mlflow.get_run(run())
        def test_another_id(mlflow_service): mlflow.get_run("f" * 32)
    """)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1, failed=3)
    for test in ("test_experiment", "test_run"):
        assert re.search(
            r"- mlctx isolation -+\n\S+ was made for \S+::test_first and taken back after it\. Make it in a",
            sections(result, test),
        )
    assert "taken back" not in sections(result, "test_another_id")


def test_a_run_of_the_test_beside_code_that_opens_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import mlflow

        def test(mlflow_run): mlflow.start_run()
    """)
    assert "request mlflow_service instead" in sections(pytester.runpytest_inprocess(), "test")
