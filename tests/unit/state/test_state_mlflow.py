"""What users change in MLflow by its public API: each change is told, and undone twice."""

from __future__ import annotations

import gc
import re
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import mlflow.deployments
import pytest
from mlflow import MlflowClient
from mlflow.utils import import_hooks
from state_changes import HELD, MLFLOW_3, MLFLOW_CHANGES, in_thread, open_span

from pytest_mlctx.services import state
from pytest_mlctx.services.state import mlflow_autologging

mlflow_3_only = pytest.mark.skipif(not MLFLOW_3, reason="MLflow 2 does not have it")


@pytest.fixture(autouse=True)
def held(before: Any) -> Iterator[Any]:
    yield
    HELD.clear()


@pytest.mark.parametrize("name", MLFLOW_CHANGES)
def test_a_change_is_told_and_undone_again_and_again(name: Any, undone: Any) -> None:
    change, sentences = MLFLOW_CHANGES[name]
    for _ in range(2):
        change()
        told = undone()
        for sentence in sentences:
            assert any(re.match(sentence, one) for one in told), told


def test_what_is_switched_off_again_is_not_told(undone: Any) -> None:
    mlflow.enable_system_metrics_logging()
    mlflow.config.enable_async_logging(True)
    mlflow.config.enable_async_logging(False)
    mlflow.disable_system_metrics_logging()  # sets the variable to what MLflow takes it for
    assert undone() == []


def test_a_run_left_open_is_closed_as_killed_in_the_store_that_has_it(
    undone: Any, tracked: Any, tmp_path: Path
) -> None:
    leaked = mlflow.start_run()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'never-opened.db'}")
    undone()
    run = MlflowClient(tracked).get_run(leaked.info.run_id)
    assert run.info.status == "KILLED"
    assert run.info.end_time
    assert not (tmp_path / "never-opened.db").exists()


def test_a_run_is_closed_though_mlflow_has_forgotten_its_store(undone: Any, tracked: Any) -> None:
    registry = mlflow.tracking._tracking_service.utils._tracking_store_registry
    runs = [mlflow.start_run()]
    registry._get_store_with_resolved_uri.cache_clear()
    undone()
    assert [MlflowClient(tracked).get_run(run.info.run_id).info.status for run in runs] == ["KILLED"]


def test_a_run_that_its_owner_has_ended_keeps_its_status(undone: Any, tracked: Any) -> None:
    leaked = mlflow.start_run()
    MlflowClient(tracked).set_terminated(leaked.info.run_id, "FAILED")
    undone()
    assert MlflowClient(tracked).get_run(leaked.info.run_id).info.status == "FAILED"


def test_a_run_around_stays_open_and_is_the_same_object(tracked: Any) -> None:
    with mlflow.start_run() as around:
        before = state.capture("mlflow", "environment")
        mlflow.start_run(nested=True)
        state.restore(before)
        assert mlflow.active_run() is around
        mlflow.end_run()
        assert [change.sentence for change in state.compare(before, state.capture("mlflow"))] == [
            f"run {around.info.run_id[:8]}… ({around.info.run_name}) ended, which was open before",
            None,  # it is the last active run now
        ]
        state.restore(before)
        assert mlflow.active_run() is around
        assert MlflowClient().get_run(around.info.run_id).info.status == "RUNNING"
        mlflow.log_metric("after", 1)
    assert MlflowClient().get_run(around.info.run_id).info.status == "FINISHED"


def test_a_run_in_a_living_thread_is_closed_there(undone: Any, tracked: Any) -> None:
    opened, restored = threading.Event(), threading.Event()
    seen = []

    def work() -> None:
        seen.append(mlflow.start_run().info.run_id)
        opened.set()
        restored.wait()
        seen.append(mlflow.active_run())

    thread = threading.Thread(target=work)
    thread.start()
    opened.wait()
    told = undone()
    restored.set()
    thread.join()
    assert re.match(r"run .* left open in another thread", told[0])
    assert seen[1] is None
    assert MlflowClient().get_run(seen[0]).info.status == "KILLED"


def test_the_run_of_an_ended_thread_is_found_though_another_got_its_id(undone: Any, tracked: Any) -> None:
    seen = []

    def open_run() -> None:
        seen.append((threading.get_ident(), mlflow.start_run().info.run_id))

    def look() -> None:
        seen.append((threading.get_ident(), mlflow.active_run()))
        together.wait()

    in_thread(open_run)
    threads = [threading.Thread(target=look) for _ in range(50)]
    together = threading.Barrier(len(threads))  # at one time, so that they use up the ids that are free
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0][0] in [ident for ident, _ in seen[1:]], "no thread got the id again"
    assert not any(run for _, run in seen[1:])
    assert re.match(rf"run {seen[0][1][:8]}… .* left open in another thread", undone()[0])
    assert MlflowClient().get_run(seen[0][1]).info.status == "KILLED"


