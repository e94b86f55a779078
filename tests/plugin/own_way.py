"""A suite as people write them, which knows nothing of the plugin: stores, logs and mocks of its own.

`test_own_way.py` runs it without the plugin and with it; "dear" are the tests that take seconds.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import importlib
import io
import json
import logging
import logging.config
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import plyer
import pytest
from loguru import logger
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

dear = pytest.mark.dear

logger.info("{} is imported", __name__)


# The code under test.


def train(loss: float = 0.5) -> str:
    with mlflow.start_run(run_name="training") as run:
        mlflow.log_param("epochs", 3)
        mlflow.log_metric("loss", loss)
        logger.info("loss {}", loss)
    return str(run.info.run_id)


def get_or_create(name: str) -> str:
    found = mlflow.get_experiment_by_name(name)
    return str(found.experiment_id if found else mlflow.create_experiment(name))


def experiment_of(run_id: str) -> str:
    return str(mlflow.get_experiment(mlflow.get_run(run_id).info.experiment_id).name)


class Intercept(logging.Handler):
    """From loguru's README."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.opt(depth=6, exception=record.exc_info).log(level, record.getMessage())


class Propagate(logging.Handler):
    """From loguru's documentation, for caplog."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


def setup_logging() -> None:
    logger.remove()
    logger.add(sys.stderr, format="{level}|{message}", level="INFO")


def test_the_default_handler_is_removed_by_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    if 0 not in logger._core.handlers:
        pytest.skip("a test before has removed it")
    logger.remove(0)
    logger.add(sys.stderr, format="{message}")
    logger.info("started")
    assert capsys.readouterr().err == "started\n"


# Stores of the suite's own.


@pytest.fixture(autouse=True)
def cleaned_up(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield
    if isinstance(request.instance, unittest.TestCase):
        return  # its class has chosen the store
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)
    mlflow.tracking.fluent._active_experiment_id = None
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Copied for each test, as MLflow's own tests do: migrations take seconds."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def own(fresh: Any, migrated: Any, tmp_path: Path) -> Any:
    shutil.copy(migrated, tmp_path / "own.db")
    return fresh


@pytest.fixture
def fresh(tmp_path: Path) -> Any:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/own.db")
    return mlflow.get_tracking_uri()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield tmp_path / "mlruns"
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    uri = f"sqlite:///{tmp_path_factory.mktemp('trained')}/mlflow.db"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("trained"))
    client.log_metric(run.info.run_id, "loss", 0.25)
    client.set_terminated(run.info.run_id)
    return uri, run.info.run_id


def test_a_store_of_the_tests_own_has_the_default_experiment(fresh: Any) -> None:
    run_id = train()
    assert experiment_of(run_id) == "Default"
    assert mlflow.search_runs(output_format="list")[0].info.run_id == run_id


def test_experiments_of_a_store_of_the_tests_own_are_not_hit_by_number(own: Any) -> None:
    for name in ("one", "two", "three"):
        MlflowClient().create_experiment(name)
    assert experiment_of(train()) == "Default"


def test_the_registry_follows_the_tracking_store(own: Any) -> None:
    assert mlflow.get_registry_uri() == own
    MlflowClient().create_registered_model("mine")
    assert [model.name for model in MlflowClient(own).search_registered_models()] == ["mine"]


def test_an_experiment_that_the_test_sets_is_the_one(own: Any) -> None:
    mlflow.set_experiment("mine")
    assert experiment_of(train()) == "mine"


def test_a_store_in_a_folder_has_its_files(folder: Any) -> None:
    run = mlflow.get_run(train())
    metric = folder / run.info.experiment_id / run.info.run_id / "metrics" / "loss"
    assert metric.read_text().split()[1] == "0.5"


def test_a_store_named_by_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path / "runs")
    train()
    assert (tmp_path / "runs" / "0").is_dir()


def test_a_store_beside_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri("sqlite:///relative.db")
    with mlflow.start_run() as run:
        mlflow.log_text("text", "notes/a.txt")
    assert Path("relative.db").exists()
    assert Path("mlruns", "0", run.info.run_id, "artifacts", "notes", "a.txt").read_text() == "text"


def test_the_folder_of_a_store_has_the_database_only(fresh: Any, tmp_path: Path) -> None:
    train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.db"]


def test_a_client_of_a_uri_touches_nothing_else(tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri(), dict(os.environ)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/client.db")
    run = client.create_run("0", run_name="by hand")
    client.log_param(run.info.run_id, "seed", 1)
    client.set_terminated(run.info.run_id)
    (found,) = client.search_runs(["0"])
    assert (found.info.run_name, found.data.params) == ("by hand", {"seed": "1"})
    assert (mlflow.get_tracking_uri(), dict(os.environ)) == before


def test_a_store_that_a_module_fixture_filled(trained: Any) -> None:
    uri, run_id = trained
    assert MlflowClient(uri).get_run(run_id).data.metrics == {"loss": 0.25}


def test_a_store_that_a_module_fixture_filled_is_moved_to(trained: Any) -> None:
    uri, run_id = trained
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("trained")
    assert list(mlflow.search_runs().run_id) == [run_id]


def test_an_experiment_is_made_once(own: Any) -> None:
    assert get_or_create("churn") == get_or_create("churn")
    mlflow.set_experiment(experiment_id=get_or_create("churn"))
    assert experiment_of(train()) == "churn"


def test_an_experiment_of_a_name_is_made_in_each_of_two_tests(fresh: Any) -> None:
    assert mlflow.get_experiment_by_name("churn") is None
    assert mlflow.get_experiment(get_or_create("churn")).name == "churn"


def test_a_deleted_experiment_comes_back(own: Any) -> None:
    made = mlflow.create_experiment("gone")
    mlflow.delete_experiment(made)
    with pytest.raises(MlflowException, match="deleted"):
        mlflow.set_experiment("gone")
    MlflowClient().restore_experiment(made)
    assert mlflow.set_experiment("gone").experiment_id == made


def test_a_run_that_is_not_there(own: Any) -> None:
    with pytest.raises(MlflowException, match="Run with id=0123 not found") as caught:
        mlflow.get_run("0123")
    assert str(caught.value).count("\n") == 0


def test_a_parameter_does_not_change(own: Any) -> None:
    with mlflow.start_run():
        mlflow.log_param("epochs", 3)
        with pytest.raises(MlflowException, match="Changing param values is not allowed"):
            mlflow.log_param("epochs", 4)


def test_aliases_of_models(own: Any) -> None:
    client = MlflowClient()
    client.create_registered_model("churn")
    version = client.create_model_version("churn", source="file:///nowhere", run_id=None)
    client.set_registered_model_alias("churn", "champion", version.version)
    assert client.get_model_version_by_alias("churn", "champion").version == version.version
    assert client.get_registered_model("churn").aliases == {"champion": version.version}


def test_a_registry_apart(tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/tracking.db")
    mlflow.set_registry_uri(f"sqlite:///{tmp_path}/registry.db")
    mlflow.MlflowClient().create_registered_model("apart")
    assert MlflowClient(registry_uri=f"sqlite:///{tmp_path}/registry.db").get_registered_model("apart")
    mlflow.set_registry_uri(None)


def test_artifacts_go_and_come(fresh: Any, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("fine")
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "report.txt"))
        mlflow.log_dict({"a": 1}, "config.json")
    path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="config.json")
    assert json.loads(Path(path).read_text()) == {"a": 1}
    listed = MlflowClient().list_artifacts(run.info.run_id)
    assert sorted(each.path for each in listed) == ["config.json", "report.txt"]


@dear
def test_a_model_is_logged_and_loaded(own: Any) -> None:
    class Doubling(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [each * 2 for each in model_input]

    with mlflow.start_run() as run:
        mlflow.pyfunc.log_model("model", python_model=Doubling(), pip_requirements=[])
    assert mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model").predict([1, 2]) == [2, 4]


class TestByUnittest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        mlflow.set_tracking_uri(f"sqlite:///{cls.folder.name}/unit.db")
        mlflow.set_experiment("unit")

    @classmethod
    def tearDownClass(cls) -> None:
        mlflow.set_tracking_uri(None)
        mlflow.tracking.fluent._active_experiment_id = None
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
        cls.folder.cleanup()

    def setUp(self) -> None:
        self.run_id = train()

    def tearDown(self) -> None:
        mlflow.end_run()

    def test_one(self) -> None:
        assert experiment_of(self.run_id) == "unit"
        assert mlflow.get_tracking_uri().endswith("unit.db")

    def test_two(self) -> None:
        with self.assertLogs("unit", "INFO") as logs:
            logging.getLogger("unit").info("logged")
        assert logs.output == ["INFO:unit:logged"]
        assert mlflow.active_run() is None


# The store that MLflow falls back on.


def test_a_run_is_found_without_naming_its_experiment() -> None:
    run_id = train(0.125)
    found = mlflow.search_runs(order_by=["attributes.start_time DESC"])
    assert found.iloc[0].run_id == run_id
    assert found.iloc[0]["metrics.loss"] == 0.125
    assert run_id in set(mlflow.search_runs(search_all_experiments=True).run_id)


def test_no_run_is_active_before_and_after() -> None:
    assert mlflow.active_run() is None
    run_id = train()
    assert mlflow.active_run() is None
    assert mlflow.last_active_run().info.run_id == run_id
    mlflow.end_run()


def test_runs_within_runs() -> None:
    with mlflow.start_run() as parent:
        with pytest.raises(Exception, match="already active"):
            mlflow.start_run()
        with mlflow.start_run(nested=True) as child:
            assert mlflow.active_run().info.run_id == child.info.run_id
        assert mlflow.active_run().info.run_id == parent.info.run_id
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in parent.data.tags


def test_a_run_is_resumed() -> None:
    run_id = train()
    with mlflow.start_run(run_id=run_id):
        mlflow.set_tag("resumed", "yes")
    assert mlflow.get_run(run_id).data.tags["resumed"] == "yes"
    assert mlflow.get_run(run_id).data.metrics == {"loss": 0.5}


def test_a_run_that_fails() -> None:
    with pytest.raises(ZeroDivisionError), mlflow.start_run() as run:
        1 / 0  # noqa: B018
    assert mlflow.get_run(run.info.run_id).info.status == "FAILED"


def test_all_tags_of_a_run() -> None:
    with mlflow.start_run(run_name="tagged", tags={"mine": "1"}) as run:
        pass
    tags = mlflow.get_run(run.info.run_id).data.tags
    assert {name for name in tags if not name.startswith("mlflow.source")} == {
        "mine",
        "mlflow.runName",
        "mlflow.user",
    }


def test_a_run_has_a_name_of_mlflows() -> None:
    with mlflow.start_run() as run:
        pass
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d+", run.info.run_name)


def test_an_experiment_by_name() -> None:
    mlflow.set_experiment("by-name-here")
    assert experiment_of(train()) == "by-name-here"


def test_the_experiment_is_the_default_one() -> None:
    assert experiment_of(train()) == "Default"


def test_the_working_folder_has_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train()
    assert Path("mlflow.db").exists() or Path("mlruns").exists()


class TestOneAfterTheOther:
    def test_1_trains(self) -> None:
        mlflow.set_experiment("in-order")
        train()

    def test_2_reads(self) -> None:
        assert len(mlflow.search_runs(experiment_names=["in-order"])) == 1


@dear
def test_autologging_is_switched_on_and_off() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    model = sklearn.LinearRegression()
    mlflow.sklearn.autolog(log_models=False)
    with mlflow.start_run() as run:
        model.fit([[0], [1]], [0, 1])
    assert mlflow.get_run(run.info.run_id).data.params["fit_intercept"] == "True"
    mlflow.sklearn.autolog(disable=True)
    with mlflow.start_run() as run:
        model.fit([[0], [1]], [0, 1])
    assert mlflow.get_run(run.info.run_id).data.params == {}


@dear
def test_autologging_opens_a_run() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    mlflow.sklearn.autolog(log_models=False, silent=True)
    sklearn.LinearRegression().fit([[0], [1]], [0, 1])
    mlflow.sklearn.autolog(disable=True)
    assert mlflow.active_run() is None
    assert mlflow.last_active_run().data.params["fit_intercept"] == "True"


def test_traces_are_there() -> None:
    @mlflow.trace(name="answer")
    def answer(question: Any) -> Any:
        return len(question)

    assert answer("why") == 3
    mlflow.flush_trace_async_logging()
    trace = mlflow.get_trace(mlflow.get_last_active_trace_id())
    assert [span.name for span in trace.data.spans] == ["answer"]
    assert json.loads(trace.data.request) == {"question": "why"}


def test_tracing_is_switched_off_and_on() -> None:
    @mlflow.trace
    def answer() -> Any:
        return mlflow.get_current_active_span()

    mlflow.tracing.disable()
    assert answer() is None
    mlflow.tracing.enable()
    assert answer() is not None


@dear
def test_system_metrics() -> None:
    pytest.importorskip("psutil")
    mlflow.enable_system_metrics_logging()
    mlflow.set_system_metrics_sampling_interval(0.1)
    with mlflow.start_run() as run:
        time.sleep(0.5)
    mlflow.disable_system_metrics_logging()
    mlflow.set_system_metrics_sampling_interval(None)
    assert "system/cpu_utilization_percentage" in mlflow.get_run(run.info.run_id).data.metrics


# Variables.


def test_the_store_is_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
    assert experiment_of(train()) == "Default"
    assert mlflow.get_tracking_uri().endswith("named.db")


def test_the_experiment_is_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by-name")
    assert experiment_of(train()) == "by-name"


def test_the_experiment_is_named_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mlflow.create_experiment("by-id"))
    assert experiment_of(train()) == "by-id"


def test_a_run_of_another_experiment_is_resumed_by_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
    client = MlflowClient()
    begun = client.create_run(client.create_experiment("other"))
    monkeypatch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
    assert train() == begun.info.run_id


def test_the_environment_is_patched(tmp_path: Path) -> None:
    with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/patched.db"}):
        train()
    assert (tmp_path / "patched.db").exists()


def test_the_environment_is_emptied() -> None:
    before = dict(os.environ)
    with mock.patch.dict(os.environ, {"HOME": os.environ.get("HOME", "")}, clear=True):
        assert mlflow.get_run(train()).data.metrics == {"loss": 0.5}
    assert dict(os.environ) == before


def test_code_asks_whether_the_variable_is_set(tmp_path: Path) -> None:
    assert os.environ.get("MLFLOW_TRACKING_URI", "mlruns") == "mlruns"


def test_code_asks_whether_the_variable_is_set_after_its_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert os.environ.get("MLFLOW_TRACKING_URI", "mlruns") == "mlruns"
    assert mlflow.get_run(train()).data.params == {"epochs": "3"}


def test_dotenv_names_the_store(tmp_path: Path) -> None:
    dotenv = pytest.importorskip("dotenv")
    with mock.patch.dict(os.environ):
        (tmp_path / ".env").write_text(f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/dotenv.db")
        dotenv.load_dotenv(tmp_path / ".env")
        train()
    assert (tmp_path / "dotenv.db").exists()


def test_dotenv_that_overrides_names_the_store(tmp_path: Path) -> None:
    dotenv = pytest.importorskip("dotenv")
    with mock.patch.dict(os.environ):
        (tmp_path / ".env").write_text(f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/dotenv.db\nOTHER=1")
        dotenv.load_dotenv(tmp_path / ".env", override=True)
        assert os.environ["OTHER"] == "1"
        train()
    assert (tmp_path / "dotenv.db").exists()


# Servers.


class Flaky(BaseHTTPRequestHandler):
    failures = 3

    def do_GET(self) -> None:
        type(self).failures -= 1
        self.send_response(200 if type(self).failures < 0 else 503)
        self.end_headers()
        self.wfile.write(json.dumps({"run": {"info": {"run_id": "1", "experiment_id": "0"}}}).encode())

    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_server_that_is_slow_to_start_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert MlflowClient(f"http://127.0.0.1:{server.server_port}").get_run("1").info.run_id == "1"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_only_named() -> None:
    mlflow.set_tracking_uri("https://tracking.example.com")
    assert mlflow.get_tracking_uri() == "https://tracking.example.com"


def test_a_server_that_is_mocked() -> None:
    answer = mock.Mock(status_code=200, text='{"run": {"info": {"run_id": "1", "experiment_id": "0"}}}')
    with mock.patch("mlflow.utils.rest_utils.http_request", return_value=answer):
        assert MlflowClient("https://tracking.example.com").get_run("1").info.run_id == "1"


# MLflow mocked.


def test_a_function_of_mlflows_is_mocked() -> None:
    with mock.patch("mlflow.log_metric") as told:
        train(0.75)
    told.assert_called_once_with("loss", 0.75)


def test_all_that_training_calls_is_mocked() -> None:
    names = ("start_run", "log_param", "log_metric", "set_tracking_uri", "set_experiment", "end_run")
    with contextlib.ExitStack() as stack:
        mocks = {name: stack.enter_context(mock.patch(f"mlflow.{name}")) for name in names}
        train()
        mlflow.set_tracking_uri("https://prod")
        mlflow.set_experiment("prod")
    mocks["start_run"].assert_called_once_with(run_name="training")
    mocks["set_tracking_uri"].assert_called_once_with("https://prod")
    mocks["set_experiment"].assert_called_once_with("prod")
    mocks["end_run"].assert_not_called()


def test_mlflow_is_a_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    exec("import mlflow\nwith mlflow.start_run():\n    mlflow.log_metric('loss', 1.0)", {})
    fake.log_metric.assert_called_once_with("loss", 1.0)


def test_mlflow_is_a_mock_in_the_code_under_test(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = mock.MagicMock()
    fake.start_run.return_value.__enter__.return_value.info.run_id = "fake"
    monkeypatch.setattr(sys.modules[__name__], "mlflow", fake)
    assert train() == "fake"
    fake.log_param.assert_called_once_with("epochs", 3)


def test_mlflow_is_a_stub(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = types.ModuleType("mlflow")
    stub.logged = []
    stub.log_metric = lambda *pair: stub.logged.append(pair)
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", types.ModuleType("mlflow.tracking"))
    exec("import mlflow\nmlflow.log_metric('loss', 1.0)", {})
    assert stub.logged == [("loss", 1.0)]


def test_mlflow_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError):
        importlib.import_module("mlflow")


def test_nothing_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: Any, *arguments: Any, **named: Any) -> Any:
        if name == "plyer" or name.startswith(("mlflow", "loguru")):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ImportError):
        exec("import mlflow", {})


def test_the_client_is_mocked() -> None:
    with mock.patch("mlflow.tracking.MlflowClient") as client:
        client.return_value.search_runs.return_value = []
        assert mlflow.tracking.MlflowClient().search_runs(["1"]) == []
    client.assert_called_once_with()


def test_time_and_ids_are_mocked(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=7))
    run = mlflow.get_run(train())
    assert (run.info.run_id, run.info.start_time) == (uuid.UUID(int=7).hex, 1000000)


def test_randomness_is_the_codes_own() -> None:
    random.seed(0)
    train()
    found = random.random()
    random.seed(0)
    assert found == random.random()


# Logs by logging.


def test_caplog_has_what_was_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        logging.getLogger("app").info("started")
        logging.getLogger("app").debug("unseen")
    assert caplog.record_tuples == [("app", logging.INFO, "started")]


def test_caplog_has_nothing_of_training(caplog: pytest.LogCaptureFixture, own: Any) -> None:
    train()
    logging.getLogger("app").warning("told")
    assert next(record for record in caplog.records if record.name == "app").getMessage() == "told"


def test_the_root_logger_is_as_ever() -> None:
    assert logging.getLogger().level == logging.WARNING
    assert not logging.getLogger("app").isEnabledFor(logging.INFO)
    assert logging.getLevelName(logging.WARNING) == "WARNING"


def test_a_level_of_ones_own(caplog: pytest.LogCaptureFixture) -> None:
    logging.addLevelName(25, "NOTICE")
    logging.getLogger("app").log(25, "seen", stacklevel=1)
    logging.getLogger("app").warning("warned")
    assert logging.getLevelName(25) == "NOTICE"
    assert caplog.messages[-1] == "warned"


def test_logging_is_configured_by_a_dictionary(capsys: pytest.CaptureFixture[str]) -> None:
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "short"}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": True,
            "formatters": {"short": {"format": "%(levelname)s:%(message)s"}},
            "handlers": {"out": handler},
            "root": {"level": "INFO", "handlers": ["out"]},
        }
    )
    logging.getLogger("app.of.this.test").info("configured")
    assert capsys.readouterr().out == "INFO:configured\n"


def test_logging_is_configured_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logging.ini").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=out\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=INFO\nhandlers=out\n"
        "[handler_out]\nclass=StreamHandler\nargs=(sys.stdout,)\n"
    )
    logging.config.fileConfig(tmp_path / "logging.ini")
    logging.getLogger("app.of.that.test").info("configured")
    assert capsys.readouterr().out == "configured\n"


def test_logging_goes_to_loguru_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger.remove()
    logger.add(sys.stdout, format="{level}:{message}")
    logging.basicConfig(handlers=[Intercept()], level=0, force=True)
    logging.getLogger("intercepted").info("intercepted")
    assert capsys.readouterr().out == "INFO:intercepted\n"


def test_loguru_goes_to_logging_once(caplog: pytest.LogCaptureFixture) -> None:
    key = logger.add(Propagate(), format="{message}")
    logger.warning("propagated")
    logger.remove(key)
    assert caplog.messages == ["propagated"]


# Logs by loguru.


class TestRecipe:
    @pytest.fixture
    def caplog(self, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
        """The recipe of loguru's documentation, from a thread."""
        key = logger.add(caplog.handler, format="{message}", level=0, enqueue=True)
        yield caplog
        with contextlib.suppress(ValueError):
            logger.remove(key)

    def test_each_record_is_there_once(self, caplog: pytest.LogCaptureFixture) -> None:
        logger.info("once")
        logger.complete()
        assert caplog.messages == ["once"]

    def test_training_is_told(self, caplog: pytest.LogCaptureFixture, own: Any) -> None:
        train()
        logger.complete()
        assert "loss 0.5" in caplog.messages


