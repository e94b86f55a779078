"""A store of records: a run for each test, written whole when the test is over, below one for its session."""

from __future__ import annotations

import functools
import getpass
import hashlib
import math
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pytest_mlctx.services import credentials, deadline, experiment_names, history, uris
from pytest_mlctx.services.errors import ServiceError
from pytest_mlctx.services.runs import opened_apart

T = TypeVar("T")

_LONGEST_VALUE = 5000  # characters of a tag or parameter: MLflow takes 6000 and more, in every version
_LONGEST_KEY = 250  # characters (mlflow.utils.validation.MAX_ENTITY_KEY_LENGTH)
_MOST_AT_ONCE = {"metrics": 1000, "params": 100}  # of one request (mlflow.utils.validation)
_ABANDONED = 24 * 3600.0  # seconds after which a session of another machine is taken for dead
_BUSY = 20.0  # seconds that a store has for a record: it has answered before, and others may be at it
_PROCESS = "mlctx.process"
# MLflow's own tags of tests (mlflow.pytest), which its UI knows.
_TYPE, _TEST, _OF_SESSION = "mlflow.runType", "mlflow.test.name", "mlflow.test.session_id"


class Record(NamedTuple):
    """One attempt at a test, as its run is to be."""

    name: str
    nodeid: str
    session: str
    started: float
    """Seconds since the epoch, as all times here."""
    ended: float
    status: str
    """``FINISHED``, ``FAILED`` or ``KILLED``."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    key: str = ""
    """What its history is found by, where that is not the node id."""
    children: Iterable[str] = ()
    """Ids of the runs in the same store that the test opened and that have no parent."""
    files: Mapping[str, str] = {}
    """Texts by the names of the artifacts that they become."""
    trials: Sequence[Record] = ()
    """Of the trials that the test was made of; no history of theirs is kept."""


class Records:
    """Writes records to one experiment; what it raises says why that failed.

    It holds a store of its own, so that nothing that tests do to MLflow's globals concerns it.

    Attributes:
        uri: of the store.
        experiment_id: of the experiment, made where there was none.
        session_run: the id of the session's run, once there is a record.
        history: records of earlier sessions.
    """

    _now = staticmethod(time.time)  # what freezes the time replaces the names of modules

    def __init__(self, uri: str, experiment: str) -> None:
        """Open the store.

        Raises:
            ServiceError: it does not answer, or MLflow cannot use it; one sentence.
        """
        self.uri = uri
        self.session_run: str | None = None
        self._began = 0.0
        self._is_file = bool(uris.files(uri))
        with (
            _told(uri),
            opened_apart(uri, functools.partial(uris.ask, "--mlctx-record", uri, experiment)) as own,
        ):
            self._store = own
            self.experiment_id: str = self._asked(
                lambda: experiment_names.found_or_made(
                    experiment,
                    "the experiment",
                    own.get_experiment_by_name,
                    lambda name: own.create_experiment(name, None, []),
                )
            )
            self._asked(self._end_abandoned)
        self.history: history.History = history.History(own, self.experiment_id, uri, self._asked)

    def _asked(self, question: Callable[[], T], seconds: float | None = None) -> T:
        """The answer, of a server in seconds: MLflow would try one that is away for minutes."""
        if self._is_file:
            return question()
        seconds = seconds or uris.DEADLINE
        timeout = str(math.ceil(seconds))
        patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": timeout}
        before = {name: os.environ.get(name) for name in patience}
        os.environ.update(patience)
        try:
            return deadline.within(seconds, question)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def begin(self, name: str, session: str, began: float, tags: Mapping[str, str]) -> None:
        """Open the run of the session, below which its records go."""
        own = {
            history.RECORD: "session",
            history.SESSION: session,
            _OF_SESSION: session,
            _PROCESS: _this_process(),
        }
        self._began = began
        self.session_run = self._asked(lambda: self._created(name, began, {**tags, **own}), _BUSY).run_id

    def end(self, status: str, metrics: Mapping[str, float]) -> None:
        """End the run of the session."""
        run_id = self.session_run
        if run_id is not None:
            self._asked(lambda: self._completed(run_id, time.time(), status, {}, metrics), _BUSY)

    def write(self, record: Record) -> str:
        """Write one record whole; the id of its run."""
        return self._asked(lambda: self._written(record, "test", self.session_run), _BUSY)

    def _written(self, record: Record, kind: str, parent: str | None) -> str:
        own = {
            history.RECORD: kind,
            history.SESSION: record.session,
            _OF_SESSION: record.session,
            "mlctx.nodeid": record.nodeid,
            _TEST: record.nodeid,
        }
        if kind == "test" and record.tags.get("mlctx.outcome") == "passed":
            own |= history.tags(record.key or record.nodeid, record.tags.get(history.BRANCH, ""))
        if parent is not None:
            own["mlflow.parentRunId"] = parent
        info = self._created(record.name, record.started, {**record.tags, **own})
        run_id = str(info.run_id)
        if record.files:
            self._attach(info.artifact_uri, record.files)
        self._completed(run_id, record.ended, record.status, record.params, record.metrics)
        for child in record.children:
            self._store.set_tag(child, _entity("RunTag", "mlflow.parentRunId", run_id))
        for trial in record.trials:
            self._written(trial, "trial", run_id)
        return run_id

    def _created(self, name: str, started: float, tags: Mapping[str, str]) -> Any:
        every = {_TYPE: "test", "mlflow.user": _user(), **tags}
        entities = [_entity("RunTag", storable_key(key), storable(value)) for key, value in every.items()]
        user, moment = every["mlflow.user"], self._milliseconds(started)
        run = self._store.create_run(self.experiment_id, user, moment, entities, storable(name, 250))
        return run.info

    def _completed(
        self, run_id: str, ended: float, status: str, params: Mapping[str, str], metrics: Mapping[str, float]
    ) -> None:
        moment = self._milliseconds(ended)
        rest_of_params = iter(
            [_entity("Param", storable_key(key), storable(value)) for key, value in params.items()]
        )
        rest_of_metrics = iter(
            [_entity("Metric", storable_key(key), value, moment, 0) for key, value in metrics.items()]
        )
        while True:
            some_params = [*islice(rest_of_params, _MOST_AT_ONCE["params"])]
            some_metrics = [*islice(rest_of_metrics, _MOST_AT_ONCE["metrics"] - len(some_params))]
            if not (some_params or some_metrics):
                break
            self._store.log_batch(run_id, some_metrics, some_params, [])
        from mlflow.entities import RunStatus

        self._store.update_run_info(run_id, RunStatus.from_string(status), moment, None)

    def _milliseconds(self, moment: float) -> int:
        """Within the session: pytest tells the time that a fixture has frozen, and history goes by it."""
        return round(min(max(moment, self._began), self._now()) * 1000)

    def _attach(self, uri: str, files: Mapping[str, str]) -> None:
        registry = import_module("mlflow.store.artifact.artifact_repository_registry")
        if uri.startswith("mlflow-artifacts:"):  # MLflow 2 would ask its global tracking URI for the host
            proxied = import_module("mlflow.store.artifact.mlflow_artifacts_repo")
            uri = proxied.MlflowArtifactsRepository.resolve_uri(uri, self.uri)
        with tempfile.TemporaryDirectory(prefix="mlctx-") as folder:
            for name, text in files.items():
                path = Path(folder, name)
                path.write_text(credentials.redact_prose(text), "utf-8", errors="backslashreplace")
            registry.get_artifact_repository(uri).log_artifacts(folder)

    def _end_abandoned(self) -> None:
        """End what sessions left open that were killed; they leave nothing else."""
        from mlflow.entities import ViewType

        wanted = f"tags.`{history.RECORD}` = 'session' AND attributes.status = 'RUNNING'"
        for run in self._store.search_runs([self.experiment_id], wanted, ViewType.ACTIVE_ONLY, 100):
            if _is_gone(run.data.tags.get(_PROCESS, ""), run.info.start_time / 1000):
                session = run.data.tags.get(history.SESSION, "").replace("'", "")
                below = f"tags.`{history.SESSION}` = '{session}' AND attributes.status = 'RUNNING'"
                found = self._store.search_runs([self.experiment_id], below, ViewType.ACTIVE_ONLY, 1000)
                for left in found:
                    self._completed(left.info.run_id, time.time(), "KILLED", {}, {})

    def pin(self) -> None:
        """Make the records of this session the anchor of later ones."""
        run_id = self.session_run
        if run_id is not None:
            self._asked(lambda: self._store.set_tag(run_id, _entity("RunTag", history.ANCHOR, "true")))

    def address(self, run_id: str | None = None) -> str | None:
        """Where MLflow's UI shows a run, or the session's; None where the store is no server."""
        run_id = run_id or self.session_run
        if uris.scheme(self.uri) not in ("http", "https") or run_id is None:
            return None
        return credentials.redact(f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}")


@contextmanager
def _told(uri: str) -> Iterator[None]:
    from pytest_mlctx.services.mlflow import incompatibility

    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        told = (
            incompatibility(error) or f"{credentials.redact(uri)!r} cannot be used ({deadline.reason(error)})"
        )
        raise ServiceError(told) from None


def storable(text: str, longest: int = _LONGEST_VALUE) -> str:
    """The text as every store takes it, without credentials; what is cut ends in a digest."""
    text = credentials.redact_prose(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[: longest - len(digest) - 1]}…{digest}"


def storable_key(text: str) -> str:
    """The text as the name of a metric, parameter or tag, of the characters that MLflow allows there."""
    plain = re.sub(r"[^\w\-. /:]", "_", storable(text, _LONGEST_KEY), flags=re.ASCII)
    parts = [part if part.strip(".") else "_" * max(len(part), 1) for part in plain.split("/")]
    return "/".join(parts)


def _entity(kind: str, *fields: Any) -> Any:
    return getattr(import_module("mlflow.entities"), kind)(*fields)


def _user() -> str:
    try:
        return getpass.getuser()
    except Exception:  # in a container whose user has no name
        return "unknown"


def _this_process() -> str:
    import psutil

    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def _is_gone(process: str, started: float) -> bool:
    """Whether the process of a session has ended; that of another machine can't be asked, and gets a day."""
    host, _, rest = process.partition(":")
    if host != socket.gethostname():
        return time.time() - started > _ABANDONED
    import psutil

    pid, _, created = rest.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" != created
    except (psutil.Error, ValueError):
        return True
