"""Whole suites under the guard: well-behaved ones without a finding, careless ones that pass in any order."""

from __future__ import annotations

import importlib
import random
import textwrap
from collections.abc import Iterator

import pytest

from pytest_mlctx.services import state

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Sessions without the guard leave this process changed; numpy's users cannot be loaded twice."""
    pytest.importorskip("sklearn.linear_model")
    importlib.import_module("mlflow.sklearn")
    before = state.capture("mlflow", "environment", "loguru", "logging")
    yield
    state.restore(before)


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)


def leaks(result: pytest.RunResult) -> list[str]:
    reports = result.reprec.getreports("pytest_runtest_logreport")
    return [leak for report in reports for leak in getattr(report, "mlctx_leaks", ())]


WELL_BEHAVED = {
    "conftest": """
        import mlflow, pytest
        from loguru import logger

        @pytest.fixture(scope="session")
        def session_experiment(mlflow_service):
            mlflow.set_experiment("of the session")
            yield "of the session"
            mlflow.set_experiment(mlflow_service.experiment_name)

        @pytest.fixture(scope="module", params=["a", "b"])
        def module_run(request, mlflow_service):
            with mlflow.start_run(run_name=request.param) as run:
                yield run

        @pytest.fixture(scope="module")
        def late(mlflow_service):
            uri = mlflow.get_tracking_uri()
            handler = logger.add(lambda message: None)
            with mlflow.start_run(nested=True) as run:
                yield run
            logger.remove(handler)

        @pytest.fixture
        def sink():
            lines = []
            handler = logger.add(lines.append)
            yield lines
            logger.remove(handler)
    """,
    "test_functions": """
        import os, warnings
        import mlflow, pytest
        from loguru import logger

        @pytest.mark.parametrize("n", range(8))
        def test_run(mlflow_service, n):
            with mlflow.start_run(run_name=str(n)) as run:
                mlflow.log_param("n", n)
                mlflow.log_metrics({"loss": n}, step=1)
                with mlflow.start_run(nested=True): mlflow.set_tag("child", n)
            assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"

        def test_start_and_end(mlflow_service):
            mlflow.start_run()
            mlflow.end_run()
            assert mlflow.last_active_run() is not None

        def test_artifacts(mlflow_service, tmp_path):
            (tmp_path / "a.txt").write_text("a")
            with mlflow.start_run():
                mlflow.log_artifact(str(tmp_path / "a.txt"))
                mlflow.log_dict({"a": 1}, "a.json")

        def test_model(mlflow_service):
            class Model(mlflow.pyfunc.PythonModel):
                def predict(self, context, model_input, params=None): return model_input
            with mlflow.start_run() as run:
                mlflow.pyfunc.log_model("model", python_model=Model(), pip_requirements=["mlflow"])
            assert mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")

        def test_traces(mlflow_service):
            @mlflow.trace
            def work(x): return x + 1
            assert work(1) == 2
            with mlflow.start_span("more") as span: span.set_inputs({"a": 1})

        def test_client(mlflow_service):
            client = mlflow_service.client()
            run = client.create_run(client.create_experiment("clients"))
            client.set_terminated(run.info.run_id)

        def test_text_and_table(mlflow_service):
            with mlflow.start_run() as run:
                mlflow.log_text("a", "a.txt")
                mlflow.log_table({"a": [1, 2]}, "table.json")
            assert list(mlflow.load_table("table.json", [run.info.run_id])["a"]) == [1, 2]

        def test_dataset(mlflow_service):
            numpy = pytest.importorskip("numpy")
            with mlflow.start_run() as run:
                mlflow.log_input(mlflow.data.from_numpy(numpy.zeros(3), name="zeros"), context="training")
            assert len(mlflow.get_run(run.info.run_id).inputs.dataset_inputs) == 1

        def test_resumed(mlflow_service):
            with mlflow.start_run() as run: pass
            with mlflow.start_run(run_id=run.info.run_id): mlflow.log_metric("more", 1)

        def test_registered(mlflow_service):
            client = mlflow_service.client()
            client.create_registered_model("registered")
            client.set_registered_model_tag("registered", "team", "fraud")

        def test_searched(mlflow_service):
            with mlflow.start_run(tags={"of": "mine"}): pass
            assert len(mlflow.search_runs(filter_string="tags.of = 'mine'")) == 1

        def test_batch(mlflow_service):
            with mlflow.start_run() as run: pass
            metric = mlflow.entities.Metric("loss", 0.5, timestamp=0, step=0)
            mlflow_service.client().log_batch(run.info.run_id, metrics=[metric])

        def test_failing_run(mlflow_service):
            with pytest.raises(ZeroDivisionError), mlflow.start_run(): 1 / 0

        def test_caplog(logger_service, caplog):
            with caplog.at_level("INFO"): logger.info("hello")
            assert "hello" in caplog.messages
            caplog.set_level(10)

        def test_capsys(logger_service, capsys):
            print("hello")
            assert capsys.readouterr().out == "hello\\n"

        def test_monkeypatch(mlflow_service, monkeypatch, tmp_path):
            monkeypatch.setenv("MLFLOW_RUN_NAME", "x")
            monkeypatch.delenv("MLFLOW_TRACKING_URI")
            monkeypatch.chdir(tmp_path)
            (tmp_path / "mlruns").mkdir()

        def test_isolated_filesystem(mlflow_service):
            click_testing = pytest.importorskip("click.testing")
            from pathlib import Path
            with click_testing.CliRunner().isolated_filesystem(): Path("mlruns").mkdir()

        def test_autolog_undone(mlflow_service):
            mlflow.sklearn.autolog()
            mlflow.sklearn.autolog(disable=True)
            mlflow.utils.autologging_utils.AUTOLOGGING_INTEGRATIONS["sklearn"].clear()

        def test_sink(sink, logger_service):
            logger.bind(a=1).info("hello")
            with logger.contextualize(task=1): logger.info("again")
            assert len(sink) == 2

        def test_alert(alerts_service, alerts_outbox):
            alerts_service.notify("title", "message")
            assert len(alerts_outbox) == 1

        def test_own_run(mlflow_run): mlflow.log_metric("a", 1)
        def test_sandbox(mlflow_sandbox):
            with mlflow.start_run(): pass
        def test_both(mlflow_sandbox, mlflow_run): mlflow.log_metric("a", 1)

        @pytest.mark.skip
        def test_skipped(mlflow_service): pass

        @pytest.mark.xfail
        def test_xfail(mlflow_service):
            with mlflow.start_run(): assert False

        def test_plain(): pass
    """,
    "test_classes": """
        import unittest
        import mlflow, pytest

        class TestXunit:
            @pytest.fixture(autouse=True)
            def service(self, mlflow_service): pass
            def setup_method(self): self.experiment = mlflow.get_experiment_by_name("Default")
            def test_one(self): assert self.experiment.name == "Default"
            def test_two(self):
                with mlflow.start_run(): pass

        class TestXunitClass:
            @classmethod
            def setup_class(cls): cls.span = None
            def test_one(self, mlflow_service): mlflow.set_tag
            def test_two(self, session_experiment):
                with mlflow.start_run() as run:
                    assert mlflow.get_experiment(run.info.experiment_id).name == session_experiment

        @pytest.mark.usefixtures("mlflow_service")
        class TestCase(unittest.TestCase):
            @classmethod
            def setUpClass(cls): cls.run_ = mlflow.start_run(run_name="of the class")
            @classmethod
            def tearDownClass(cls): mlflow.end_run()
            def setUp(self): mlflow.set_tag("set", "up")
            def test_one(self): self.assertIsNotNone(mlflow.active_run())
            def test_two(self):
                with self.subTest("a"): mlflow.log_metric("a", 1)
    """,
    "test_held": """
        import mlflow

        class TestHeld:
            def test_one(self, module_run): assert mlflow.active_run().info.run_id == module_run.info.run_id
            def test_two(self, module_run):
                with mlflow.start_run(nested=True): pass

    """,
    "test_late": """
        import mlflow, pytest

        @pytest.mark.parametrize("n", range(3))
        def test_late(request, session_experiment, n):
            run = request.getfixturevalue("late")
            assert mlflow.active_run().info.run_id == run.info.run_id
    """,
    "test_xunit_module": """
        import mlflow, pytest
        from loguru import logger
        pytestmark = pytest.mark.usefixtures("logger_service")

        def setup_module():
            global handler
            handler = logger.add(lambda message: None)
        def teardown_module(): logger.remove(handler)
        def setup_function(): logger.info("begin")
        def test_one(): logger.info("one")
        def test_two(): logger.info("two")
    """,
    "documented": '''
        def add(a, b):
            """
            >>> import mlflow
            >>> with mlflow.start_run() as run: mlflow.log_metric("sum", add(1, 2))
            >>> run.info.status
            'RUNNING'
            """
            return a + b
    ''',
}
ASYNC = """
    import asyncio
    import mlflow, pytest
    from loguru import logger

    @pytest.fixture
    async def ready():
        await asyncio.sleep(0)
        with mlflow.start_run() as run: yield run

    @pytest.mark.asyncio
    async def test_run(mlflow_service):
        with mlflow.start_run(): await asyncio.sleep(0)

    @pytest.mark.asyncio
    async def test_context(logger_service):
        with logger.contextualize(task=1): await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))

    @pytest.mark.asyncio
    async def test_traced(mlflow_service):
        @mlflow.trace
        async def work(): await asyncio.sleep(0)
        await asyncio.gather(work(), work())
"""
FLAKY = """
    import mlflow
    attempts = []
    def test_flaky(mlflow_service):
        with mlflow.start_run():
            attempts.append(1)
            assert len(attempts) == 2
"""


