"""MLflow's private names: what is lost where one is missing, and the one way to wrap one."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

_SOURCE = "the source of runs under pytest-xdist is -c"
_STORES = "its stores are made and opened more slowly"
_TRACES = "mlflow_traces stays empty, and reports show no traces"
_WRITTEN = "traces are written as they end, which is slower"
_FOLLOWS = "the experiment of the service may follow a test into a store of its own that a variable names"
_ASKED = "a model in a remote registry is not refused before MLflow asks for it"
_TAGS = "runs are not tagged, and reports do not show them"
_BUILDERS = "stores are opened MLflow's own way, and a remote store that code names is not refused"
_OPEN = "a run that is left open in another thread stays open"
_BLOCKED = "a thread that imports while autologging is configured may block for ever"

_TRACKING, _MODELS = "mlflow.tracking._tracking_service", "mlflow.tracking._model_registry.utils"
_FLUENT, _TRACING = "mlflow.tracking.fluent", "mlflow.tracing"
_AUTOLOGGING, _HOOKS = "mlflow.utils.autologging_utils", "mlflow.utils.import_hooks"
_UTILS, _REMOTE = "mlflow.store.db.utils", "mlflow.store.artifact.models_artifact_repo"
_MANAGER, _EXPORTER = "mlflow.tracing.trace_manager", "mlflow.tracing.export.mlflow_v3"


class Name(NamedTuple):
    """One private name: a function that takes so many positional arguments, or a variable."""

    module: str
    path: str
    takes: int | None
    consequence: str
    since: tuple[int, int] = (2, 22)
    """The version of MLflow that has it first."""

    def __str__(self) -> str:
        return f"{self.module}.{self.path}"


def _state(module: str, path: str, what: str, since: tuple[int, int] = (2, 22)) -> Name:
    return Name(module, path, None, f"{what} that a test leaves changed stays so for the next", since)


NAMES = (
    Name(f"{_TRACKING}.utils", "_tracking_store_registry._registry", None, _BUILDERS),
    Name(_MODELS, "_get_store_registry", 0, _BUILDERS),
    Name(_UTILS, "create_sqlalchemy_engine", 1, _STORES),
    Name(f"{_TRACKING}.client", "TrackingServiceClient.create_run", 5, _TAGS),
    Name(_FLUENT, "_active_run_stack", None, _OPEN),
    _state(f"{_TRACKING}.utils", "_tracking_uri", "a tracking URI"),
    _state(_MODELS, "_registry_uri", "a registry URI"),
    _state(_FLUENT, "_active_experiment_id", "an active experiment"),
    _state(_FLUENT, "_last_active_run_id", "a last active run"),
    _state(_FLUENT, "_ACTIVE_MODEL_CONTEXT", "an active model", (3, 0)),
    _state(_AUTOLOGGING, "AUTOLOGGING_INTEGRATIONS", "autologging"),
    _state(_AUTOLOGGING, "_AUTOLOGGING_GLOBALLY_DISABLED", "autologging disabled for all"),
    _state(f"{_TRACING}.provider", "_MLFLOW_TRACE_USER_DESTINATION", "a tracing destination"),
    _state(f"{_TRACING}.config", "_MLFLOW_TRACING_CONFIG.span_processors", "a span processor", (3, 5)),
    _state("mlflow.utils.workspace_context", "_WORKSPACE", "a workspace", (3, 10)),
    Name("mlflow.tracking.context.default_context", "_get_source_name", 0, _SOURCE),
    Name(_FLUENT, "_get_experiment_id_from_env", 0, _FOLLOWS),
    Name(f"{_TRACKING}.utils", "reset", 0, _FOLLOWS),
    Name(_MODELS, "_get_registry_uri_from_context", 0, _FOLLOWS),
    Name(_UTILS, "_initialize_tables", 1, _STORES),
    Name(_UTILS, "_get_latest_schema_revision", 0, _STORES),
    Name(_UTILS, "_get_managed_session_maker", 2, _STORES),
    Name(_UTILS, "_verify_schema", 1, _STORES),
    Name(_MANAGER, "InMemoryTraceManager.register_trace", 3, _TRACES),
    Name(_MANAGER, "InMemoryTraceManager.pop_trace", 2, _TRACES),
    Name(_EXPORTER, "MlflowV3SpanExporter._log_spans", 3, _WRITTEN, (3, 5)),
    Name(_EXPORTER, "MlflowV3SpanExporter._log_trace", 3, _WRITTEN, (3, 0)),
    # Within a decorator that takes any arguments.
    Name(_HOOKS, "ImportHookFinder.find_spec", None, _BLOCKED),
    Name(_HOOKS, "notify_module_loaded", None, _BLOCKED),
    Name(_REMOTE, "is_databricks_unity_catalog_uri", 1, _ASKED),
    Name(_REMOTE, "is_oss_unity_catalog_uri", 1, _ASKED),
    Name(_REMOTE, "is_using_databricks_registry", 1, _ASKED),
)
_BY_PATH = {name.path: name for name in NAMES}

missing: list[str] = []
"""What this process has looked for in vain, a sentence for each name."""


def known(path: str) -> bool:
    """Whether MLflow has the name as we know it; `missing` tells where it has it no more."""
    return _why_not(_BY_PATH[path]) is None


def listed(*paths: str) -> tuple[str, ...]:
    """Those of them that are in `NAMES`."""
    return tuple(path for path in paths if path in _BY_PATH)


def owner(path: str) -> Any:
    """The module or class that has it."""
    name = _BY_PATH[path]
    found = import_module(name.module)
    for part in name.path.split(".")[:-1]:
        found = getattr(found, part)
    return found


@contextmanager
def wrapped(path: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block it is what ``wrap`` makes of it, where MLflow has it."""
    if not known(path):
        yield
        return
    with around(owner(path), path.rpartition(".")[2], wrap):
        yield


@contextmanager
def around(place: Any, attribute: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block this of a module or class, where it has it, is what ``wrap`` makes of it.

    What somebody else has put there since stays.
    """
    if not hasattr(place, attribute):
        yield
        return
    original, inherited = getattr(place, attribute), attribute not in vars(place)
    own = functools.wraps(original)(wrap(original))
    setattr(place, attribute, own)
    try:
        yield
    finally:
        if getattr(place, attribute) is own:
            if inherited:
                delattr(place, attribute)
            else:
                setattr(place, attribute, original)


@functools.cache
def _why_not(name: Name) -> str | None:
    mlflow = numbers("mlflow-skinny")
    if mlflow < name.since:
        return "not yet there"
    try:
        found: Any = import_module(name.module)
        for part in name.path.split("."):
            found = getattr(found, part)
        if name.takes is not None:
            inspect.signature(found).bind(*[None] * name.takes)
    except (ImportError, AttributeError, TypeError, ValueError):
        number = ".".join(map(str, mlflow))
        why = f"MLflow {number} has no {name} as this plugin knows it: {name.consequence}."
        missing.append(why)
        return why
    return None


def numbers(distribution: str) -> tuple[int, int]:
    """The first two numbers of the version that is installed."""
    found = re.match(r"(\d+)\.(\d+)", version(distribution))
    return (int(found[1]), int(found[2])) if found else (0, 0)
