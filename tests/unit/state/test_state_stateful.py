"""Services started, nested, stopped in any order, failing, users changing all meanwhile: nothing stays."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar

import mlflow
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from loguru import logger
from pydantic import PrivateAttr
from state_changes import HELD, LOGGING_CHANGES, LOGURU_CHANGES, MLFLOW_CHANGES

from pytest_mlctx.services import AlertsService, LoggerService, MlflowService, Service, state

EVERYTHING: tuple[state.Library, ...] = ("mlflow", "loguru", "logging", "environment", "services")
IN_A_THREAD = {
    "open run",
    "named run",
    "tracking URI",
    "experiment",
    "handler added",
    "handlers removed",
    "extra",
}


def is_of_another_thread(change: state.Change) -> bool:
    kind, key = change.cell
    thread: Any = key[0] if isinstance(key, tuple) else key
    return kind in ("mlflow.run", "mlflow.last_active_run") and thread != threading.get_ident()


class Broken(Service):
    """A service whose start fails after it has changed a good deal."""

    libraries: ClassVar[tuple[state.Library, ...]] = EVERYTHING
    _changes: list[str] = PrivateAttr(default_factory=list)

    def _apply(self) -> None:
        for name in self._changes:
            with suppress(Exception):
                (MLFLOW_CHANGES | LOGURU_CHANGES | LOGGING_CHANGES)[name][0]()
        raise KeyboardInterrupt


def machine_on(uri: str, folder: Path) -> type[RuleBasedStateMachine]:
    """The machine, on one temporary store."""
    services = [
        MlflowService(tracking_uri=uri, experiment_name="a", autolog_disable=True),
        MlflowService(tracking_uri=uri, experiment_name="b", autolog_silent=True),
        LoggerService(sink=str(folder / "run.log")),
        LoggerService(level="INFO", sink=str(folder / "run.jsonl"), serialize=True),
        AlertsService(enable=False),
    ]
    changes = {
        "mlflow": sorted(MLFLOW_CHANGES),
        "loguru": sorted(LOGURU_CHANGES),
        "logging": sorted(LOGGING_CHANGES),
    }

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.origin = state.capture(*EVERYTHING)
            self.running: list[tuple[Service, state.State]] = []  # with what its stop gives back
            self.errors: list[BaseException] = []
            self.done = threading.Event()
            self.chatter = threading.Thread(target=self.chat)

        def chat(self) -> None:
            try:
                while not self.done.is_set():
                    logger.debug("steady")
                    time.sleep(0.01)
            except BaseException as error:
                self.errors.append(error)

        @initialize(run=st.booleans(), tracing=st.booleans(), handler=st.booleans(), enqueue=st.booleans())
        def as_the_user_likes_it(self, run: bool, tracing: bool, handler: bool, enqueue: bool) -> None:
            mlflow.set_tracking_uri(uri)
            mlflow.set_experiment("users")
            if run:
                mlflow.start_run(run_name="around")
            if not tracing:
                mlflow.tracing.disable()
            if handler:
                logger.add(folder / "users.log", enqueue=enqueue, mode="w")
                logger.configure(extra={"mine": object()})
            self.before = state.capture(*EVERYTHING)
            self.chatter.start()

        @rule(service=st.sampled_from(services))
        def start(self, service: Service) -> None:
            before = state.capture(*service.libraries)
            service.start()
            self.running.append((service, before))

        @rule(service=st.sampled_from(services))
        def stop(self, service: Service) -> None:
            found = [place for place, (one, _) in enumerate(self.running) if one is service]
            if not found:
                before = state.capture(*EVERYTHING)
                service.stop()
                assert state.compare(before, state.capture(*EVERYTHING)) == []
                return
            service.stop()
            _, before = self.running.pop(found[-1])
            later = [
                place
                for place in range(found[-1], len(self.running))
                if set(self.running[place][0].libraries) & set(service.libraries)
            ]
            if later:
                self.running[later[0]] = (self.running[later[0]][0], before)
            else:
                left = state.compare(before, state.capture(*service.libraries))
                if service.running:  # what is open in other threads stays open until its last stop
                    left = [change for change in left if not is_of_another_thread(change)]
                assert left == []

        @rule(
            names=st.lists(st.sampled_from([*MLFLOW_CHANGES, *LOGURU_CHANGES, *LOGGING_CHANGES]), max_size=4)
        )
        def fail_half_way(self, names: list[str]) -> None:
            before = state.capture(*EVERYTHING)
            broken = Broken()
            broken._changes.extend(names)
            with pytest.raises(KeyboardInterrupt):
                broken.start()
            assert not broken.running
            assert state.compare(before, state.capture(*EVERYTHING)) == []

        def held(self, library: str) -> bool:
            return any(library in service.libraries for service, _ in self.running)

        @precondition(lambda self: self.held("mlflow"))
        @rule(name=st.sampled_from(changes["mlflow"]), thread=st.booleans())
        def change_mlflow(self, name: str, thread: bool) -> None:
            self.change(MLFLOW_CHANGES, name, thread)

        @precondition(lambda self: self.held("loguru"))
        @rule(name=st.sampled_from(changes["loguru"]), thread=st.booleans())
        def change_loguru(self, name: str, thread: bool) -> None:
            self.change(LOGURU_CHANGES, name, thread)

        @precondition(lambda self: self.held("logging"))
        @rule(name=st.sampled_from(changes["logging"]))
        def change_logging(self, name: str) -> None:
            self.change(LOGGING_CHANGES, name, False)

        def change(self, changes: Any, name: str, thread: bool) -> None:
            def work() -> None:
                with suppress(Exception):  # such as a run while one is active, or a level that exists
                    changes[name][0]()

            if thread and name in IN_A_THREAD:
                worker = threading.Thread(target=work)
                worker.start()
                worker.join()
            else:
                work()

        def teardown(self) -> None:
            try:
                while self.running:
                    self.stop(self.running[len(self.running) // 2][0])
                if hasattr(self, "before"):
                    assert state.compare(self.before, state.capture(*EVERYTHING)) == []
            finally:
                self.done.set()
                if self.chatter.is_alive():
                    self.chatter.join()
                HELD.clear()
                state.restore(self.origin)
            assert self.errors == []
            with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
                open_runs = database.execute("SELECT name FROM runs WHERE status = 'RUNNING'").fetchall()
                with database:  # the next sequence is judged by its own
                    database.execute("UPDATE runs SET status = 'KILLED' WHERE status = 'RUNNING'")
            assert open_runs == []

    return Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from pytest_mlctx.services import store

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = state.capture(*EVERYTHING)
    logger.remove()
    temporary = store.Store(tmp_path / "store" / "mlflow.db")
    store.install_builders()
    gc.collect()
    gc.freeze()  # a restored run costs a collection, a second among all that MLflow has imported
    yield machine_on(temporary.uri, tmp_path)
    gc.unfreeze()
    state.restore(before)
    temporary.close()


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


def test_whatever_happens_the_state_is_given_back(machine: Any) -> None:
    profile = settings(max_examples=10, stateful_step_count=10, derandomize=True, **COMMON)
    run_state_machine_as_test(machine, settings=profile)


@pytest.mark.slow
def test_whatever_happens_the_state_is_given_back_in_two_thousand_sequences(machine: Any) -> None:
    profile = settings(max_examples=2000, stateful_step_count=12, **COMMON)
    run_state_machine_as_test(machine, settings=profile)