@pytest.mark.parametrize(
    "seed", ["1", *(pytest.param(seed, marks=pytest.mark.slow) for seed in ("written", "2"))]
)
def test_a_well_behaved_suite_has_no_finding(pytester: pytest.Pytester, seed: str) -> None:
    files = {name: textwrap.dedent(source) for name, source in WELL_BEHAVED.items()}
    options = ["--mlctx-leaks=warn", "--doctest-modules", "-W", "ignore:::mlflow"]
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow\nasyncio_default_fixture_loop_scope = function")
    if pytest.importorskip("pytest_asyncio"):
        files["test_async"] = textwrap.dedent(ASYNC)
        options += ["-p", "asyncio"]
    if pytest.importorskip("pytest_rerunfailures"):
        files["test_flaky"] = textwrap.dedent(FLAKY)
        options += ["-p", "rerunfailures", "--reruns=1"]
    pytester.makepyfile(**files)
    if seed != "written":
        pytest.importorskip("pytest_randomly")
        options += ["-p", "randomly", f"--randomly-seed={seed}"]
    result = run(pytester, *options)
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) == outcomes.get("errors", 0) == 0
    assert outcomes["passed"] >= 50
    assert leaks(result) == []


HAND_WRITTEN = """
    import os
    import mlflow, pytest

    {cleanup}

    @pytest.fixture
    def store(template, tmp_path):
        path = tmp_path / "mlflow.db"
        path.write_bytes(template.read_bytes())
        mlflow.set_tracking_uri(f"sqlite:///{{path}}")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{{path}}"
        mlflow.create_experiment("theirs", artifact_location=str(tmp_path / "artifacts"))

    @pytest.fixture(scope="session")
    def template(tmp_path_factory):
        path = tmp_path_factory.mktemp("template") / "mlflow.db"
        from pytest_mlctx.services import store
        store.Store(path).close()
        return path

    def test_default_store_is_untouched(): assert "theirs" not in mlflow.get_tracking_uri()

    def test_open(store):
        mlflow.set_experiment("theirs")
        mlflow.start_run(run_name="open")
        mlflow.log_metric("loss", 1)

    def test_no_run(store): assert mlflow.active_run() is None

    def test_default_experiment(store):
        with mlflow.start_run() as run: assert run.info.experiment_id == "0"

    def test_experiment(store):
        mlflow.set_experiment("theirs")
        with mlflow.start_run() as run: assert run.info.experiment_id != "0"

    def test_default_experiment_again(store):
        with mlflow.start_run() as run: assert run.info.experiment_id == "0"

    def test_open_again(store): mlflow.start_run()
    def test_open_and_again(store): mlflow.start_run()
    def test_uri_is_not_set(): assert "MLFLOW_TRACKING_URI" not in os.environ
"""
CLEANUP = """
    @pytest.fixture(autouse=True)
    def clean_up():
        yield
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.tracking.fluent._active_experiment_id = None
        mlflow.set_tracking_uri(None)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
            os.environ.pop(name, None)
"""


