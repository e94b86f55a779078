"""MlflowService and servers: a real one of MLflow's, and those that refuse, hang, drip or err."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from servers import Listener, answering, close, drip, hang
from sklearn.linear_model import LinearRegression

from pytest_mlctx.services import MlflowService, RunConfig, ServiceError, state, uris

LIBRARIES: tuple[state.Library, ...] = ("mlflow", "environment", "logging", "loguru")
NO_METRICS = {"log_system_metrics": False}


@pytest.fixture(autouse=True)
def nothing_written(given_back: Path) -> Iterator[None]:
    yield
    assert list(given_back.iterdir()) == []


def service(url: str, **fields: Any) -> MlflowService:
    return MlflowService(**{"tracking_uri": url, "autolog_disable": True, **fields})


def test_runs_artifacts_and_models_on_a_server(server_url: str) -> None:
    with service(server_url, experiment_name="it's 100% 🦊", registry_name="served #1") as running:
        with running.run_context(RunConfig(name="train", tags={"k": 1}, **NO_METRICS)) as run:
            mlflow.log_metric("loss", 0.5)
            mlflow.log_text("text", "note.txt")
            model = LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0])
            logged = mlflow.sklearn.log_model(
                model, "model", pip_requirements=[], serialization_format="cloudpickle"
            )
            mlflow.register_model(logged.model_uri, running.registry_name)
        stored = running.client().get_run(run.info.run_id)
        assert stored.info.status == "FINISHED"
        assert stored.data.metrics == {"loss": 0.5}
        assert stored.info.artifact_uri.startswith("mlflow-artifacts:/")
        assert mlflow.artifacts.load_text(f"{stored.info.artifact_uri}/note.txt") == "text"
        loaded = mlflow.sklearn.load_model(f"models:/{running.registry_name}/1")
        assert loaded.predict([[3.0]]).round(6).tolist() == [6.0]
        assert mlflow.get_experiment(run.info.experiment_id).name == "it's 100% 🦊"


def test_a_registry_apart_from_the_server(server_url: str, tmp_path: Path) -> None:
    registry = f"sqlite:///{tmp_path}/registry.db"
    with service(server_url, registry_uri=registry, experiment_name="apart") as running:
        running.client().create_registered_model("apart")
        assert [model.name for model in running.client().search_registered_models()] == ["apart"]
        assert "apart" not in [
            model.name for model in mlflow.MlflowClient(server_url, server_url).search_registered_models()
        ]


def test_the_retries_of_a_job_are_its_own(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "6")
    with service(server_url):
        settings = {name for name in os.environ if name.startswith("MLFLOW_HTTP_")}
        assert settings == {"MLFLOW_HTTP_REQUEST_MAX_RETRIES"}
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "6"


def test_a_deleted_experiment_on_a_server_is_one_sentence(server_url: str) -> None:
    with service(server_url, experiment_name="gone"):
        experiment = mlflow.get_experiment_by_name("gone")
        assert experiment is not None
        mlflow.delete_experiment(experiment.experiment_id)
    with pytest.raises(
        ServiceError, match=r"experiment_name 'gone' was deleted in this store: restore it \("
    ):
        service(server_url, experiment_name="gone").start()


def refused(tracking_uri: str, sentence: str) -> None:
    """Starting ends with this sentence, within 5 s, shows no credentials and changes nothing."""
    before = state.capture(*LIBRARIES)
    began = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        service(tracking_uri).start()
    assert time.monotonic() - began < 5
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert state.compare(before, state.capture(*LIBRARIES)) == []


ERROR = '{"error_code": "INTERNAL_ERROR", "message": "for https://ada:hunter2@db"}'


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (hang, "gave no answer within 4.5 s: check that the server is up and reachable."),
        (drip, "gave no answer within 4.5 s: check that the server is up and reachable."),
        (close, "cannot be reached"),
        (
            answering("401 Unauthorized", "no"),
            "answers 401, not authorised: set MLFLOW_TRACKING_USERNAME and",
        ),
        (answering("403 Forbidden", "{}"), "answers 403, not authorised"),
        (answering("500 Internal Server Error", ERROR), "answers HTTP 500: check that an MLflow server"),
        (answering("503 Service Unavailable", "", more="Retry-After: 60\r\n"), "answers HTTP 503"),
        (answering("429 Too Many Requests", "", more="Retry-After: 60\r\n"), "answers HTTP 429"),
        (
            answering("200 OK", "<html>Welcome</html>", "text/html"),
            "answers with a page that is not MLflow's API",
        ),
        (
            answering("404 Not Found", "<html>nginx</html>", "text/html"),
            "answers with a page that is not MLflow's",
        ),
        (answering("200 OK", '{"status": "up"}'), "answers with a page that is not MLflow's API"),
        (answering("404 Not Found", '{"detail": "Not Found"}'), "answers with a page that is not MLflow's"),
        (answering("302 Found", "", more="Location: /\r\n"), "cannot be reached"),
    ],
    ids=[
        "hang",
        "drip",
        "close",
        "401",
        "403",
        "500",
        "503",
        "429",
        "page",
        "page-404",
        "json",
        "json-404",
        "loop",
    ],
)
def test_a_server_that_is_of_no_use_is_one_sentence(
    answer: Callable[[socket.socket], None], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is hang:
        monkeypatch.setattr(uris, "DEADLINE", 1.5)
        sentence = sentence.replace("4.5", "1.5")
    with Listener(answer) as listener:
        refused(f"http://ada:hunter2@127.0.0.1:{listener.port}", sentence)
        assert all(b"hunter2" not in request for request in listener.requests)
        if "loop" not in os.environ["PYTEST_CURRENT_TEST"]:
            assert len(listener.requests) == 1


def test_a_server_that_hangs_when_it_is_to_make_the_experiment_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uris, "DEADLINE", 1.5)

    def answer(connection: socket.socket) -> None:
        if listener.requests[-1].startswith(b"GET"):
            answering("404 Not Found", '{"error_code": "RESOURCE_DOES_NOT_EXIST"}')(connection)

    with Listener(answer) as listener:
        refused(f"http://ada:hunter2@127.0.0.1:{listener.port}", "(gave up after 1.5 s): see to that store")


def test_unity_catalogs_own_server_is_asked_nothing(tmp_path: Path) -> None:
    with Listener(hang) as listener:
        with service(f"sqlite:///{tmp_path}/mlflow.db", registry_uri=f"uc:{listener.url}"):
            pass
        assert listener.requests == []


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    refused(
        f"http://ada:hunter2@127.0.0.1:{port}",
        f"MlflowService.tracking_uri 'http://***@127.0.0.1:{port}' cannot be reached (Connection refused): "
        "check the address and that the server is up.",
    )


def test_a_name_that_does_not_resolve_is_one_sentence() -> None:
    refused("https://ada:hunter2@mlflow.invalid", "'https://***@mlflow.invalid' cannot be reached (")


def test_a_registry_that_is_away_is_told_by_its_own_field(tmp_path: Path) -> None:
    with Listener(answering("500 Internal Server Error", ERROR)) as listener:
        apart = service(f"sqlite:///{tmp_path}/mlflow.db", registry_uri=listener.url)
        with pytest.raises(ServiceError, match=r"MlflowService\.registry_uri 'http://.*' answers HTTP 500"):
            apart.start()


def test_the_question_is_about_the_services_own_experiment() -> None:
    with Listener(answering("403 Forbidden", "{}")) as listener:
        with pytest.raises(ServiceError):
            service(listener.url, experiment_name="team a").start()
        (request,) = listener.requests
    assert b"experiment_name=team+a" in request.splitlines()[0]


def test_databricks_is_asked_once_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uris, "DEADLINE", 1.5)
    monkeypatch.setenv("HOME", str(tmp_path))  # no profile
    monkeypatch.setenv("DATABRICKS_TOKEN", "hunter2")
    with Listener(hang) as listener:
        monkeypatch.setenv("DATABRICKS_HOST", listener.url)
        refused("databricks", "MlflowService.tracking_uri 'databricks' gave no answer within 1.5 s")