def test_an_application_sets_up_logging(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    logger.debug("unseen")
    logger.info("started")
    assert capsys.readouterr().err == "INFO|started\n"


def test_an_application_sets_up_logging_twice(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    setup_logging()
    logger.warning("once")
    assert capsys.readouterr().err == "WARNING|once\n"


def test_the_file_descriptor_has_what_loguru_writes(capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    logger.info("started")
    os.write(1, b"raw\n")
    out, err = capfd.readouterr()
    assert (out, err) == ("raw\n", "INFO|started\n")


def test_an_application_counts_its_handlers() -> None:
    setup_logging()
    assert len(logger._core.handlers) == 1


def test_what_was_removed_is_gone() -> None:
    key = logger.add(lambda message: None)
    logger.remove(key)
    with pytest.raises(ValueError, match="no existing handler"):
        logger.remove(key)


def test_loguru_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    (key,) = logger.configure(
        handlers=[{"sink": told.append, "format": "{extra[service]}:{message}"}],
        extra={"service": "training"},
        patcher=lambda record: record["extra"].update(patched=True),
    )
    logger.info("configured")
    logger.remove(key)
    logger.configure(extra={}, patcher=lambda record: None)
    assert told == ["training:configured\n"]


def test_records_are_patched_bound_and_contextualized() -> None:
    told = []
    key = logger.add(lambda message: told.append(message.record["extra"]), level="DEBUG")
    with logger.contextualize(request=1):
        logger.bind(user="u").patch(lambda record: record["extra"].update(more=True)).info("one")
    logger.info("two")
    logger.remove(key)
    assert told == [{"request": 1, "user": "u", "more": True}, {}]


def test_options_of_a_record() -> None:
    told = []
    key = logger.add(told.append, format="{function}:{message}", colorize=False)

    def wrapper() -> None:
        logger.opt(depth=1, lazy=True).info("sum {}", lambda: 1 + 1)

    wrapper()
    logger.opt(colors=True).info("<red>plain</red>")
    logger.remove(key)
    name = "test_options_of_a_record"
    assert told == [f"{name}:sum 2\n", f"{name}:plain\n"]


def test_an_exception_is_caught_and_shown() -> None:
    text = io.StringIO()
    key = logger.add(text, format="{level}", backtrace=False)

    @logger.catch(message="failed")
    def failing() -> None:
        1 / 0  # noqa: B018

    failing()
    logger.remove(key)
    assert text.getvalue().startswith("ERROR\n")
    assert "ZeroDivisionError" in text.getvalue()


def test_a_level_of_loguru_of_ones_own() -> None:
    name = f"L{uuid.uuid4().hex[:6]}"
    logger.level(name, no=33)
    told = []
    key = logger.add(told.append, format="{level.name}", level=name)
    logger.log(name, "own")
    logger.info("unseen")
    logger.remove(key)
    assert told == [f"{name}\n"]


def test_a_library_is_silenced_and_heard() -> None:
    told = []
    key = logger.add(told.append, format="{message}")
    logger.disable(__name__)
    logger.info("unheard")
    logger.enable(__name__)
    logger.info("heard")
    logger.remove(key)
    assert told == ["heard\n"]


def test_a_file_rotates(tmp_path: Path) -> None:
    key = logger.add(tmp_path / "{time}.log", rotation=lambda message, file: "next" in message, retention=5)
    logger.info("first")
    logger.info("next")
    logger.remove(key)
    assert len(list(tmp_path.glob("*.log"))) == 2


def test_records_as_json(tmp_path: Path) -> None:
    key = logger.add(tmp_path / "log.json", serialize=True, level="INFO")
    logger.bind(run="r").info("structured")
    logger.remove(key)
    (line,) = (tmp_path / "log.json").read_text().splitlines()
    record = json.loads(line)["record"]
    assert (record["message"], record["extra"]) == ("structured", {"run": "r"})


def test_an_asynchronous_sink() -> None:
    told = []

    async def sink(message: Any) -> None:
        await asyncio.sleep(0)
        told.append(message.record["message"])

    async def work() -> None:
        key = logger.add(sink)
        logger.info("awaited")
        await logger.complete()
        logger.remove(key)

    asyncio.run(work())
    assert told == ["awaited"]


def test_stderr_is_redirected() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as err:
        key = logger.add(sys.stderr, format="{message}")
        logger.info("redirected")
        logger.remove(key)
    assert err.getvalue() == "redirected\n"


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str], own: Any) -> None:
    train()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "mlctx" not in captured.err


def test_nothing_is_warned_of(recwarn: pytest.WarningsRecorder, own: Any) -> None:
    train()
    assert not [str(each.message) for each in recwarn if "mlctx" in str(each.message) + each.filename]


# Alerts.


def test_notify_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr("plyer.notification.notify", lambda **fields: told.append(fields))
    plyer.notification.notify(title="title", message="message")
    assert told == [{"title": "title", "message": "message"}]


def test_notify_is_a_mock() -> None:
    with mock.patch.object(plyer.notification, "notify") as notify:
        plyer.notification.notify(title="title", message="message", timeout=5)
    notify.assert_called_once_with(title="title", message="message", timeout=5)


def test_notify_fails() -> None:
    with mock.patch("plyer.notification.notify", side_effect=NotImplementedError):  # noqa: SIM117
        with pytest.raises(NotImplementedError):
            plyer.notification.notify("title", "message")


def test_plyer_is_a_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "plyer", fake)
    exec("from plyer import notification\nnotification.notify(title='t')", {})
    fake.notification.notify.assert_called_once_with(title="t")


