"""The state of one pytest session: its settings, and the observers, made when they are first needed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest

from pytest_mlctx import fixture_registry, workers
from pytest_mlctx.settings import Settings

if TYPE_CHECKING:  # an observer is imported when it is needed: a suite that uses no service pays for none
    from pytest_mlctx.artifacts import Artifacts
    from pytest_mlctx.baselines import Baselines
    from pytest_mlctx.environment import Environment
    from pytest_mlctx.failure_sections import FailureSections
    from pytest_mlctx.guard import Guard
    from pytest_mlctx.late_threads import LateThreads
    from pytest_mlctx.lifecycle import Lifecycle
    from pytest_mlctx.mlflow_plugin import MlflowPlugin
    from pytest_mlctx.recording import Recording
    from pytest_mlctx.report_data import ReportData
    from pytest_mlctx.services.records import Records
    from pytest_mlctx.services.server import Server
    from pytest_mlctx.traces import Traces
    from pytest_mlctx.tracking import Tracking

T = TypeVar("T")

# What MLflow's defaults write, as `services.state.files` knows it: an unused session imports no services.
MLFLOW_FILES = ("mlflow.db", "mlruns", "mlartifacts")
MLFLOWS_PLUGIN = "mlflow.pytest.plugin"


class Session:
    """One session of pytest, a worker's own under xdist."""

    key: ClassVar[pytest.StashKey[Session]] = pytest.StashKey()

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        config.add_cleanup(self._leave_lost)
        self._stack = ExitStack()
        self._blocks: list[ExitStack] = []  # of the fixtures, as they were entered
        self.settings: Settings = settings
        self.began: float = time.monotonic()
        self.active: bool = False
        self.running_server: Server | None = None  # once a test asks for it
        self.recording: Recording | None = None
        self.report_data: ReportData | None = None
        self._mlflow_plugin: MlflowPlugin | None = None  # where its plugin is in use
        self._reuses_requirements = False
        self.workers: workers.Workers = workers.Workers()
        self._records_mistake = ""
        self._files_before = self._mlflow_files()
        if settings.stores == "template":
            from pytest_mlctx.services.store import new_files

            made = ExitStack()
            made.enter_context(new_files.from_template())
            config.add_cleanup(made.close)
        self.folder: Path = Path()  # in pytest's temporary folder, once a service is asked for

    @classmethod
    def of(cls, config: pytest.Config) -> Session:
        """The session of this configuration."""
        return config.stash[cls.key]

    @cached_property
    def environment(self) -> Environment:
        """The environment and the store of the tests."""
        from pytest_mlctx.environment import Environment

        return Environment(self.settings)

    @cached_property
    def lifecycle(self) -> Lifecycle:
        """Calls the observers that follow tests."""
        from pytest_mlctx.lifecycle import Lifecycle

        return Lifecycle(self._config)

    @cached_property
    def guard(self) -> Guard:
        """Looks after the state between tests."""
        from pytest_mlctx.guard import Guard

        every_test = bool(self.settings.autouse) or self.checks_every_test
        return Guard(
            self.settings.leaks, (lambda item: True) if every_test else fixture_registry.uses_a_service
        )

    @cached_property
    def tracking(self) -> Tracking:
        """Links tests and runs."""
        from pytest_mlctx.tracking import Tracking

        return Tracking(self.settings, workers.given(self._config))

    def enter(
        self,
        request: pytest.FixtureRequest,
        block: AbstractContextManager[T],
        *more: AbstractContextManager[Any],
    ) -> T:
        """Enter blocks that are left when this request's fixture ends; the value of the first.

        After a Ctrl-C in a teardown pytest runs no other finalizer of that scope. A fixture that yields
        within a block would leave it then when its generator is collected, in the middle of anything.
        """
        with ExitStack() as stack:
            value = stack.enter_context(block)
            for other in more:
                stack.enter_context(other)
            self._blocks.append(stack.pop_all())
        request.addfinalizer(partial(self._leave, self._blocks[-1]))
        return value

    def _leave(self, entered: ExitStack) -> None:
        self._blocks.remove(entered)
        entered.close()

    def _leave_lost(self) -> None:
        while self._blocks:
            self._leave(self._blocks[-1])

    @property
    def log_sink(self) -> Path | None:
        """The log file that the user named; a worker writes beside it, ``run.gw0.log``."""
        sink = self.settings.log_sink
        worker = workers.given(self._config).get("workerid")
        return (
            sink if sink is None or worker is None else sink.with_name(f"{sink.stem}.{worker}{sink.suffix}")
        )

    @property
    def checks_every_test(self) -> bool:
        """Whether tests that use no service are to be looked at as well."""
        return self.settings.leaks in ("warn", "error")

    def follow(self, items: list[pytest.Item]) -> None:
        """Follow each test from now on, where one is known to use a service or all are judged."""
        used = self.used_by(items)
        if used:
            self._load_loguru()
        if items and (self.checks_every_test or used):
            self._follow()
        if any(item.get_closest_marker("mlctx_trials") for item in items):
            from pytest_mlctx.trials import Trials

            self._config.pluginmanager.register(Trials(), "mlctx-trials")
        if items and self.settings.requirements == "reuse":
            self.reuse_requirements()

    def activate(self, request: pytest.FixtureRequest) -> None:
        """Follow each test from now on: the first service is about to start for this request."""
        self._load_loguru()
        self._follow(request)
        self.guard.in_force(request)

    def record(self) -> None:
        """Record each test from now on, in the process that reports; a worker only says what it knows."""
        if self.settings.record is None:
            return
        from pytest_mlctx.redaction import Redaction
        from pytest_mlctx.services import state, uris

        self._files_before |= set(uris.files(self.settings.record))
        self._config.add_cleanup(state.expect(*uris.files(self.settings.record)))

        if not workers.is_controller(self._config):
            from pytest_mlctx.report_data import ReportData

            self.report_data = ReportData(self.tracking, self.settings.record)
            self._config.add_cleanup(self.report_data.close)
            self.environment.asked_for.add(self.settings.record)
            self.lifecycle.register("tracking", self.tracking)
            self.lifecycle.register("report_data", self.report_data)
            self.lifecycle.register("redaction", Redaction(self._config))
        if not workers.given(self._config):
            from pytest_mlctx.recording import Recording

            self.recording = Recording(self._config, self.settings, lambda: self.records)
            self.recording.open()
            self.lifecycle.register("recording", self.recording)

    @cached_property
    def records(self) -> Records:
        """The store of records, opened when it is first needed.

        Raises:
            ServiceError: it cannot be used; raised again at once where that is known.
        """
        from pytest_mlctx.services import ServiceError
        from pytest_mlctx.services.records import Records

        assert self.settings.record is not None
        if self._records_mistake:
            raise ServiceError(self._records_mistake)
        try:
            return Records(self.settings.record, self.settings.experiment)
        except ServiceError as error:
            self._records_mistake = str(error)
            raise

    @cached_property
    def baselines(self) -> Baselines:
        """Compares metrics of tests with those of earlier sessions."""
        from pytest_mlctx.baselines import Baselines

        return Baselines(
            self.settings,
            self._config.rootpath,
            self.report_data,
            lambda: self.records,
            self.tracking.session_tags["mlctx.session"],
        )

    def _load_loguru(self) -> None:
        from pytest_mlctx.logs import load_loguru

        load_loguru()

    def _follow(self, request: pytest.FixtureRequest | None = None) -> None:
        if not self.active:
            from pytest_mlctx.redaction import Redaction
            from pytest_mlctx.services import state
            from pytest_mlctx.setup_errors import SetupErrors

            self.active = True
            workers.tell_active(self._config)
            self._config.add_cleanup(state.watch(self._config.rootpath))
            self.lifecycle.register("guard", self.guard, request)
            self.lifecycle.register("tracking", self.tracking, request)
            self.lifecycle.register("failure_sections", self._failure_sections())
            self.lifecycle.register("setup_errors", SetupErrors())
            self.lifecycle.register("redaction", Redaction(self._config))
            if self._config.pluginmanager.hasplugin(MLFLOWS_PLUGIN):
                from pytest_mlctx.mlflow_plugin import MlflowPlugin

                self._mlflow_plugin = MlflowPlugin(self.settings.isolation == "session")
                self.lifecycle.register("mlflow_plugin", self._mlflow_plugin)
            if "mlflow" not in self.settings.autouse:
                from pytest_mlctx.default_store import FirstUse

                default_store = FirstUse()
                self._config.add_cleanup(default_store.close)
                self.lifecycle.register("default_store", default_store)

    def _failure_sections(self) -> FailureSections:
        from pytest_mlctx.failure_sections import FailureSections

        return FailureSections(
            self._config,
            self.tracking,
            server=lambda: self.running_server,
            traces=lambda: self.traces.finished if "traces" in vars(self) else [],
        )

    def reuse_requirements(self, below: list[Path] | None = None) -> None:
        """Reuse what MLflow infers of models until the session ends, always or on stores of ours only."""
        if self._reuses_requirements:
            return
        from pytest_mlctx.model_requirements import ModelRequirements

        self._reuses_requirements = True
        requirements = ModelRequirements(below)
        self.lifecycle.register("model_requirements", requirements)
        self._config.add_cleanup(requirements.close)

    def _mlflow_files(self) -> set[Path]:
        root = self._config.rootpath
        return {root / name for name in MLFLOW_FILES if os.path.lexists(root / name)}

    def default_store_files(self) -> list[Path]:
        """What MLflow left in the rootdir since the start, in a session in which no service was used."""
        if self.active or self.workers.active:
            return []  # what its tests left is named as theirs
        return sorted(self._mlflow_files() - self._files_before)

    @cached_property
    def traces(self) -> Traces:
        """The traces of each test."""
        from pytest_mlctx.traces import Traces

        return Traces(self.guard, self.late_threads, self.tracking)

    @contextmanager
    def beside_mlflows_plugin(self) -> Iterator[None]:
        """Within the block MLflow's own plugin tracks to the store of the tests."""
        yield
        if self._mlflow_plugin is not None:
            self._mlflow_plugin.close()

    @cached_property
    def artifacts(self) -> Artifacts:
        """The folders for the artifacts of each test."""
        from pytest_mlctx.artifacts import Artifacts

        return Artifacts(self._config, self.environment.folder / "artifacts")

    @cached_property
    def late_threads(self) -> LateThreads:
        """Threads that outlive the test that started them."""
        from pytest_mlctx.late_threads import LateThreads

        late_threads = LateThreads()
        self.lifecycle.register("late_threads", late_threads)
        return late_threads

    def used_by(self, items: list[pytest.Item]) -> bool:
        """Whether one of these tests is known to use a service before it runs."""
        return bool(items) and (
            bool(self.settings.autouse) or any(map(fixture_registry.uses_a_service, items))
        )

    def hold_early(self) -> None:
        """Keep MLflow off every other store from before the first conftest is imported."""
        self._stack.enter_context(self.environment.early())

    def revise(self, settings: Settings) -> None:
        """Take over what conftests have put into the options since the early start."""
        before, self.settings = self.settings, settings
        if "mlflow" in settings.autouse:
            self.environment.settings = settings
            if (before.tracking_uri, before.registry_uri) != (settings.tracking_uri, settings.registry_uri):
                self.close()
                self.hold_early()

    def close(self) -> None:
        """Give back what is held until the session's end."""
        self._stack.close()
