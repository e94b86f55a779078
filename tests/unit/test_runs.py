"""Runs of every origin get their tags; the test's own run leaves the active ones and is closed later."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from sklearn.linear_model import LinearRegression

from pytest_mlctx.services import MlflowService, runs, state, store

LIBRARIES: tuple[state.Library, ...] = ("mlflow", "environment", "logging", "loguru")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MlflowService]:
    home = Path.cwd()
    os.chdir(tmp_path)
    before = state.capture(*LIBRARIES)
    own = store.Store(tmp_path / "mlflow.db")
    with MlflowService(tracking_uri=own.uri, autolog_disable=True) as service:
        yield service
    left = state.compare(before, state.capture(*LIBRARIES))
    state.restore(before)
    own.close()
    os.chdir(home)
    assert left == []


def test_runs_of_every_origin_are_tagged_and_explicit_tags_win(service: MlflowService) -> None:
    asked: list[tuple[str, str]] = []

    def tags(store_uri: str, experiment_id: str) -> dict[str, str]:
        asked.append((store_uri, experiment_id))
        return {"team": "fraud", "own": "no"}

    def in_thread() -> None:
        with mlflow.start_run(run_name="thread"):
            pass

    with runs.tagging(tags):
        fluent = mlflow.start_run(run_name="fluent", tags={"own": "yes"})
        with mlflow.start_run(run_name="nested", nested=True):
            pass
        mlflow.end_run()
        experiment = fluent.info.experiment_id
        service.client().create_run(experiment, run_name="client", tags={"own": "yes"})
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        mlflow.sklearn.autolog(log_models=False)
        LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0])
        mlflow.sklearn.autolog(disable=True)
    with mlflow.start_run(run_name="after"):
        pass

    found = {run.info.run_name: run.data.tags for run in service.client().search_runs([experiment])}
    assert len(found) == 6
    assert set(asked) == {(service.tracking_uri, experiment)}
    assert "team" not in found.pop("after")
    assert {tags["team"] for tags in found.values()} == {"fraud"}
    assert {name for name, tags in found.items() if tags["own"] == "yes"} == {"fluent", "client"}
    assert found["nested"]["mlflow.parentRunId"] == fluent.info.run_id


def test_taggers_add_up_and_leave_mlflow_as_it_was(service: MlflowService) -> None:
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    original = TrackingServiceClient.create_run
    with runs.tagging(lambda *_: {"outer": "1"}):
        with runs.tagging(lambda *_: {"inner": "1"}), mlflow.start_run() as both:
            pass
        with mlflow.start_run() as outer:
            pass
    assert TrackingServiceClient.create_run is original
    assert {"outer", "inner"} <= set(service.client().get_run(both.info.run_id).data.tags)
    assert "inner" not in service.client().get_run(outer.info.run_id).data.tags


class Wrapper:
    """What another library may put around a method: no function, and without code of its own."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __get__(self, client: object, owner: type) -> Any:
        return self if client is None else functools.partial(self._wrapped, client)


@pytest.mark.parametrize(
    "wrap", [lambda ours: lambda *arguments, **named: ours(*arguments, **named), Wrapper]
)
def test_a_wrapper_of_somebody_elses_stays(
    service: MlflowService, monkeypatch: pytest.MonkeyPatch, wrap: Any
) -> None:
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    with monkeypatch.context() as patch:
        with runs.tagging(lambda *_: {"team": "fraud"}):
            ours = TrackingServiceClient.create_run
            theirs = wrap(ours)
            patch.setattr(TrackingServiceClient, "create_run", theirs)
        assert TrackingServiceClient.create_run is theirs
        with mlflow.start_run() as run:
            pass
        assert "team" not in service.client().get_run(run.info.run_id).data.tags
        TrackingServiceClient.create_run = ours.__wrapped__  # type: ignore[attr-defined]
        patch.undo()
    TrackingServiceClient.create_run = ours.__wrapped__  # type: ignore[attr-defined]


def test_a_detached_run_stays_open_and_is_closed_later(service: MlflowService) -> None:
    with mlflow.start_run() as outer:
        inner = mlflow.start_run(nested=True)
        assert runs.active_run_ids() == [outer.info.run_id, inner.info.run_id]
        detached = runs.detach(outer.info.run_id, service.tracking_uri)
        assert runs.active_run_ids() == [inner.info.run_id]
        mlflow.end_run()
        assert service.client().get_run(outer.info.run_id).info.status == "RUNNING"
    detached.close("KILLED", {"mlctx.outcome": "interrupted"})
    stored = service.client().get_run(outer.info.run_id)
    assert stored.info.status == "KILLED"
    assert stored.info.end_time is not None
    assert stored.data.tags["mlctx.outcome"] == "interrupted"


def test_why_a_run_cannot_be_closed_is_told_and_breaks_nothing(service: MlflowService) -> None:
    mlflow.start_run()
    (run_id,) = runs.active_run_ids()
    detached = runs.detach(run_id, service.tracking_uri)
    mlflow.delete_run(run_id)
    told = detached.close("FINISHED", {"mlctx.outcome": "passed"})
    assert told is not None
    assert told.startswith(f"The MLflow run {run_id} could not be closed as FINISHED (")
    assert "deleted" in told
    detached = runs.detach("0" * 32, service.tracking_uri)
    assert detached.close("FINISHED", {}) == f"The MLflow run {'0' * 32} is not in its store."


def test_a_source_is_named_for_runs_and_the_code_s_own_command_line_wins(
    service: MlflowService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def source() -> str:
        with mlflow.start_run() as run:
            return str(run.data.tags["mlflow.source.name"])

    plain = source()
    with runs.sourced("of the controller"):
        assert source() == "of the controller"
        with monkeypatch.context() as within:
            within.setattr("sys.argv", ["train.py", "--epochs=1"])
            assert source() == "train.py"
    assert source() == plain