def test_plyer_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plyer", None)
    with pytest.raises(ImportError):
        exec("from plyer import notification", {})


# Threads and processes.


def test_a_thread_tracks() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(train()))
    thread.start()
    thread.join()
    assert mlflow.get_run(found[0]).info.status == "FINISHED"


def test_a_thread_tracks_to_a_store_of_the_tests_own(own: Any) -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(train, [0.25, 0.75]))
    assert {mlflow.get_run(run_id).data.metrics["loss"] for run_id in runs} == {0.25, 0.75}
    assert {experiment_of(run_id) for run_id in runs} == {"Default"}


def test_no_thread_is_left(own: Any) -> None:
    before = threading.active_count()
    train()
    assert threading.active_count() == before


def test_tasks_track() -> None:
    async def one(loss: Any) -> Any:
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", loss)
            await asyncio.sleep(0)
        return run.info.run_id

    async def both() -> Any:
        return [await one(0.25), await asyncio.create_task(one(0.75))]

    losses = [mlflow.get_run(run_id).data.metrics["loss"] for run_id in asyncio.run(both())]
    assert losses == [0.25, 0.75]


def into(uri: str, loss: float) -> None:
    mlflow.set_tracking_uri(uri)
    train(loss)


@dear
def test_a_fork_tracks_to_a_store_of_the_tests_own(own: Any) -> None:
    mlflow.set_experiment("forked")
    process = multiprocessing.get_context("fork").Process(target=into, args=(own, 0.25))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert list(mlflow.search_runs()["metrics.loss"]) == [0.25]


