"""What tests track stays in pytest's temporary folder, whatever the environment says."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
import textwrap
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pytest
from listening import Server

from pytest_mlctx.services import state

MLFLOW_3 = int(mlflow.__version__.partition(".")[0]) >= 3

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")


def files(folder: Path) -> dict[str, bytes]:
    """Everything in the folder but the caches of pytest and Python."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if not {"__pycache__", ".pytest_cache"} & set(path.parts)
    }


EVERYTHING = """
    import os
    import mlflow
    from sklearn.linear_model import LinearRegression

    def test_everything(mlflow_service):
        with mlflow.start_run():
            mlflow.log_metric("loss", 0.5)
            mlflow.log_text("text", "note.txt")
            model = LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0])
            logged = mlflow.sklearn.log_model(
                model, "model", pip_requirements=[], serialization_format="cloudpickle"
            )
            mlflow.register_model(logged.model_uri, mlflow_service.registry_name)
        loaded = mlflow.sklearn.load_model(f"models:/{mlflow_service.registry_name}/1")
        assert loaded.predict([[3.0]]).round(6).tolist() == [6.0]
        mlflow.set_experiment("another")
        with mlflow.start_run() as run:
            mlflow.log_text("text", "note.txt")
        assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt") == "text"
        mlflow.MlflowClient().create_experiment("a third")
        with mlflow.start_span("span"):
            pass
        assert len(mlflow.search_traces(return_type="list")) == 1
"""
if not MLFLOW_3:
    EVERYTHING = EVERYTHING.replace('(return_type="list")', "()")


RUNS = """
    import mlflow

    def test_runs(mlflow_service):
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 0.5)
            mlflow.log_text("text", "note.txt")
        assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt") == "text"
        mlflow.MlflowClient().create_registered_model("m")
        with mlflow.start_span("span"):
            pass
        assert len(mlflow.search_traces(locations=[run.info.experiment_id], return_type="list")) == 1
"""
if not MLFLOW_3:
    RUNS = RUNS.replace("locations=", "").replace(', return_type="list"', "")


