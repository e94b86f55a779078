"""The MLflow environment of the tests: it leads to the temporary or named store, and hides every other."""

from __future__ import annotations

import os
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mlctx import setup_errors
from pytest_mlctx.settings import Settings

if TYPE_CHECKING:
    from pytest_mlctx.services.store import Savepoint, Store

AMBIENT = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
"""The variables that would lead to a store, and are not followed."""

# Each names something in a store, or a way out of it (MLflow's documentation, "Environment variables").
_SET_ASIDE = (
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "MLFLOW_ACTIVE_MODEL_ID",
    "_MLFLOW_ACTIVE_MODEL_ID",
    "MLFLOW_TRACE_SAMPLING_RATIO",
    "MLFLOW_TRACING_DESTINATION",
    "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
    "OTEL_EXPORTER_OTLP_ENDPOINT",  # MLflow 2 has no other switch for its export
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
# They belong to a server that the user names, and a temporary store has none.
_WORKSPACES = ("MLFLOW_ENABLE_WORKSPACES", "MLFLOW_WORKSPACE", "MLFLOW_WORKSPACE_STORE_URI")
_SILENCED = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_OTLP_EXPORTER": "false"}
# A suite does not wait minutes for the server that the user named; who set these had a reason.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_REMEDY = (
    "start the tests with --mlctx-remote=redirect to use the temporary store under that name, "
    "with --mlctx-remote=allow to reach it, or with --mlctx-tracking-uri to track there."
)


