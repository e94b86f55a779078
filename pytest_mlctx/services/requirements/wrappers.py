"""Wrappers around the functions by which MLflow infers requirements, in place while reuse is installed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_mlctx.services import cache, import_hooks
from pytest_mlctx.services.requirements import command, helper
from pytest_mlctx.services.requirements.distributions import installed
from pytest_mlctx.services.requirements.memory import Memory, Observation, Question, left_to_mlflow
from pytest_mlctx.services.requirements.originals import Originals
from pytest_mlctx.services.requirements.uv import Exports


class RequirementsWarning(UserWarning):
    """The requirements of models are inferred MLflow's own way, where they were to be reused."""


@dataclass
class Statistics:
    """What became of the questions: how many answers were reused, how many inferred, in how many seconds."""

    reused: int = 0
    inferred: int = 0
    seconds: float = 0.0
    refused: str | None = None
    """Why nothing is kept between sessions, in one sentence."""


@dataclass(eq=False)
class Reuse:
    """One :func:`install`."""

    when: Callable[[], bool]
    statistics: Statistics = field(default_factory=Statistics)


_installed: list[Reuse] = []
_wrapped: list[tuple[types.ModuleType, str, Any, Any]] = []  # module, name, ours, MLflow's
_lock = threading.RLock()
_here = threading.local()  # the observation of the inference that this thread runs
_memory: Memory | None = None
_originals: Originals | None = None


def install(when: Callable[[], bool] = lambda: True) -> Reuse:
    """Reuse what MLflow infers of models from here on, in this process, until :func:`uninstall`.

    MLflow is not imported: where it is not yet, it is wrapped as it is. Installs nest.

    Args:
        when: asked at each model; where no install says yes, MLflow goes its own way.
    """
    global _originals
    reuse = Reuse(when)
    with _lock:
        _installed.append(reuse)
        if len(_installed) == 1:
            _originals = Originals()
            _finder.install()
            for name in _WRAPPERS:
                if name in sys.modules and not getattr(sys.modules[name].__spec__, "_initializing", False):
                    _wrap(sys.modules[name])
    return reuse


def uninstall(reuse: Reuse) -> None:
    """End one :func:`install`; the last one gives MLflow its functions back. A further call does nothing."""
    global _memory
    with _lock:
        if reuse not in _installed:
            return
        _installed.remove(reuse)
        if not _installed:
            _finder.uninstall()
            for module, name, ours, original in _wrapped:
                if getattr(module, name, None) is ours:
                    setattr(module, name, original)
            _wrapped.clear()
            _memory = None
            helper.stop()


@contextlib.contextmanager
def reuse_requirements() -> Iterator[Statistics]:
    """Infer the requirements of each kind of model once, here and in later processes, and reuse them.

    ``log_model`` and ``save_model`` store what they would have stored. Yields what was reused and what was
    inferred in this context so far.
    """
    reuse = install()
    try:
        yield reuse.statistics
    finally:
        uninstall(reuse)


def _ask(question: Question, infer: Callable[[], list[str]]) -> list[str]:
    """Answer one question of MLflow's, by what is remembered or by ``infer``, MLflow's own function."""
    active = _active()
    if not active or left_to_mlflow(question):
        return infer()
    asked = False

    def observed(observation: Observation) -> list[str]:
        nonlocal asked
        asked = True
        started = time.perf_counter()
        _here.observation = observation
        try:
            return infer()
        finally:
            _here.observation = None
            for reuse in active:
                reuse.statistics.inferred += 1
                reuse.statistics.seconds += time.perf_counter() - started

    try:
        answer = _remembered().answer(question, observed)
    except Exception as error:
        if asked or type(error).__name__ == "MlflowTimeoutError":  # MLflow's own
            raise
        _warn(f"requirements of this model are inferred MLflow's own way: {type(error).__name__}: {error}")
        return infer()
    if answer.reused:
        for reuse in active:
            reuse.statistics.reused += 1
        for message in answer.warnings:
            sys.modules["mlflow.utils.requirements_utils"]._logger.warning(message)
    return answer.lines


def _active() -> list[Reuse]:
    """The installs that want reuse now; none while something has another's place, such as a test's mock."""
    instead = (ours for _, _, ours, _ in _wrapped if isinstance(ours, _Instead))
    if _originals is None or not _originals.holds() or any(one._is_patched() for one in instead):
        return []
    return [reuse for reuse in _installed if reuse.when()]


def _remembered() -> Memory:
    global _memory
    with _lock:
        if _memory is None:
            _memory = Memory(cache.user().folder("requirements"))
        for reuse in _installed:
            reuse.statistics.refused = _memory.refused
        return _memory


