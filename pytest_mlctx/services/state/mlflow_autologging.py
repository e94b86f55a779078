"""The process-wide state of MLflow's autologging: configurations, patches, and hooks on later imports."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import Any

from pytest_mlctx.services import mlflow_internals
from pytest_mlctx.services.state.kinds import ABSENT, Attribute, Change, Held, Kind, attempt

_UTILS, _HOOKS = "mlflow.utils.autologging_utils", "mlflow.utils.import_hooks"
_ALL = "mlflow"  # the integration of mlflow.autolog()
_BY_ALL = "globally_configured"  # marks the configuration of a flavor that mlflow.autolog() has made
_WITHOUT_EFFECT = (_BY_ALL, "disable")  # on what is logged, where autologging is on
_configuring = threading.RLock()


@contextmanager
def configuring() -> Iterator[None]:
    """Within the block this thread may configure autologging, while others import.

    MLflow imports while it holds the locks of its import hooks; these wait for them while they hold Python's
    import lock (https://github.com/mlflow/mlflow/pull/23466). Both would wait for ever, deaf to signals: so
    imports of other threads pass the hooks by, which run at the end.
    """
    passed_by: set[str] = set()

    def of_others(called: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == here:
                return called(*arguments, **options)
            passed_by.add(name(*arguments))
            return None

        return call

    try:
        with _configuring, ExitStack() as stack:
            here = threading.get_ident()
            for path, name in (
                ("ImportHookFinder.find_spec", lambda _finder, name, *_: name),
                ("notify_module_loaded", lambda module: module.__name__),
            ):
                stack.enter_context(mlflow_internals.wrapped(path, functools.partial(of_others, name=name)))
            yield
    finally:
        _run_hooks(passed_by & _hooks().keys() & sys.modules.keys())


def _run_hooks(names: set[str]) -> None:
    for name in names:
        with suppress(Exception), configuring():
            module = import_module(name)  # where another thread is at it still, that is waited for
            sys.modules[_HOOKS].notify_module_loaded(module)


def _hooks() -> dict[str, list[Any]]:
    return getattr(sys.modules.get(_HOOKS), "_post_import_hooks", {})


def _configurations() -> dict[str, dict[str, Any]]:
    return getattr(sys.modules.get(_UTILS), "AUTOLOGGING_INTEGRATIONS", {})


class Integration(Kind):
    """The configuration of a flavor's autologging, and of ``mlflow.autolog()`` as a whole.

    What ``mlflow.autolog()`` configured is no cell of its own: it follows from the whole, also where a later
    import brings another flavor in.
    """

    name = "mlflow.autologging"
    leans_on: tuple[str, ...] = ("AUTOLOGGING_INTEGRATIONS",)

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The configurations that were made."""
        return [
            (name, dict(configuration))
            for name, configuration in [*_configurations().items()]
            if configuration and not configuration.get(_BY_ALL)
        ]

    def undo_all(self, changes: list[Change], failures: list[Exception]) -> None:
        """Switch off what changed, then switch on again what was on."""
        with configuring(), sys.modules[_UTILS]._autolog_conf_global_lock:
            configurations = _configurations()
            before = {str(change.cell[1]): change.before for change in changes}
            stale = set(before)
            if _ALL in before:
                stale.update(name for name, made in configurations.items() if made.get(_BY_ALL))
            for name in stale - {_ALL}:
                attempt(failures, _switch_off, name)
            for name in stale:
                configurations[name] = {}
            whole = before.get(_ALL, configurations.get(_ALL) or ABSENT)
            if whole is not ABSENT and whole:
                attempt(failures, _switch_on, _ALL, whole)
            for name in before.keys() - {_ALL}:
                if before[name] is not ABSENT:
                    attempt(failures, _switch_on, name, before[name])

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """Which flavor, and whether it logs by itself now."""
        what = "autologging" if key == _ALL else f"autologging of {key}"
        whole = (key != _ALL and _configurations().get(_ALL)) or ABSENT  # goes for a flavor without its own
        before, after = (whole if value is ABSENT else value for value in (before, after))
        was, now = _is_on(before), _is_on(after)
        if was is not now:
            return f"{what} left {'on' if now else 'off'}"
        if not now:
            return None
        before, after = ({**_defaults(key), **value} for value in (before, after))
        known = [name for name in after if name in before and name not in _WITHOUT_EFFECT]
        changed = [f"{name}={after[name]!r}" for name in known if before[name] != after[name]]
        return f"{what} configured otherwise ({', '.join(changed)})" if changed else None


def _is_on(configuration: Any) -> bool:
    return configuration is not ABSENT and not configuration.get("disable", False)


def _autolog(name: str) -> Any | None:
    """The ``autolog()`` of a flavor, or MLflow's own; None where it is not imported."""
    module = sys.modules.get("mlflow.tracking.fluent" if name == _ALL else f"mlflow.{name}")
    return getattr(module, "autolog", None)


def _defaults(name: str) -> dict[str, Any]:
    """What a flavor's autologging does where ``mlflow.autolog()`` says nothing of it."""
    autolog = _autolog(name)
    parameters = {} if autolog is None else inspect.signature(autolog).parameters
    return {parameter: of.default for parameter, of in parameters.items() if of.default is not of.empty}


def _switch_off(name: str) -> None:
    # Patches alone are not enough: litellm, dspy and others have callbacks that only their autolog() removes.
    autolog = _autolog(name)
    if autolog is not None and _is_on(_configurations().get(name) or ABSENT):
        autolog(disable=True, silent=True)
    if name == "litellm":
        _forget_logger()
    sys.modules[_UTILS].revert_patches(name)


def _forget_logger() -> None:
    """Take MLflow out of litellm's lists for async calls, where its ``autolog()`` leaves it.

    While it is there, they go on being traced, and litellm doesn't add it to the others again.
    """
    litellm: Any = sys.modules.get("litellm")
    flavor: Any = sys.modules.get("mlflow.litellm")
    if not hasattr(flavor, "_remove_mlflow_callbacks"):
        return
    for name in ("_async_success_callback", "_async_failure_callback"):
        callbacks = getattr(litellm, name, None)
        if isinstance(callbacks, list):
            callbacks[:] = flavor._remove_mlflow_callbacks(callbacks)


def _switch_on(name: str, configuration: dict[str, Any]) -> None:
    autolog = _autolog(name)
    if autolog is not None:
        known = inspect.signature(autolog).parameters
        logger = sys.modules["mlflow.tracking.fluent"]._logger
        disabled = logger.disabled
        logger.disabled = True  # "Autologging successfully enabled": it was so before
        try:
            autolog(**{key: value for key, value in configuration.items() if key in known})
        finally:
            logger.disabled = disabled
    _configurations()[name] = dict(configuration)


class ImportHook(Kind):
    """What MLflow does when a module is imported. Which of the hooks have run by now makes no difference."""

    name = "mlflow.import_hook"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The modules that have a hook."""
        return [(module, Held("hooked", [*hooks])) for module, hooks in [*_hooks().items()]]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Forget the hooks of the module, or put them back; they have run where it is imported."""
        if before is ABSENT:
            _hooks().pop(key, None)
        else:
            _hooks()[key] = [] if key in sys.modules else [*before.thing]


KINDS: tuple[Kind, ...] = (
    Integration(),
    ImportHook(),
    Attribute(
        "mlflow.autologging_disabled",
        _UTILS,
        "_AUTOLOGGING_GLOBALLY_DISABLED",
        pristine=False,
        tell=lambda after: f"autologging {'disabled' if after else 'enabled'} for all",
    ),
)
