"""The runs and models that MLflow takes for the current ones, of every thread."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from pytest_mlctx.services import mlflow_internals, registries
from pytest_mlctx.services.deadline import reason, within
from pytest_mlctx.services.state.kinds import ABSENT, Held, Kind
from pytest_mlctx.services.state.mlflow_stores import engines

_FLUENT = "mlflow.tracking.fluent"
_EVERYONES = "_ThreadLocalVariable__global_thread_values"
_OPEN = ("RUNNING", "SCHEDULED")

DEADLINE = 4.0
"""Seconds for all that servers are asked about one run."""


def _variable(name: str) -> Any | None:
    return getattr(sys.modules.get(_FLUENT), name, None)


def _by_thread(variable: Any) -> dict[int, Any]:
    values: dict[int, Any] = {} if variable is None else variable.get_all_thread_values()
    return values


class _Stacks(dict[int, Any]):
    """The run stacks by thread, where that of an ended thread stays when another gets the thread's id."""

    def __setitem__(self, thread: int, stack: Any) -> None:
        lost = self.get(thread)
        if lost and lost is not stack:
            super().__setitem__(-id(lost), lost)
        super().__setitem__(thread, stack)


def active_runs() -> list[Any]:
    """MLflow's own list of this thread's active runs, the innermost last; a copy where it is not known."""
    if mlflow_internals.known("_active_run_stack"):
        stack: list[Any] = sys.modules[_FLUENT]._active_run_stack.get()
        return stack
    run = sys.modules["mlflow"].active_run()
    return [] if run is None else [run]


def _run_stacks() -> dict[int, Any]:
    if not mlflow_internals.known("_active_run_stack"):
        return {threading.get_ident(): active_runs()}
    variable = _variable("_active_run_stack")
    stacks = getattr(variable, _EVERYONES, {})
    if type(stacks) is dict and variable is not None:
        setattr(variable, _EVERYONES, _Stacks(stacks))
    return _by_thread(variable)


class OpenRun(Kind):
    """A run on the stack of a thread, living or ended, by thread and run id."""

    name = "mlflow.run"
    held_by_garbage = True  # a callback's __del__ may end the run that is active, whichever it is then

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The runs, each with its place in its stack."""
        return [
            ((thread, run.info.run_id), Held("open", (place, run)))
            for thread, stack in _run_stacks().items()
            for place, run in enumerate([*stack])
        ]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Close the run as KILLED, or put the very object back and open it again."""
        thread, run_id = key
        here = thread == threading.get_ident()
        stack = active_runs() if here else _by_thread(_variable("_active_run_stack")).get(thread)
        if before is ABSENT:
            if here and not mlflow_internals.known("_active_run_stack"):
                sys.modules["mlflow"].end_run("KILLED")
            if stack is not None:
                stack[:] = [run for run in stack if run.info.run_id != run_id]
            _set_status(run_id, "KILLED", unless_ended=True)
            return
        place, run = before.thing
        active_runs().insert(place, run)
        _set_status(run_id, "RUNNING", unless_ended=False)

    def is_elsewhere(self, key: Any) -> bool:
        """By the thread in the key."""
        return bool(key[0] != threading.get_ident())

    def ignores_gone(self, key: Any) -> bool:
        """Another thread ends its own runs."""
        return self.is_elsewhere(key)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """Id and name of the run."""
        _, run = (before if after is ABSENT else after).thing
        where = " in another thread" if self.is_elsewhere(key) else ""
        what = "ended, which was open before" if after is ABSENT else "left open"
        return f"run {key[1][:8]}… ({run.info.run_name}) {what}{where}"


def _set_status(run_id: str, status: str, *, unless_ended: bool) -> None:
    """Set the run's status in the store that has it: those of this machine are asked first."""
    began = time.monotonic()
    failure: RuntimeError | None = None
    for store in _stores():
        seconds = max(DEADLINE - (time.monotonic() - began), 0.1)
        try:
            set_status(store, run_id, status, unless_ended=unless_ended, seconds=seconds)
        except LookupError:
            continue
        except RuntimeError as error:
            failure = failure or error
        else:
            return
    if failure is not None:
        raise failure


def set_status(
    store: Any,
    run_id: str,
    status: str,
    tags: Mapping[str, str] | None = None,
    *,
    unless_ended: bool = False,
    seconds: float | None = None,
) -> None:
    """Set a run's status in a store of MLflow's, and tags beforehand; a server has `DEADLINE` seconds for it.

    Raises:
        LookupError: the store has no such run.
        RuntimeError: why it could not be done, in one sentence.
    """
    ask = _ask_server if hasattr(store, "get_host_creds") else _ask_store
    work = functools.partial(ask, store, run_id, status, tags or {}, unless_ended)
    try:
        found = within(DEADLINE if seconds is None else seconds, work) if _is_remote(store) else work()
    except Exception as error:
        what = "opened again" if status in _OPEN else f"closed as {status}"
        why = reason(error)
    else:
        if found:
            return
        raise LookupError(f"The MLflow run {run_id} is not in its store.")
    raise RuntimeError(f"The MLflow run {run_id} could not be {what} ({why}).")


def _is_remote(store: Any) -> bool:
    engine = getattr(store, "engine", None)
    return hasattr(store, "get_host_creds") or (engine is not None and engine.dialect.name != "sqlite")