def test_a_server_that_hangs_is_not_waited_for(
    undone: Any, tracked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mlflow.start_run()
        mlflow.set_tracking_uri(f"http://127.0.0.1:{silent.getsockname()[1]}")
        registry = mlflow.tracking._tracking_service.utils._tracking_store_registry
        registry._get_store_with_resolved_uri.cache_clear()  # the store of the run is known no more
        mlflow.tracking._tracking_service.utils._get_store()
        began = time.monotonic()
        assert undone()
        assert time.monotonic() - began < 6


def test_a_callback_that_ends_the_active_run_when_it_is_collected_ends_no_other(
    undone: Any, tracked: Any
) -> None:
    class Callback:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            mlflow.end_run()

    with mlflow.start_run() as around:
        before = state.capture("mlflow", "environment")
        gc.disable()
        try:
            mlflow.start_run(nested=True)
            Callback()
            state.restore(before)
        finally:
            gc.enable()
        gc.collect()
        assert mlflow.active_run() is around
        assert state.compare(before, state.capture("mlflow", "environment")) == []


def test_the_sampling_of_a_run_left_open_ends(undone: Any) -> None:
    run = mlflow.start_run(log_system_metrics=True)
    undone()
    assert run.info.run_id not in mlflow.tracking.fluent.run_id_to_system_metrics_monitor
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


def test_what_was_logged_asynchronously_is_logged_before_the_run_is_closed(undone: Any, tracked: Any) -> None:
    mlflow.config.enable_async_logging()
    run = mlflow.start_run()
    for step in range(20):
        mlflow.log_metric("m", step, step=step)
    undone()
    assert len(MlflowClient().get_metric_history(run.info.run_id, "m")) == 20
    assert not [thread for thread in threading.enumerate() if thread.name == "MLflowAsyncLoggingLoop"]


def test_closed_work_is_put_back_and_never_told(undone: Any, before: Any) -> None:
    last = mlflow.tracking.fluent._last_active_run_id.get()  # of another test perhaps, whose store is gone
    with mlflow.start_run():
        mlflow.log_param("p", 1)
        if MLFLOW_3:
            mlflow.create_external_model(name="m")
    with mlflow.start_span("traced"):
        pass
    assert undone() == []
    assert mlflow.tracking.fluent._last_active_run_id.get() == last


def test_patches_of_autologging_are_taken_back(undone: Any) -> None:
    from sklearn.linear_model import LinearRegression

    fit = LinearRegression.fit
    mlflow.sklearn.autolog()
    assert LinearRegression.fit is not fit
    undone()
    assert LinearRegression.fit is fit
    mlflow.autolog()
    assert LinearRegression.fit is not fit
    undone()
    assert LinearRegression.fit is fit


def test_autologging_of_a_flavor_that_was_on_is_on_again(before: Any, undone: Any) -> None:
    from sklearn.linear_model import LinearRegression

    mlflow.sklearn.autolog(log_models=False, max_tuning_runs=3)
    on = state.capture("mlflow")
    for change, told in (
        (lambda: mlflow.sklearn.autolog(disable=True), ["autologging of sklearn left off"]),
        (lambda: mlflow.autolog(disable=True), []),  # leaves on what the flavor's own has turned on
        (
            lambda: mlflow.sklearn.autolog(log_models=True),
            ["autologging of sklearn configured otherwise (log_models=True, max_tuning_runs=5)"],
        ),
    ):
        change()
        assert [one.sentence for one in state.compare(on, state.capture("mlflow")) if one.sentence] == told
        state.restore(on)
        assert state.compare(on, state.capture("mlflow")) == []
        LinearRegression().fit([[1], [2]], [1, 2])
        assert mlflow.last_active_run().data.params["fit_intercept"] == "True"


def test_autologging_as_a_whole_that_was_on_is_on_again(before: Any, undone: Any) -> None:
    from sklearn.linear_model import LinearRegression

    mlflow.autolog(log_models=False)
    on = state.capture("mlflow")
    for change in (
        lambda: mlflow.sklearn.autolog(disable=True),
        lambda: mlflow.autolog(disable=True),
        lambda: mlflow.autolog(log_models=True),
    ):
        change()
        assert [one.sentence for one in state.compare(on, state.capture("mlflow")) if one.sentence]
        state.restore(on)
        assert state.compare(on, state.capture("mlflow")) == []
        LinearRegression().fit([[1], [2]], [1, 2])
        assert mlflow.last_active_run().data.params["fit_intercept"] == "True"


def test_hooks_of_what_another_thread_imports_meanwhile_run_at_the_end(
    before: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_meanwhile.py").write_text("import late")
    (tmp_path / "late.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(import_hooks, "_import_hook_finder_init", False)  # pytester may have taken it away
    ran: list[str] = []
    for name in ("imported_meanwhile", "late", "never"):
        import_hooks.register_post_import_hook(lambda module: ran.append(module.__name__), name)
    with mlflow_autologging.configuring():
        in_thread(lambda: import_module("imported_meanwhile"))
        assert ran == []
    assert sorted(ran) == ["imported_meanwhile", "late"]
    with mlflow_autologging.configuring():
        in_thread(lambda: import_module("imported_meanwhile"))
    assert len(ran) == 2


def test_tracing_that_was_off_stays_off_when_the_uri_goes_back(
    tracked: Any, before: Any, tmp_path: Path
) -> None:
    mlflow.tracing.disable()
    off = state.capture("mlflow", "environment")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'x.db'}")  # which switches tracing on
    assert "tracing enabled" in [change.sentence for change in state.compare(off, state.capture("mlflow"))]
    state.restore(off)
    with mlflow.start_span("none"):
        pass
    assert state.compare(off, state.capture("mlflow", "environment")) == []
    assert mlflow.get_tracking_uri() == tracked


def test_a_span_left_open_does_not_swallow_the_next_trace(undone: Any) -> None:
    open_span()
    undone()
    with mlflow.start_span("next") as span:
        assert span.parent_id is None


def test_a_span_that_has_ended_is_not_made_current_again(undone: Any) -> None:
    """As of a plugin that opens one around each test, such as logfire's."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    with TracerProvider().get_tracer("plugin").start_as_current_span("the test that starts a service"):
        before = state.capture("mlflow")
    state.restore(before)
    assert trace.get_current_span() is trace.INVALID_SPAN


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """By this thread: one that another test gave up may still ask for a server that is gone."""
    return [record.getMessage() for record in caplog.records if record.thread == threading.get_ident()]


def test_spans_left_open_are_written_nowhere_when_they_end_at_last(
    undone: Any, tracked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def written() -> Any:
        with closing(sqlite3.connect(tracked.removeprefix("sqlite:///"))) as store:
            tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
            kept = sorted(tables & {"trace_info", "spans"})
            return [store.execute(f"SELECT * FROM {name}").fetchall() for name in kept]

    open_span()
    open_span()
    undone()
    before = written()  # MLflow 2 writes of a trace when it begins
    while HELD:  # as the garbage collector does, in the middle of anything
        HELD.pop().__exit__(None, None, None)
    assert written() == before
    assert logged(caplog) == []


def test_a_span_that_is_not_recorded_is_given_back_in_silence(
    undone: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry import context, trace

    before = context.get_current()
    # What MLflow 2 makes current where a span cannot be recorded.
    context.attach(trace.set_span_in_context(trace.NonRecordingSpan(context=None)))
    assert undone() == []
    assert context.get_current() == before
    assert logged(caplog) == []


def test_a_span_around_stays_the_parent(tracked: Any, before: Any) -> None:
    with mlflow.start_span("around") as around:
        inside = state.capture("mlflow")
        open_span()
        state.restore(inside)
        with mlflow.start_span("next") as span:
            assert span.parent_id == around.span_id


def test_traces_go_to_the_store_before_again(undone: Any, tracked: Any, tmp_path: Path) -> None:
    with mlflow.start_span("before"):
        pass
    mlflow.set_tracking_uri(f"file:{tmp_path}/files")
    undone()
    with mlflow.start_span("after"):
        pass
    experiment = mlflow.get_experiment_by_name("first").experiment_id
    traces = MlflowClient(tracked).search_traces([experiment])
    names = {trace.data.spans[0].name for trace in traces}
    assert {"before", "after"} <= names


@mlflow_3_only
def test_what_only_mlflow_3_has(undone: Any) -> None:
    model = mlflow.create_external_model(name="mine")
    mlflow.set_active_model(model_id=model.model_id)
    assert f"active model set to {model.model_id}" in undone()
    assert mlflow.get_active_model_id() is None
    mlflow.tracing.configure(span_processors=[lambda span: None])
    assert undone() == ["tracing's span processors changed"]
    HELD.append(mlflow.tracing.context(tags={"a": "b"}))
    HELD[-1].__enter__()
    assert undone() == ["tracing context left open"]
    mlflow.set_workspace("other")
    assert undone() == ["workspace changed to other"]


@mlflow_3_only
def test_a_cached_prompt_is_forgotten_and_never_told(undone: Any) -> None:
    mlflow.genai.register_prompt("greeting", "Hello {{name}}")
    mlflow.genai.load_prompt("greeting", version=1)
    assert undone() == []
    from mlflow.prompt.registry_utils import PromptCache

    assert not PromptCache.get_instance()._cache


def test_a_dead_server_does_not_hold_the_restoring_up(undone: Any, tracked: Any) -> None:
    run = mlflow.start_run()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    began = time.monotonic()
    undone()
    assert time.monotonic() - began < 5
    assert MlflowClient(tracked).get_run(run.info.run_id).info.status == "KILLED"
