"""MlflowService against real stores: its fields, its runs, and that MLflow is as it was afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from loguru import logger
from mlflow.entities import ViewType
from pydantic import ValidationError
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from pytest_mlctx.services import LoggerService, MlflowService, RunConfig, ServiceError, state, store
from pytest_mlctx.services.state import mlflow_stores

MLFLOW_3 = int(mlflow.__version__.partition(".")[0]) >= 3
LIBRARIES: tuple[state.Library, ...] = ("mlflow", "environment", "logging", "loguru")
Make = Callable[..., MlflowService]

pytestmark = pytest.mark.usefixtures("given_back")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[store.Store]:
    """A store for all tests that need no other: it opens quickly."""
    shared = store.Store(tmp_path_factory.mktemp("shared") / "mlflow.db")
    yield shared
    shared.close()


@pytest.fixture
def make(shared: store.Store, request: pytest.FixtureRequest) -> Make:
    """A service on the shared store, with an experiment for this test alone."""

    def make(**fields: Any) -> MlflowService:
        defaults = {
            "tracking_uri": shared.uri,
            "experiment_name": request.node.name,
            "autolog_disable": True,
        }
        return MlflowService(**{**defaults, **fields})

    return make


@pytest.fixture
def messages() -> Iterator[list[str]]:
    taken: list[str] = []
    handler = logger.add(lambda message: taken.append(message.record["message"]), level="INFO")
    yield taken
    logger.remove(handler)


def runs_of(service: MlflowService) -> list[Any]:
    with service:
        client = service.client()
        experiment = client.get_experiment_by_name(service.experiment_name)
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL))


def test_the_fields_and_their_defaults() -> None:
    assert MlflowService().model_dump() == {
        "tracking_uri": "sqlite:///mlflow.db",
        "registry_uri": "sqlite:///mlflow.db",
        "experiment_name": "default",
        "registry_name": "default",
        "autolog_disable": False,
        "autolog_disable_for_unsupported_versions": False,
        "autolog_exclusive": False,
        "autolog_log_input_examples": True,
        "autolog_log_model_signatures": True,
        "autolog_log_models": False,
        "autolog_log_datasets": False,
        "autolog_silent": False,
    }
    assert MlflowService(registry_uri="mlruns").registry_uri == "mlruns"
    assert MlflowService(tracking_uri="mlruns", registry_uri=None).registry_uri == "mlruns"
    assert MlflowService(tracking_uri="mlruns", registry_uri="").registry_uri == "mlruns"


@pytest.mark.criterion("tracking URI and experiment are set on start")
def test_the_stores_and_the_experiment_hold_while_it_runs(make: Make, tmp_path: Path) -> None:
    service = make(registry_uri=f"sqlite:///{tmp_path}/registry.db", experiment_name="training")
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), os.environ.get("MLFLOW_TRACKING_URI"))
    with service:
        assert mlflow.get_tracking_uri() == service.tracking_uri == os.environ["MLFLOW_TRACKING_URI"]
        assert mlflow.get_registry_uri() == service.registry_uri == os.environ["MLFLOW_REGISTRY_URI"]
        with mlflow.start_run() as run:
            pass
        assert mlflow.get_experiment(run.info.experiment_id).name == "training"
    assert (
        mlflow.get_tracking_uri(),
        mlflow.get_registry_uri(),
        os.environ.get("MLFLOW_TRACKING_URI"),
    ) == before


def test_an_experiment_of_any_name(make: Make) -> None:
    names = ["🦊 größer", 'it\'s "quoted"', "100%", "%41", "a#b?c&d=e", "x" * 250, " padded ", "../up", "0"]
    for name in names * 2:
        with make(experiment_name=name), mlflow.start_run():
            mlflow.log_text("text", "note.txt")
    assert [len(runs_of(make(experiment_name=name))) for name in names] == [2] * len(names)


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "two\rlines"])
def test_an_experiment_without_a_proper_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="experiment_name") as caught:
        MlflowService(experiment_name=name)
    assert f"{name!r} is not the name of an experiment: give one line that is not blank" in str(caught.value)


def test_a_deleted_experiment_is_one_sentence(make: Make) -> None:
    service = make(experiment_name="gone")
    with service:
        experiment = mlflow.get_experiment_by_name("gone")
        assert experiment is not None
        mlflow.delete_experiment(experiment.experiment_id)
    refused(
        service,
        "MlflowService.experiment_name 'gone' was deleted in this store: restore it "
        f"(`mlflow experiments restore -x {experiment.experiment_id}`) or choose another.",
    )


def refused(service: MlflowService, sentence: str) -> None:
    """Starting ends with this sentence, within 5 s, and changes nothing."""
    before = state.capture(*LIBRARIES)
    began = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        service.start()
    assert time.monotonic() - began < 5
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not service.running
    assert state.compare(before, state.capture(*LIBRARIES)) == []


@pytest.mark.parametrize(
    "folder", ["with space", "#1", "größer ☂"] + (["100%", "what?"] if os.name == "posix" else [])
)
@pytest.mark.parametrize("form", ["path", "file"])
def test_a_file_store(tmp_path: Path, folder: str, form: str) -> None:
    path = tmp_path / folder / "mlruns"
    service = MlflowService(
        tracking_uri=str(path) if form == "path" else path.as_uri(),
        experiment_name="files",
        autolog_disable=True,
    )
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    with service:
        assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"
        with service.run_context(RunConfig(name="train", log_system_metrics=False)):
            mlflow.log_metric("loss", 0.5)
            mlflow.log_text("text", "note.txt")
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    assert [file.name for file in path.rglob("note.txt")] == ["note.txt"]
    assert list(Path.cwd().iterdir()) == []


def test_a_path_that_mlflow_would_decode_is_refused_and_works_as_a_uri(tmp_path: Path) -> None:
    path = tmp_path / "%41" / "mlruns"
    refused(MlflowService(tracking_uri=str(path)), f"would decode: write it as {path.as_uri()!r}.")
    with MlflowService(tracking_uri=path.as_uri(), autolog_disable=True), mlflow.start_run():
        mlflow.log_text("text", "note.txt")
    assert [file.name for file in path.rglob("note.txt")] == ["note.txt"]


def test_only_a_file_store_of_its_own_allows_the_file_store(make: Make, tmp_path: Path) -> None:
    with make():
        assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
        if MLFLOW_3:
            mlflow.set_tracking_uri(str(tmp_path / "mlruns"))
            with pytest.raises(mlflow.MlflowException, match="MLFLOW_ALLOW_FILE_STORE"):
                mlflow.start_run()
    with make(registry_uri=str(tmp_path / "registry")):
        assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"


def test_artifacts_lie_beside_the_database_wherever_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = MlflowService(autolog_disable=True)  # sqlite:///mlflow.db, of the working folder
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    home = Path.cwd()
    with service:
        with mlflow.start_run():
            mlflow.log_text("first", "one.txt")
        monkeypatch.chdir(elsewhere)
        mlflow.set_experiment("another")
        with mlflow.start_run():
            mlflow.log_text("second", "two.txt")
        assert len(mlflow.search_runs(search_all_experiments=True)) == 2
    assert list(elsewhere.iterdir()) == []
    assert sorted(path.name for path in home.iterdir()) == ["mlartifacts", "mlflow.db"]
    assert sorted(path.name for path in (home / "mlartifacts").rglob("*.txt")) == ["one.txt", "two.txt"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("UPDATE alembic_version SET version_num = 'ffffffffffff'", "was made by another MLflow than"),
        ("DROP TABLE alembic_version", "was made by another MLflow than"),
    ],
)
def test_a_store_of_another_mlflow_is_one_sentence(
    make: Make, tmp_path: Path, content: str, sentence: str
) -> None:
    service = make(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    with service:
        pass
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute(content)
    connection.commit()
    connection.close()
    refused(
        service,
        f"MlflowService.tracking_uri {service.tracking_uri!r} {sentence} {mlflow.__version__}: back it up",
    )


def test_what_is_no_store_is_one_sentence_and_leaves_nothing(make: Make, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("only text, and long enough not to be taken for an empty file" * 9)
    refused(make(tracking_uri=f"sqlite:///{tmp_path}/notes.txt"), "is no SQLite database")
    refused(make(tracking_uri="sqlitte:///x.db"), "did you mean 'sqlite:'?")
    refused(make(tracking_uri=f"sqlite:///{tmp_path}/a?b.db"), "has a '?' or a '%' escape")
    refused(make(registry_uri=f"sqlite:///{tmp_path}/notes.txt"), "MlflowService.registry_uri 'sqlite:///")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "work"]
    assert list(Path.cwd().iterdir()) == []


def fitted() -> None:
    features, progression = load_diabetes(return_X_y=True, as_frame=True)
    LinearRegression(positive=True).fit(features, progression)


def logged_models(service: MlflowService) -> list[Path]:
    with service:
        experiment = service.client().get_experiment_by_name(service.experiment_name)
        assert experiment is not None
        return list(Path(experiment.artifact_location).rglob("MLmodel"))


@pytest.mark.criterion("logging and registry settings function as intended")
def test_autologging_is_on_by_default_and_off_where_disabled(make: Make) -> None:
    service = make(autolog_disable=False)
    with service:
        fitted()
    assert len(runs_of(service)) == 1
    assert runs_of(service)[0].data.params["positive"] == "True"
    assert logged_models(service) == []
    with service, make(autolog_disable=True):
        fitted()
    fitted()
    assert len(runs_of(service)) == 1


def test_autologging_exclusive_stays_out_of_the_users_runs(make: Make) -> None:
    for exclusive in (True, False):
        service = make(autolog_disable=False, autolog_exclusive=exclusive, experiment_name=f"x {exclusive}")
        with service, mlflow.start_run(run_name="users"):
            fitted()
        (users,) = (run for run in runs_of(service) if run.info.run_name == "users")
        assert ("positive" in users.data.params) is not exclusive


def test_autologging_of_models_examples_and_signatures(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # What MLflow infers of a model is not this test's matter, and takes seconds.
    monkeypatch.setattr("mlflow.utils.environment._infer_requirements", lambda *_, **__: ["scikit-learn"])
    seen = []
    for example, signature in itertools.product((True, False), repeat=2):
        service = make(
            autolog_disable=False,
            autolog_log_models=True,
            autolog_log_input_examples=example,
            autolog_log_model_signatures=signature,
            experiment_name=f"{example} {signature}",
        )
        with service:
            fitted()
        (path,) = logged_models(service)
        model = mlflow.models.Model.load(path)
        seen.append((model.saved_input_example_info is not None, model.signature is not None))
    assert seen == [
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    ]


def test_autologging_of_datasets(make: Make) -> None:
    for datasets in (True, False):
        service = make(autolog_disable=False, autolog_log_datasets=datasets, experiment_name=str(datasets))
        with service:
            fitted()
        assert bool(runs_of(service)[0].inputs.dataset_inputs) is datasets


def test_autologging_of_unsupported_versions(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn

    monkeypatch.setattr(sklearn, "__version__", "0.1")
    for number, unsupported in enumerate((True, False)):
        service = make(autolog_disable=False, autolog_disable_for_unsupported_versions=unsupported)
        with service:
            fitted()
        assert len(runs_of(service)) == number


def test_autologging_in_silence(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sklearn

    monkeypatch.setattr(sklearn, "__version__", "0.1")  # MLflow warns of it
    shown = {}
    for silent in (True, False):
        with make(autolog_disable=False, autolog_silent=silent):
            fitted()
        captured = capsys.readouterr()
        shown[silent] = "sklearn" in captured.out + captured.err
    assert shown == {True: False, False: True}


@pytest.mark.criterion("a block logs the start and end of a run")
def test_a_run_is_logged_with_id_status_and_duration(make: Make, messages: list[str]) -> None:
    with make() as service:
        with service.run_context(RunConfig(name="train", log_system_metrics=False)) as run:
            assert mlflow.active_run() is run
            time.sleep(0.05)
        assert mlflow.active_run() is None
    told = [message for message in messages if message.startswith("MLflow run")]
    assert told[0] == f"MLflow run train ({run.info.run_id}) started"
    prefix, _, duration = told[1].rpartition(", ")
    assert prefix == f"MLflow run train ({run.info.run_id}) ended: FINISHED"
    assert 0.05 <= float(duration.removesuffix(" s")) < 5
    assert len(told) == 2
    assert runs_of(service)[0].info.status == "FINISHED"


@pytest.mark.criterion("name, tags and description are logged")
def test_a_run_gets_name_description_and_tags_of_any_type(make: Make) -> None:
    tags = {
        "k": 5,
        "ratio": 0.5,
        "flag": True,
        "none": None,
        "list": [1, "a"],
        "text": "größer 🦊",
        "dict": {"a": 1},
    }
    with make() as service:
        config = service.RunConfig(
            name="train #1", description="of a *model*", tags=tags, log_system_metrics=False
        )
        with service.run_context(config) as run:
            pass
        stored = service.client().get_run(run.info.run_id)
    assert stored.info.run_name == "train #1"
    assert stored.data.tags["mlflow.note.content"] == "of a *model*"
    assert {key: stored.data.tags[key] for key in tags} == {key: str(value) for key, value in tags.items()}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError, "FAILED"),
        (KeyboardInterrupt, "KILLED"),
        (SystemExit, "FAILED"),
        (GeneratorExit, "FAILED"),
    ],
)
def test_a_run_ends_as_its_block_does(
    make: Make, messages: list[str], error: type[BaseException], status: str
) -> None:
    service = make()
    with service:
        with pytest.raises(error), service.run_context(RunConfig(name="train", log_system_metrics=False)):
            raise error
        assert mlflow.active_run() is None
    assert [run.info.status for run in runs_of(service)] == [status]
    assert any(f"ended: {status}, " in message for message in messages)


def test_runs_nest_and_those_left_open_within_end_with_the_block(make: Make) -> None:
    service = make()
    config = RunConfig(name="outer", log_system_metrics=False)

    def fail() -> None:
        with service.run_context(config):
            mlflow.start_run(nested=True, run_name="left open, too")
            raise LookupError

    with service, mlflow.start_run(run_name="users") as users:
        with service.run_context(config) as outer:
            with service.run_context(RunConfig(name="inner", log_system_metrics=False)) as inner:
                pass
            left = mlflow.start_run(nested=True, run_name="left open")
        assert mlflow.active_run() is users
        with pytest.raises(LookupError):
            fail()
        assert mlflow.active_run() is users
    stored = {run.info.run_name: run for run in runs_of(service)}
    parents = {
        name: run.data.tags.get("mlflow.parentRunId") for name, run in stored.items() if name != "outer"
    }
    assert parents["inner"] == parents["left open"] == outer.info.run_id
    assert outer.data.tags["mlflow.parentRunId"] == users.info.run_id
    assert inner.info.run_id != left.info.run_id
    assert stored["left open"].info.status == "FINISHED"
    assert stored["left open, too"].info.status == "FAILED"
    assert all(run.info.status != "RUNNING" for run in stored.values())


def test_a_block_may_end_its_run_itself(make: Make, messages: list[str]) -> None:
    service = make()
    with service, mlflow.start_run() as users:
        with service.run_context(RunConfig(name="train", log_system_metrics=False)):
            mlflow.end_run("KILLED")
        assert mlflow.active_run() is users
    assert sorted(run.info.status for run in runs_of(service)) == ["FINISHED", "KILLED"]
    assert any("ended: KILLED, " in message for message in messages)


def test_a_run_needs_a_running_service(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServiceError, match="No MlflowService is running: call its start"):
        make().run_context(RunConfig(name="train")).__enter__()
    assert not (tmp_path / "mlflow.db").exists()


def test_a_handler_that_fails_leaves_no_run_open(make: Make) -> None:
    def refuse(message: Any) -> None:
        if "started" in message and "MLflow run" in message:
            raise OSError("no space left")

    service = make()
    with service:
        handler = logger.add(refuse, catch=False, format="{message}")
        with pytest.raises(OSError, match="no space left"):
            service.run_context(RunConfig(name="train", log_system_metrics=False)).__enter__()
        logger.remove(handler)
        assert mlflow.active_run() is None
    assert [run.info.status for run in runs_of(service)] == ["FAILED"]


def test_a_run_within_that_cannot_be_ended_keeps_no_other_open(make: Make) -> None:
    service = make()
    with service:
        with pytest.raises(mlflow.MlflowException, match="deleted"):
            delete_within(service)
        assert mlflow.active_run() is None
    # The deleted one keeps the status that it was deleted with.
    assert sorted(run.info.status for run in runs_of(service)) == ["FINISHED", "RUNNING"]


def delete_within(service: MlflowService) -> None:
    with service.run_context(RunConfig(name="train", log_system_metrics=False)):
        service.client().delete_run(mlflow.start_run(nested=True).info.run_id)


def test_threads_that_share_a_running_service_stop_it_each_for_itself(make: Make) -> None:
    service = make()
    other_runs, other_is_done = threading.Event(), threading.Event()
    active: list[bool] = []

    def job() -> None:
        with service, service.run_context(RunConfig(name="job", log_system_metrics=False)) as run:
            other_runs.set()
            other_is_done.wait(10)
            active.append(mlflow.active_run() is run)
            mlflow.log_metric("loss", 0.5)

    with service:
        with service:  # started before the other thread starts it
            thread = threading.Thread(target=job)
            thread.start()
            other_runs.wait(10)
        with service:
            pass
        other_is_done.set()
        thread.join()
        assert service.running
    assert active == [True]
    assert [(run.info.status, run.data.metrics) for run in runs_of(service)] == [("FINISHED", {"loss": 0.5})]


def test_traces_are_exported_before_the_store_is_closed(make: Make, tmp_path: Path) -> None:
    service = make(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    with service:
        mlflow.trace(lambda: 1, name="work")()
    assert not any(str(tmp_path) in uri for engines in engine_maps() for uri in engines)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM trace_info").fetchone() == (1,)


def engine_maps() -> list[dict[str, Any]]:
    return [*mlflow_stores.engines().values()]


def test_the_blocks_own_error_is_the_one_that_is_seen(
    make: Make, tmp_path: Path, messages: list[str]
) -> None:
    service = make(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")

    def alter(statement: str) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
            connection.execute(statement)

    def fail() -> None:
        with service.run_context(RunConfig(name="train", log_system_metrics=False)):
            alter("ALTER TABLE runs RENAME TO away")  # the store fails from now on
            raise KeyboardInterrupt

    with service:
        with pytest.raises(KeyboardInterrupt):
            fail()
        alter("ALTER TABLE away RENAME TO runs")
    assert any("could not be ended: " in message for message in messages)


@pytest.mark.parametrize("wanted", [True, False])
def test_system_metrics_are_sampled_as_asked(
    make: Make, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    service = make()
    with service, service.run_context(RunConfig(name="train", log_system_metrics=wanted)):
        deadline = time.monotonic() + 10
        while wanted and time.monotonic() < deadline and not runs_of(service)[0].data.metrics:
            time.sleep(0.05)
    names = runs_of(service)[0].data.metrics
    assert any(name.startswith("system/cpu") for name in names) is wanted
    assert not any("SystemMetricsMonitor" in thread.name for thread in threading.enumerate())


def test_by_default_system_metrics_are_sampled() -> None:
    assert RunConfig(name="train").model_dump() == {
        "name": "train",
        "description": None,
        "tags": None,
        "log_system_metrics": True,
    }
    for wrong in ({}, {"name": 3}, {"name": "x", "tag": {}}, {"name": "x", "tags": {1: "a"}}):
        with pytest.raises(ValidationError):
            RunConfig(**wrong)


def test_a_model_version_is_registered_in_the_registry_alone(make: Make, tmp_path: Path) -> None:
    tracking_uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry_uri = f"sqlite:///{tmp_path}/registry.db"
    service = make(tracking_uri=tracking_uri, registry_uri=registry_uri, registry_name="it's a 🦊 model")
    features, progression = load_diabetes(return_X_y=True)
    with service:
        assert service.client().search_registered_models() == []
        with service.run_context(RunConfig(name="train", log_system_metrics=False)):
            logged = mlflow.sklearn.log_model(
                LinearRegression().fit(features, progression),
                "model",
                pip_requirements=[],
                serialization_format="cloudpickle",
            )
            version = mlflow.register_model(logged.model_uri, service.registry_name)
        assert str(version.version) == "1"
        found = service.client().get_model_version(service.registry_name, "1")
        assert found.run_id == runs_of(service)[0].info.run_id
        loaded = mlflow.sklearn.load_model(f"models:/{service.registry_name}/1")
        assert loaded.predict(features[:1]).round().tolist() == [206]
    rows = {
        name: sqlite3.connect(tmp_path / name).execute("SELECT count(*) FROM model_versions").fetchone()[0]
        for name in ("mlflow.db", "registry.db")
    }
    assert rows == {"mlflow.db": 0, "registry.db": 1}
    assert list(Path.cwd().iterdir()) == []


def test_the_client_is_the_services_own_running_or_not(make: Make, tmp_path: Path) -> None:
    one, other = make(), make(tracking_uri=f"sqlite:///{tmp_path}/other.db")
    with one, mlflow.start_run():
        pass
    with other:
        experiment = one.client().get_experiment_by_name(one.experiment_name)
        assert experiment is not None
        assert len(one.client().search_runs([experiment.experiment_id])) == 1
        assert other.client().tracking_uri == other.tracking_uri
        assert runs_of(other) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_services_nest_and_stop_in_any_order(make: Make, tmp_path: Path, order: tuple[int, ...]) -> None:
    before = state.capture(*LIBRARIES)
    services = [
        make(),
        LoggerService(sink=str(tmp_path / "log")),
        make(tracking_uri=f"sqlite:///{tmp_path}/inner.db", autolog_disable=False),
    ]
    for service in services:
        service.start()
    assert mlflow.get_tracking_uri() == MlflowService.current().tracking_uri == services[2].tracking_uri  # type: ignore[attr-defined]
    for number in order:
        services[number].stop()
        if any(isinstance(service, MlflowService) and service.running for service in services):
            assert mlflow.get_tracking_uri() == MlflowService.current().tracking_uri
    assert state.compare(before, state.capture(*LIBRARIES)) == []


def test_a_job_starts_and_stops_the_running_service_of_its_suite(make: Make) -> None:
    service = make()
    with service:
        with mlflow.start_run(run_name="suites") as suites:
            held = state.capture(*LIBRARIES)
            with service, service.run_context(RunConfig(name="job", log_system_metrics=False)):
                mlflow.set_experiment("the job's")
                mlflow.autolog()
            assert state.compare(held, state.capture(*LIBRARIES)) == []
            assert mlflow.active_run() is suites
            assert service.running
        assert mlflow.get_tracking_uri() == service.tracking_uri
    assert sorted(run.info.run_name for run in runs_of(service)) == ["job", "suites"]


def test_what_the_user_had_before_is_there_again(make: Make, tmp_path: Path) -> None:
    mine = f"sqlite:///{tmp_path}/mine.db"
    with make(tracking_uri=mine, experiment_name="mine") as users:
        with mlflow.start_run() as run:
            mlflow.tracing.disable()
            with make(autolog_disable=False):
                mlflow.tracing.enable()
                assert mlflow.get_tracking_uri() != mine
            assert mlflow.get_tracking_uri() == mine == os.environ["MLFLOW_TRACKING_URI"]
            assert mlflow.active_run() is run
            mlflow.log_param("still", "mine")
            mlflow.tracing.enable()
        fitted()
    assert len(runs_of(users)) == 1


class Broken(MlflowService):
    """Fails when it has changed everything."""

    def _apply(self) -> None:
        super()._apply()
        mlflow.start_run(nested=True)
        raise ServiceError("halfway")


def test_a_start_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    service = Broken(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    refused(service, "halfway")
    assert mlflow.active_run() is None
    service.stop()


def test_the_audit_shows_no_credentials(messages: list[str], tmp_path: Path) -> None:
    service = MlflowService(
        tracking_uri="https://ada:hunter2@127.0.0.1:9/path", registry_uri=f"sqlite:///{tmp_path}/registry.db"
    )
    refused(
        service,
        "MlflowService.tracking_uri 'https://***@127.0.0.1:9/path' cannot be reached (Connection refused)",
    )
    assert "hunter2" not in "".join(messages)


def test_the_current_service_is_seen_from_any_thread(make: Make) -> None:
    seen: list[MlflowService] = []
    with make() as service:
        thread = threading.Thread(target=lambda: seen.append(MlflowService.current()))
        thread.start()
        thread.join()
    assert seen[0] is service
    assert sys.exc_info() == (None, None, None)


@pytest.mark.parametrize(
    ("name", "told"),
    [("x" * 600, "'xxxxxxxxxxxxxxxxxxxx…' has 600 characters"), ("\udcff", "write .* in UTF-8")],
)
def test_a_name_that_no_store_can_keep_is_named(name: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MlflowService(experiment_name=name)