def test_the_guard_replaces_a_clean_up_by_hand(pytester: pytest.Pytester) -> None:
    def outcomes(cleanup: str, *args: str) -> dict[str, int]:
        source = textwrap.dedent(HAND_WRITTEN).format(cleanup=textwrap.dedent(cleanup))
        pytester.makepyfile(test_theirs=source)
        result = run(pytester, *args)
        return {name: number for name, number in result.parseoutcomes().items() if "warning" not in name}

    by_hand = outcomes(CLEANUP)
    assert by_hand == {"passed": 9}
    with_guard = outcomes("", "--mlctx-leaks=warn")
    assert with_guard == {"passed": 9}
    without = outcomes("")
    assert without.get("failed", 0) >= 5


ORDER_DEPENDENT = """
    import os, time
    import mlflow, pytest
    from loguru import logger

    def experiment(): return mlflow.get_experiment(mlflow.tracking.fluent._get_experiment_id()).name

    def test_j_last_run(mlflow_service): assert mlflow.last_active_run() is None
    def test_a_uses_the_default(mlflow_service): assert experiment() == mlflow_service.experiment_name
    def test_b_has_no_run(mlflow_service): assert mlflow.active_run() is None
    def test_c_store_is_empty(mlflow_service): assert mlflow.search_runs(output_format="list") == []
    def test_d_has_the_sinks(logger_service): assert logger._core.handlers
    def test_e_not_autologging(mlflow_service):
        from sklearn.linear_model import LinearRegression
        LinearRegression().fit([[1], [2]], [1, 2])
        assert mlflow.search_runs(output_format="list") == []
    def test_f_traces(mlflow_service):
        with mlflow.start_span("f"): pass
        mlflow.flush_trace_async_logging()
        assert len(mlflow.search_traces(return_type="list")) == 1
    def test_g_variable(): assert "MLFLOW_RUN_NAME" not in os.environ
    def test_h_run_names(mlflow_service):
        with mlflow.start_run() as run: assert run.info.run_name != "forced"
    def test_i_first_version(mlflow_service):
        assert mlflow_service.client().create_registered_model("model").name == "model"
    def test_s_last_run(mlflow_service):
        with mlflow.start_run(): pass
        client = mlflow_service.client()
        if not client.search_registered_models(): client.create_registered_model("model")
    def test_t_removes_the_sinks(logger_service): logger.remove()
    def test_u_switches_tracing_off(mlflow_service): mlflow.tracing.disable()
    def test_v_autologs(mlflow_service): mlflow.sklearn.autolog()
    def test_w_leaves_a_name(mlflow_service): os.environ["MLFLOW_RUN_NAME"] = "forced"
    def test_x_changes_the_experiment(mlflow_service): mlflow.set_experiment("other")
    def test_y_leaves_a_run(mlflow_service): mlflow.start_run()
    def test_z_goes_elsewhere(mlflow_service, tmp_path): mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/x.db")
"""