def _question(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def ask(*arguments: Any, **options: Any) -> list[str]:
        given = signature.bind(*arguments, **options)
        given.apply_defaults()
        settings = dict(given.arguments)
        model, flavor = settings.pop("model_uri"), settings.pop("flavor")
        settings["extra_env_vars"] = sorted((settings["extra_env_vars"] or {}).items())
        infer = functools.partial(original, *arguments, **options)
        return _ask(Question(original.__name__, Path(str(model)), flavor, settings), infer)

    return ask


def _run_command(original: Any) -> Any:
    @functools.wraps(original)
    def run(cmd: list[str], timeout_seconds: float, env: Any = None) -> None:
        observation: Observation | None = getattr(_here, "observation", None)
        if observation is None:
            original(cmd, timeout_seconds, env=env)
        else:
            command.run(cmd, timeout_seconds, env, original, observation)

    return run


def _by_distributions(original: Any) -> Any:
    """What MLflow reads anew for each model, though the same distributions say the same."""

    @functools.cache
    def read(distributions: str, *arguments: Any) -> Any:
        result = original(*arguments)
        return tuple(result) if inspect.isgenerator(result) else result

    @functools.wraps(original)
    def remembered(*arguments: Any, **options: Any) -> Any:
        if options or _originals is None or not _originals.holds():
            return original(*arguments, **options)
        return read(installed().digest, *arguments)

    return remembered


def _export_uv_requirements(original: Any) -> Any:
    exports = Exports(original)

    @functools.wraps(original)
    def export(*arguments: Any, **options: Any) -> list[str] | None:
        return exports(*arguments, **options) if _active() else original(*arguments, **options)

    return export


class _Instead:
    """Stands in for an object of MLflow's; who patches an attribute that is not ours patches the object's."""

    def __init__(self, original: Any) -> None:
        self.__dict__["_original"] = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self if name in vars(type(self)) else self._original, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self if name in vars(type(self)) else self._original, name)

    def _is_patched(self) -> bool:
        ours = {name: value for name, value in vars(self).items() if name in vars(type(self))}
        return any(getattr(value, "__self__", None) is not self for value in ours.values())


class _Listener(_Instead):
    """MLflow's logger, listened to: what is warned during an inference is said again with each reuse."""

    def warning(self, message: Any, *arguments: Any, **options: Any) -> None:
        observation: Observation | None = getattr(_here, "observation", None)
        if observation is not None:
            observation.warnings.append(str(message) % arguments if arguments else str(message))
        options["stacklevel"] = options.get("stacklevel", 1) + 1
        self._original.warning(message, *arguments, **options)


class _Metadata(_Instead):
    """MLflow's importlib_metadata: every process reads all distributions, to say the same of the same."""

    def packages_distributions(self) -> Mapping[str, list[str]]:
        read = self._original.packages_distributions
        return _remembered().packages(read) if _active() else read()


_WRAPPERS: dict[str, dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]]] = {
    "mlflow.utils.environment": {
        "_infer_requirements": (
            _question,
            ("model_uri", "flavor", "raise_on_error", "extra_env_vars"),
        ),
        "export_uv_requirements": (
            _export_uv_requirements,
            ("directory", "no_dev", "no_hashes", "frozen", "groups", "extras"),
        ),
    },
    "mlflow.utils.model_utils": {
        "_capture_imported_modules": (
            _question,
            ("model_uri", "flavor", "record_full_module", "extra_env_vars"),
        )
    },
    "mlflow.utils.requirements_utils": {
        "_run_command": (_run_command, ("cmd", "timeout_seconds", "env")),
        "_get_requires": (_by_distributions, ("pkg_name",)),
        "_get_installed_version": (_by_distributions, ("package", "module")),
        "_logger": (_Listener, ()),
        "importlib_metadata": (_Metadata, ()),
    },
}


_DISPENSABLE = (
    _by_distributions,
    _export_uv_requirements,
    _Metadata,
)  # without them it takes longer, no more


def _wrap(module: types.ModuleType) -> None:
    for name, (wrapper, parameters) in _WRAPPERS[module.__name__].items():
        original = getattr(module, name, None)
        if original is None or (parameters and tuple(inspect.signature(original).parameters) != parameters):
            if wrapper not in _DISPENSABLE:
                _warn(
                    "requirements of models are inferred MLflow's own way: this MLflow has no "
                    f"{module.__name__}.{name}({', '.join(parameters)})"
                )
            continue
        ours = wrapper(original)
        _wrapped.append((module, name, ours, original))
        setattr(module, name, ours)
    if _originals is not None:
        _originals.learn(module)
        _originals.learn_imported()


def _warn(message: str) -> None:
    with contextlib.suppress(RequirementsWarning):  # as an error it would change what MLflow stores
        warnings.warn(message, RequirementsWarning, stacklevel=2)


def _imported(module: types.ModuleType) -> None:
    with _lock:
        if _installed:
            _wrap(module)


_finder = import_hooks.Finder(_WRAPPERS, _imported)
