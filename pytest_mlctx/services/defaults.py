"""MLflow's fallbacks while a service runs: its store, and on that store its experiment and registry.

They stand in the environment, where MLflow looks last: what code sets itself goes before them.
Code that moves to another store finds MLflow's own defaults there.
"""

from __future__ import annotations

import inspect
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any, NamedTuple

from pytest_mlctx.services import mlflow_internals

_TRACKING, _REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
_ID, _NAME = "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"
_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"  # where a child process keeps the artifacts of a new experiment


class Defaults(NamedTuple):
    """Those of the innermost running service."""

    tracking_uri: str
    registry_uri: str
    experiment_id: str
    artifact_root: str = ""

    def of_this_store_only(self) -> dict[str, str]:
        """The variables that hold on the tracking store alone; a registry elsewhere is in use everywhere."""
        found = {_ID: self.experiment_id}
        if self.artifact_root:
            found[_ROOT] = self.artifact_root
        if self.registry_uri == self.tracking_uri:
            found[_REGISTRY] = self.registry_uri
        return found


held: Defaults | None = None
"""Captured and put back with the state of MLflow."""


def track_to(tracking_uri: str, registry_uri: str) -> None:
    """Make these the stores that MLflow falls back on; tracing stays off where it was."""
    import mlflow
    from mlflow.tracing.provider import disable, is_tracing_enabled

    global held
    held = None
    if mlflow.get_tracking_uri() != tracking_uri:
        traced = is_tracing_enabled()
        mlflow.set_tracking_uri(tracking_uri)  # a tracer provider exports to the one before until then
        if not traced:
            disable()
    _module("tracking._tracking_service.utils")._tracking_uri = None
    _module("tracking._model_registry.utils")._registry_uri = None
    os.environ[_TRACKING], os.environ[_REGISTRY] = tracking_uri, registry_uri


def activate_experiment(experiment_id: str) -> None:
    """Make this the experiment that MLflow falls back on, in the store that it tracks to now."""
    import mlflow

    global held
    held = Defaults(
        mlflow.get_tracking_uri(), mlflow.get_registry_uri(), experiment_id, os.environ.get(_ROOT, "")
    )
    os.environ[_ID] = experiment_id
    tracking = _module("tracking._tracking_service.utils")
    if not isinstance(tracking.MLFLOW_TRACKING_URI, _WithFallback):
        tracking.MLFLOW_TRACKING_URI = _WithFallback(tracking.MLFLOW_TRACKING_URI)
    _module("tracking.fluent")._active_experiment_id = None
    _wrap("reset", _following)
    _wrap("_get_experiment_id_from_env", lambda original: _hiding(original, _ID, known=True))
    _wrap("_get_registry_uri_from_context", lambda original: _hiding(original, _REGISTRY))


def active_experiment_id() -> str:
    """The experiment that the fluent API opens runs in, where code or a service has set one; else empty."""
    return str(_module("tracking.fluent")._active_experiment_id or os.environ.get(_ID, ""))


def stood_in(value: object) -> bool:
    """Whether the environment has this value from a running service."""
    return held is not None and value in held


def _module(name: str) -> Any:
    return import_module(f"mlflow.{name}")


def _wrap(name: str, wrapper: Callable[[Any], Any]) -> None:
    if not mlflow_internals.known(name):
        return
    module = mlflow_internals.owner(name)
    original = getattr(module, name)
    if not hasattr(original, "mlctx_defaults"):
        wrapped: Any = wraps(original)(wrapper(original))
        wrapped.mlctx_defaults = True
        setattr(module, name, wrapped)


def _hiding(original: Any, variable: str, *, known: bool = False) -> Any:
    """MLflow's look at a variable, which does not see ours while code tracks elsewhere or names another."""

    def look() -> Any:
        ours = None if held is None else held.of_this_store_only().get(variable)
        if ours is None or os.environ.get(variable) != ours:
            return original()
        if _is_elsewhere() or (variable == _ID and _NAME in os.environ):
            with _hidden(variable):
                return original()
        return ours if known else original()  # MLflow would ask the store for the experiment

    return look


class _WithFallback:
    """How MLflow looks at ``MLFLOW_TRACKING_URI``: where it is deleted, the service's store is in force."""

    __code__ = _wrap.__code__  # by which the state knows that it is none of MLflow's

    def __init__(self, original: Any) -> None:
        self.__wrapped__ = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def get(self) -> Any:
        return self.__wrapped__.get() or (held.tracking_uri if held is not None else None)


def _following(original: Any) -> Any:
    """What MLflow calls when its tracking URI was set: our variables go and come, for child processes."""

    def reset(*arguments: Any, **named: Any) -> Any:
        try:
            return original(*arguments, **named)
        finally:
            if held is not None:
                _follow(held)

    return reset


def _follow(ours: Defaults) -> None:
    if _module("tracking._tracking_service.utils")._tracking_uri is None:
        os.environ.setdefault(_TRACKING, ours.tracking_uri)  # MLflow unsets it together with its own
    elsewhere = _is_elsewhere()
    for name, value in ours.of_this_store_only().items():
        if elsewhere and os.environ.get(name) == value:
            del os.environ[name]
        elif not elsewhere and not (name == _ID and _NAME in os.environ):
            os.environ.setdefault(name, value)


@contextmanager
def kept_from_other_stores() -> Iterator[None]:
    """Within the block a child process that is given another store is not given what holds on ours."""

    def wrap(original: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(original)

        def start(*arguments: Any, **named: Any) -> None:
            call = signature.bind(*arguments, **named)
            call.arguments["env"] = _for_child(call.arguments.get("env"))
            original(*call.args, **call.kwargs)

        return start

    with mlflow_internals.around(subprocess.Popen, "__init__", wrap):
        yield


def _for_child(environment: Mapping[str, str] | None) -> Mapping[str, str] | None:
    given = os.environ if environment is None else environment
    if held is None or given.get(_TRACKING) == held.tracking_uri:
        return environment
    ours = held.of_this_store_only()
    return {name: value for name, value in given.items() if name not in ours or value != ours[name]}


def _is_elsewhere() -> bool:
    import mlflow

    return held is not None and mlflow.get_tracking_uri() != held.tracking_uri


@contextmanager
def _hidden(variable: str) -> Iterator[None]:
    value = os.environ.pop(variable)
    try:
        yield
    finally:
        os.environ[variable] = value