def shuffled(source: str, seed: int) -> str:
    """The suite with its tests in another order."""
    head, *tests = textwrap.dedent(source).split("\ndef test_")
    random.Random(seed).shuffle(tests)
    return "\ndef test_".join([head, *tests])


@pytest.mark.parametrize(
    "seeds", [range(3), pytest.param(range(3, 20), marks=pytest.mark.slow)], ids=["sample", "more"]
)
def test_a_suite_that_needed_its_order_passes_in_any(pytester: pytest.Pytester, seeds: range) -> None:
    from mlflow.tracking import fluent

    fluent._last_active_run_id.set(None)  # that of a test before in this process is in no store any more
    for seed in seeds:
        pytester.makepyfile(**{f"test_order_{seed}": shuffled(ORDER_DEPENDENT, seed)})
        result = run(pytester, f"test_order_{seed}.py")
        assert result.parseoutcomes().get("passed") == 18, seed
        assert result.parseoutcomes().get("failed", 0) == 0


@pytest.mark.slow
def test_a_suite_that_needed_its_order_does_need_it_and_passes_among_workers(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    services = """
        import mlflow, pytest
        @pytest.fixture(scope="session")
        def mlflow_service(tmp_path_factory):
            "A user's own, which is not put back between tests."
            folder = tmp_path_factory.mktemp("store")
            mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
            mlflow.create_experiment("theirs", artifact_location=str(folder / "artifacts"))
            mlflow.set_experiment("theirs")
            class Service:
                experiment_name = "theirs"
                client = staticmethod(mlflow.MlflowClient)
            return Service
        @pytest.fixture
        def logger_service(): pass
    """
    pytester.makepyfile(test_written=ORDER_DEPENDENT)
    assert (
        run(pytester, "-p", "xdist", "-n2").parseoutcomes()
        == {"passed": 18} | run(pytester, "-p", "xdist", "-n2").parseoutcomes()
    )
    pytester.makeconftest(services)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider")
    written = pytester.runpytest_subprocess("test_written.py")
    assert written.parseoutcomes().get("failed", 0) == 0
    pytester.makepyfile(test_shuffled=shuffled(ORDER_DEPENDENT, 1))
    assert pytester.runpytest_subprocess("test_shuffled.py").parseoutcomes()["failed"] >= 3