def _ask_store(store: Any, run_id: str, status: str, tags: Mapping[str, str], unless_ended: bool) -> bool:
    entities = sys.modules["mlflow.entities"]
    try:
        info = store.get_run(run_id).info
    except sys.modules["mlflow.exceptions"].MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    if not unless_ended or info.status in _OPEN:
        for key, value in tags.items():
            store.set_tag(run_id, entities.RunTag(key, value))
        end_time = info.end_time if status in _OPEN else int(time.time() * 1000)
        store.update_run_info(run_id, entities.RunStatus.from_string(status), end_time, None)
    return True


def _ask_server(store: Any, run_id: str, status: str, tags: Mapping[str, str], unless_ended: bool) -> bool:
    """As MLflow's REST store asks, but once, and not for as long as the environment's retries take."""

    def ask(what: str, method: str, **fields: Any) -> Any:
        answer = sys.modules["mlflow.utils.rest_utils"].http_request(
            store.get_host_creds(),
            f"/api/2.0/mlflow/runs/{what}",
            method,
            max_retries=0,
            timeout=20,  # past the caller's patience: a server that is busy closes the run meanwhile
            raise_on_status=False,
            **fields,
        )
        if answer.status_code not in (200, 404):
            raise ConnectionError(f"the server answers HTTP {answer.status_code}")
        return answer

    answer = ask("get", "GET", params={"run_id": run_id})
    if answer.status_code == 404:
        return False
    if not unless_ended or answer.json()["run"]["info"]["status"] in _OPEN:
        for key, value in tags.items():
            ask("set-tag", "POST", json={"run_id": run_id, "key": key, "value": value})
        ended = {} if status in _OPEN else {"end_time": int(time.time() * 1000)}
        ask("update", "POST", json={"run_id": run_id, "status": status, **ended})
    return True


def _stores() -> Iterator[Any]:
    """The tracking stores that may have a run, without making one: the open ones, then the known ones."""
    caches = [type(registry)._get_store_with_resolved_uri for registry in registries.both()[:1]]
    cached = [store for store in gc.get_referents(*caches) if hasattr(store, "update_run_info")]
    yield from (store for store in cached if not _is_remote(store))
    # The cache is dropped whenever a builder changes; the engines and the URI in force are not.
    for uri in dict.fromkeys((*engines().get("tracking", ()), sys.modules["mlflow"].get_tracking_uri())):
        with suppress(Exception):
            if _exists(uri):
                yield registries.tracking_store(uri)
    yield from (store for store in cached if _is_remote(store))


def _exists(uri: str) -> bool:
    """Whether asking for the store of this URI writes nothing."""
    scheme, path = uri.partition(":")[0], uri.partition(":///")[2]
    if scheme.startswith("sqlite"):
        return Path(path).is_file() and Path(path).stat().st_size > 0
    if scheme in ("http", "https") or scheme.startswith("databricks"):
        return True
    return Path(url2pathname(unquote(urlsplit(uri).path)) if scheme == "file" else uri).is_dir()


def experiment_name(experiment_id: str) -> str | None:
    """The name of an experiment, where the store in force is in SQLite or folders: another takes its time."""
    uri = sys.modules["mlflow"].get_tracking_uri()
    engine = engines().get("tracking", {}).get(uri)
    for store in _stores():
        # One whose engine is closed may still be cached: who asked it would open what nobody closes.
        is_asked = (
            hasattr(store, "root_directory") if engine is None else getattr(store, "engine", None) is engine
        )
        if is_asked and not _is_remote(store):
            with suppress(Exception):  # it may have been deleted
                return str(store.get_experiment(experiment_id).name)
    return None


class PerThread(Kind):
    """A variable that each thread has its own of; MLflow's globals of closed work."""

    def __init__(self, name: str, variable: str) -> None:
        self.name = name
        self.leans_on: tuple[str, ...] = mlflow_internals.listed(variable)
        self._variable = variable

    def _value(self, value: Any) -> object:
        return value

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The values that are set, by thread."""
        values = _by_thread(_variable(self._variable)).items()
        return [(thread, self._value(value)) for thread, value in values if value is not None]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Set or forget the value; of another thread only what all threads see of it can be reached."""
        variable: Any = _variable(self._variable)
        value = before.thing if isinstance(before, Held) else before
        everyones = getattr(variable, _EVERYONES)
        if before is ABSENT:
            everyones.pop(key, None)
            if key == threading.get_ident():
                vars(variable.thread_local).pop("value", None)
        elif key == threading.get_ident():
            variable.set(value)
        else:
            everyones[key] = value

    def is_elsewhere(self, key: Any) -> bool:
        """By the key, which is the thread."""
        return bool(key != threading.get_ident())


class ActiveModel(PerThread):
    """The model that traces are linked to."""

    def __init__(self) -> None:
        super().__init__("mlflow.active_model", "_ACTIVE_MODEL_CONTEXT")

    def _value(self, value: Any) -> object:
        return Held((value.model_id, value.set_by_user), value)

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The contexts that name a model: MLflow makes empty ones when it looks."""
        return [(thread, held) for thread, held in super().read() if held.key[0] is not None]  # type: ignore[attr-defined]

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The id of the model."""
        return "active model unset" if after is ABSENT else f"active model set to {after.key[0]}"


KINDS: tuple[Kind, ...] = (
    OpenRun(),
    PerThread("mlflow.last_active_run", "_last_active_run_id"),
    PerThread("mlflow.last_logged_model", "_last_logged_model_id"),
    ActiveModel(),
)