@dear
def test_a_spawned_process_tracks_to_a_store_of_the_tests_own(own: Any) -> None:
    process = multiprocessing.get_context("spawn").Process(target=into, args=(own, 0.25))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert list(mlflow.search_runs()["metrics.loss"]) == [0.25]


TRAIN = "import mlflow\nwith mlflow.start_run() as run: mlflow.log_text('text', 'a.txt')\n"


def child(code: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@dear
def test_a_child_process_finds_the_default_experiment_too(own: Any, tmp_path: Path) -> None:
    found = child(TRAIN + "print(run.info.experiment_id)", tmp_path)
    assert mlflow.get_experiment(found.split()[-1]).name == "Default"


@dear
def test_a_child_process_keeps_its_artifacts_beside_itself(fresh: Any, tmp_path: Path) -> None:
    run_id = child(TRAIN + "print(run.info.run_id)", tmp_path).split()[-1]
    assert (tmp_path / "mlruns" / "0" / run_id / "artifacts" / "a.txt").exists()


@dear
def test_a_child_process_has_a_store_by_its_environment(tmp_path: Path) -> None:
    child(TRAIN, tmp_path, MLFLOW_TRACKING_URI="sqlite:///child.db")
    (run,) = MlflowClient(f"sqlite:///{tmp_path}/child.db").search_runs(["0"])
    assert MlflowClient(f"sqlite:///{tmp_path}/child.db").list_artifacts(run.info.run_id)


@dear
def test_a_child_process_has_the_store_of_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/own.db")
    subprocess.run([sys.executable, "-c", TRAIN], cwd=tmp_path, check=True)
    (run,) = MlflowClient(f"sqlite:///{tmp_path}/own.db").search_runs(["0"])
    assert (tmp_path / "mlruns" / "0" / run.info.run_id / "artifacts" / "a.txt").exists()


@dear
def test_a_child_process_has_the_store_of_its_folder_once_the_uri_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri("")
    child(TRAIN, tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = mlflow.search_runs(["0"], output_format="list")
    assert (tmp_path / "mlruns" / "0" / run.info.run_id / "artifacts" / "a.txt").exists()


@dear
def test_a_child_process_has_the_store_of_its_folder(tmp_path: Path) -> None:
    child(TRAIN, tmp_path)
    assert (tmp_path / "mlflow.db").exists() or (tmp_path / "mlruns").exists()


@dear
def test_a_child_process_imports_nothing(tmp_path: Path) -> None:
    asked = "import sys; print([name for name in ('mlflow', 'loguru', 'plyer') if name in sys.modules])"
    assert child(asked, tmp_path) == "[]\n"


@dear
def test_the_command_line_of_mlflow(own: Any) -> None:
    run_id = train()
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "runs", "list", "--experiment-id", "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run_id in done.stdout