class Environment:
    """The store of a session's tests, and the environment in which no other is found.

    Attributes:
        settings: those of the session.
        store: the temporary store, while it is in force; None where the user named one.
        store_uri: its URI, known before it is made.
        empty: what it held when it was made.
        folder: where its artifacts lie, and the sandbox.
        asked_for: the registries that the user named, which `--mlctx-remote` does not concern.
        ambient: the variables of `AMBIENT` that were set from outside.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._link: Path | None = None
        self._home: Path | None = None  # in pytest's temporary folder, once it has a name
        self.folder: Path = Path()
        self.store: Store | None = None
        self.store_uri: str | None = None
        self.empty: Savepoint | None = None
        self.asked_for: set[str] = set()
        self.ambient: dict[str, str] = {name: os.environ[name] for name in AMBIENT if name in os.environ}

    @property
    def tracking_uri(self) -> str:
        """Where the tests track."""
        from pytest_mlctx.services import credentials

        return credentials.discreet(self.settings.tracking_uri or self.store_uri or "")

    @property
    def registry_uri(self) -> str | None:
        """Where the tests register models; None where they track."""
        from pytest_mlctx.services import credentials

        uri = self.settings.registry_uri
        return None if uri is None else credentials.discreet(uri)

    @contextmanager
    def early(self) -> Iterator[None]:
        """The environment from before the first conftest: libraries bind the URI when they are imported.

        pytest's temporary folder has no name yet, so the URI leads over a link, made once it has one. Code
        that tracks while it is collected finds a folder in the link's place.
        """
        from pytest_mlctx.services import import_hooks, state, store
        from pytest_mlctx.services.store import paths

        before = state.capture("environment", "mlflow")
        with ExitStack() as stack:
            if self.settings.tracking_uri is None:
                path = stack.enter_context(self._linked()) / "mlflow.db"
                self.store_uri = paths.sqlite_uri(path)
                stack.enter_context(store.promised(path, self._create_early))
            self._enforce()
            try:
                with import_hooks.once_imported("mlflow", store.install_builders):
                    yield
            finally:
                state.restore(before)
                if self.store is not None:
                    self.store.close()
                self.store = self.store_uri = None

    @contextmanager
    def _linked(self) -> Iterator[Path]:
        from pytest_mlctx.services.store import paths

        self._link = link = paths.temporary_folder() / "session"
        try:
            yield link
        finally:
            self._link = None
            if link.is_dir() and not link.is_symlink() and self._home is not None and self._home.is_dir():
                shutil.copytree(link, self._home, dirs_exist_ok=True)
            shutil.rmtree(link.parent, ignore_errors=True)

    @contextmanager
    def in_force(self, folder: Path) -> Iterator[None]:
        """The environment, and the temporary store in this folder where the user named none."""
        from pytest_mlctx.services import defaults, remote, state, store
        from pytest_mlctx.services.store import paths

        self._home = folder
        before = state.capture("environment", "mlflow")
        readable = paths.expressible(folder)  # to SQLAlchemy and MLflow, which decode some characters
        with self._linked() if self._link is None and not readable else nullcontext():
            if self._link is not None:
                paths.sweep()
            if self._link is not None and not self._link.exists():
                try:
                    self._link.symlink_to(folder, target_is_directory=True)
                except OSError:  # Windows wants a privilege for it
                    self._link.mkdir()
            self.folder = folder if self._link is None or readable else self._link
            for name, value in _SILENCED.items():  # before the template is built, which may import mlflow
                os.environ[name] = value
            try:
                if self.settings.tracking_uri is None:
                    if self.store is None:
                        self.store = self.create((self._link or folder) / "mlflow.db", folder)
                    self.store.artifacts = store.artifacts_beside(self.folder / "mlflow.db")
                    self.store_uri, self.empty = self.store.uri, self.store.savepoint()
                self._enforce()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it imports MLflow, which warns of its own dependencies
                    store.install_builders()
                if self.settings.registry_uri is not None:
                    self.asked_for.add(self.settings.registry_uri)
                governed = remote.governed(self.settings.remote, remedy=_REMEDY, exempt=self.asked_for)
                with governed, defaults.kept_from_other_stores():
                    yield
            finally:
                state.restore(before)
                if self.store is not None:
                    self.store.close()

    def _create_early(self) -> Store:
        from pytest_mlctx.services import store

        assert self._link is not None
        self.store = store.Store(self._link / "mlflow.db", fallback=self._link)
        return self.store

    @property
    def _store_file(self) -> Path | None:
        return None if self.store_uri is None else Path(self.store_uri.removeprefix("sqlite:///"))

    def folders(self) -> list[Path]:
        """Where the temporary stores lie, by every path to them."""
        file = self._store_file
        return list(dict.fromkeys([self.folder, *([] if file is None else [file.parent])]))

    def create(self, path: Path, fallback: Path) -> Store:
        """A temporary store; where there can be none, the test fails with one sentence."""
        from pytest_mlctx.services import store
        from pytest_mlctx.services.mlflow import incompatibility

        try:
            return store.Store(path, fallback=fallback)
        except (OSError, sqlite3.Error) as error:
            reason = (
                f"The temporary store {str(path)!r} cannot be made ({error}): "
                "free space there, or choose another folder with --basetemp."
            )
        except Exception as error:
            if (incompatible := incompatibility(error)) is None:
                raise
            reason = incompatible
        raise setup_errors.failure(reason)

    def _enforce(self) -> None:
        for name in _SET_ASIDE:
            os.environ.pop(name, None)
        os.environ.update(_SILENCED)
        if self.settings.tracking_uri or self.settings.registry_uri:
            for name, value in _PATIENCE.items():
                os.environ.setdefault(name, value)
        # Where a test has finished a trace, it is there. In the user's store the user's own choice holds.
        os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
        os.environ["MLFLOW_TRACKING_URI"] = self.tracking_uri
        os.environ["MLFLOW_REGISTRY_URI"] = self.registry_uri or self.tracking_uri
        if (file := self._store_file) is not None:
            from pytest_mlctx.services import store

            for name in _WORKSPACES:
                os.environ.pop(name, None)
            os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
            # Where a child process keeps the artifacts of a new experiment.
            root = store.artifacts_beside(file)
            os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = store.artifact_uri(root)