def test_the_checkout_is_byte_for_byte_what_it_was(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(EVERYTHING)
    (pytester.path / "mlruns").mkdir()
    (pytester.path / "mlruns" / "developers.txt").write_text("own")
    before = files(pytester.path)
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert files(pytester.path) == before


@pytest.mark.parametrize("name", ["with space #1 größer ☂", "what? %41 50%"])
def test_a_temporary_folder_of_any_name(pytester: pytest.Pytester, name: str) -> None:
    pytester.makepyfile(EVERYTHING)
    home = pytester.path / "home"
    home.mkdir()
    before = files(pytester.path)
    pytester.runpytest_inprocess(
        f"--basetemp={pytester.path.parent / (pytester.path.name + name)}"
    ).assert_outcomes(passed=1)
    assert files(pytester.path) == before


@pytest.mark.parametrize("autouse", [True, False])
def test_nothing_reaches_the_store_of_the_environment(
    pytester: pytest.Pytester, server: Server, monkeypatch: pytest.MonkeyPatch, autouse: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:hunter2@{server.url[7:]}")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", server.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "production")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow" if autouse else "[pytest]")
    pytester.makepyfile(RUNS)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mlctx: *MLFLOW_TRACKING_URI=http://[*][*][*]@127.0.0.1:* not followed*"])
    assert "hunter2" not in result.stdout.str()
    assert server.requests == []
    assert os.environ["MLFLOW_REGISTRY_URI"] == server.url
    assert os.environ["MLFLOW_TRACE_SAMPLING_RATIO"] == "0"


def test_nothing_reaches_a_real_store_of_the_environment(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_mlctx.services import store

    store.fill(tmp_path / "real.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/real.db")
    before = files(tmp_path)
    pytester.makepyfile(RUNS)
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert files(tmp_path) == before


LIBRARY = """
    import os
    import mlflow

    def logger(tracking_uri=os.getenv("MLFLOW_TRACKING_URI")):
        return mlflow.MlflowClient(tracking_uri=tracking_uri)
"""


def test_with_autouse_a_library_that_was_imported_by_a_conftest_is_bound_to_our_store(
    pytester: pytest.Pytester, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow")
    pytester.makepyfile(
        library=LIBRARY,
        conftest="import library",
        test_it="""
            import library
            import mlflow

            def test_run():
                client = library.logger()
                run = client.create_run("0")
                client.log_text(run.info.run_id, "text", "note.txt")
                assert mlflow.get_run(run.info.run_id).info.artifact_uri.startswith("/")
        """,
    )
    before = files(pytester.path)
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert server.requests == []
    assert os.environ["MLFLOW_TRACKING_URI"] == server.url
    assert files(pytester.path) == before


COLLECTED = """
    import os
    import mlflow

    mlflow.set_experiment("of import")
    with mlflow.start_run(run_name={module!r}):
        mlflow.log_text("text", "note.txt")
    mlflow.MlflowClient().create_registered_model({module!r})
    open_run = mlflow.start_run()
"""
TESTS = """

def names():
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"]
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    for run in runs:
        if run.info.run_name in ("conftest", "test_it"):
            assert mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt") == "text"
    models = [model.name for model in mlflow.MlflowClient().search_registered_models()]
    return sorted(run.info.run_name for run in runs if run.info.run_id != open_run.info.run_id), models

def test_first():
    assert names() == (["conftest", "test_it"], ["conftest", "test_it"])
    with mlflow.start_run(run_name="a test's", nested=True) as run:
        mlflow.log_text("text", "note.txt")
    assert mlflow.get_experiment(run.info.experiment_id).name == "tests"
    mlflow.MlflowClient().create_registered_model("m")
    mlflow.set_experiment("of import")

def test_second(mlflow_sandbox):
    assert names() == ([], [])

def test_third():
    assert names() == (["conftest", "test_it"], ["conftest", "test_it"])
"""


@pytest.mark.parametrize("named", [False, True], ids=["temporary", "named"])
def test_with_autouse_what_tracks_while_it_is_collected_finds_the_store_of_the_tests(
    pytester: pytest.Pytester,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    named: bool,
) -> None:
    temporary, store = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("named") / "runs.db"
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow\nmlctx_experiment = tests")
    pytester.makeconftest(COLLECTED.format(module="conftest").replace("open_run", "# open_run"))
    pytester.makepyfile(textwrap.dedent(COLLECTED.format(module="test_it")) + TESTS)
    before, held = files(pytester.path), state.capture("mlflow", "environment")
    more = [f"--mlctx-tracking-uri=sqlite:///{store}", "-k", "test_first"] if named else []
    for options in (["--collect-only"], [f"--basetemp={temporary}/base", *more]):
        result = pytester.runpytest_inprocess(*options)
    result.assert_outcomes(passed=1 if named else 3)
    assert server.requests == []
    assert files(pytester.path) == before
    assert [path.name for path in temporary.iterdir()] == ["base"]
    kept = store if named else temporary / "base" / "mlctx" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(kept)) as connection:
        found = connection.execute("SELECT status FROM runs").fetchall()
        assert ("RUNNING",) not in found
        assert len(found) == (4 if named else 3)
    changes = state.compare(held, state.capture("mlflow", "environment"))
    assert [change for change in changes if change.sentence] == []


@pytest.mark.skipif(find_spec("dotenv") is None, reason="python-dotenv is not installed")
def test_load_dotenv_does_not_put_production_back(pytester: pytest.Pytester, server: Server) -> None:
    (pytester.path / ".env").write_text(
        f"MLFLOW_TRACKING_URI={server.url}\nMLFLOW_REGISTRY_URI={server.url}\n"
    )
    pytester.makepyfile(
        """
        import mlflow
        from dotenv import load_dotenv

        def test_run(mlflow_service):
            load_dotenv()
            with mlflow.start_run():
                pass
            mlflow.MlflowClient().create_registered_model("m")
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert server.requests == []


OTLP = """
    import time
    import mlflow

    def test_trace({fixture}, tmp_path):
        if "{fixture}" != "mlflow_service":
            mlflow.set_tracking_uri(f"sqlite:///{{tmp_path}}/mlflow.db")
        with mlflow.start_span("span"):
            pass
        if "{fixture}" == "mlflow_service":
            experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
            assert len(mlflow.MlflowClient().search_traces(experiments)) == 1
        time.sleep(0.3)
        mlflow.tracing.reset()
"""


@pytest.mark.skipif(find_spec("opentelemetry.exporter") is None, reason="the OTLP exporter is not installed")
@pytest.mark.parametrize(
    "fixture",
    [
        "mlflow_service",
        pytest.param(
            "monkeypatch", marks=pytest.mark.skipif(not MLFLOW_3, reason="MLflow 2 fails to export")
        ),
    ],
)
def test_no_trace_reaches_an_otlp_endpoint_of_the_environment(
    pytester: pytest.Pytester, server: Server, monkeypatch: pytest.MonkeyPatch, fixture: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{server.url}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    if fixture == "mlflow_service":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{server.url}/v1/metrics")
    pytester.makepyfile(OTLP.format(fixture=fixture))
    pytester.runpytest_inprocess("--mlctx-leaks=warn").assert_outcomes(passed=1)
    assert bool(server.requests) is (fixture != "mlflow_service")


def test_warnings_as_errors(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import mlflow

        def test_run(mlflow_service, logger_service, alerts_service, mlflow_run):
            mlflow.log_metric("loss", 0.5)
            mlflow.log_text("text", "note.txt")
            with mlflow_service.run_context(mlflow_service.RunConfig(name="inner", log_system_metrics=False)):
                alerts_service.notify("title", "message")
        """
    )
    pytester.runpytest_inprocess("-W", "error").assert_outcomes(passed=1)


FIVE = """
    import pytest

    @pytest.mark.parametrize("number", range(2))
    def test_that_asks(mlflow_service, number):
        pass

    def test_that_does_not():
        pass
"""


def test_a_store_that_cannot_be_used_is_one_sentence_and_an_error_of_each_test_that_asked(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "notes.txt").write_text(
        "only text, and long enough not to be taken for an empty file" * 9
    )
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"http://ada:hunter2@127.0.0.1:{gone.getsockname()[1]}"
    pytester.makepyfile(FIVE)
    for uri, sentence in (
        (
            f"sqlite:///{pytester.path}/notes.txt",
            r"MlflowService\.tracking_uri 'sqlite:.*' is no SQLite database",
        ),
        (f"{pytester.path}/notes.txt", r"MlflowService\.tracking_uri '/.*notes.txt' is not a folder"),
        (
            dead,
            r"MlflowService\.tracking_uri 'http://\*\*\*@127\.0\.0\.1:\d+' cannot be reached \(Connection",
        ),
    ):
        result = pytester.runpytest_inprocess(f"--mlctx-tracking-uri={uri}", "-l")
        result.assert_outcomes(passed=1, errors=2)
        text = result.stdout.str()
        assert len(re.findall(f"(?m)^{sentence}", text)) == 1
        result.stdout.fnmatch_lines("as in *::test_that_asks*")
        assert "Traceback" not in text
        assert "hunter2" not in text + result.stderr.str()


def test_a_deleted_experiment_is_one_sentence_and_an_error_of_each_test_that_asked(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    from pytest_mlctx.services import store

    store.fill(tmp_path / "mlflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (7, 'gone', '/nowhere', 'deleted')"
        )
    pytester.makepyfile(FIVE)
    result = pytester.runpytest_inprocess(
        f"--mlctx-tracking-uri=sqlite:///{tmp_path}/mlflow.db", "--mlctx-experiment=gone"
    )
    result.assert_outcomes(passed=1, errors=2)
    sentence = (
        "MlflowService.experiment_name 'gone' was deleted in this store: restore it (`mlflow experiments"
    )
    assert result.stdout.str().count(f"\n{sentence}") == 1
    result.stdout.fnmatch_lines("as in *::test_that_asks*")


def test_a_failing_test_shows_no_credentials(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_fails(mlflow_config):
            uri = mlflow_config["tracking_uri"]
            assert mlflow_config == {}
        """
    )
    result = pytester.runpytest_inprocess(
        "--mlctx-tracking-uri=https://ada:hunter2@mlflow.example.org", "-l", "-vv"
    )
    result.assert_outcomes(failed=1)
    assert "mlflow.example.org" in result.stdout.str()
    for secret in ("hunter2", "ada:"):
        assert secret not in result.stdout.str() + result.stderr.str()
