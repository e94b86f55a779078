"""The process-wide state of loguru: what its one core holds, and the context variable beside it."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_mlctx.services.state.kinds import ABSENT, Attribute, Change, Kind, Table, attempt
from pytest_mlctx.services.state.leases import in_order
from pytest_mlctx.services.state.logging import reopen

_DEFAULT: Final = "loguru's own default handler, to be built anew"


def _logger() -> Any:
    return sys.modules["loguru"].logger


def _core() -> Any:
    return _logger()._core


def handlers() -> set[int]:
    """The ids of the handlers in force."""
    return {key for key, handler in _core().handlers.items() if not _is_pinned(handler)}


def default_handlers() -> tuple[int, ...]:
    """The id of the handler that loguru starts with; where it has none, that id is of the user's first."""
    defaults = sys.modules["loguru._defaults"]
    return (0,) if defaults.LOGURU_AUTOINIT and sys.stderr else ()


def _fresh_core() -> Any:
    return sys.modules["loguru._logger"].Core()


def _revive(handler: Any, levels: Iterable[str]) -> None:
    """Make a stopped handler write again; its lock is held so that no record meets it half-way."""
    with handler._protected_lock():
        if not handler._stopped:
            return
        sink = handler._sink
        if hasattr(sink, "_handler"):
            reopen(sink._handler)
        arguments = getattr(sink, "_kwargs", None)
        if arguments and arguments.get("mode", "a")[0] in "wx" and sink._file is None:
            path = sink._create_path()
            if Path(path).exists():  # its own mode would truncate or refuse it
                sink._kwargs = {**arguments, "mode": "a" + arguments["mode"][1:]}
                sink._create_file(path)
                sink._kwargs = arguments
        if handler._enqueue:
            context = handler._multiprocessing_context or importlib.import_module("multiprocessing")
            handler._queue = context.SimpleQueue()
            handler._thread = threading.Thread(
                target=handler._queued_writer, daemon=True, name=f"loguru-writer-{handler._id}"
            )
            handler._thread.start()
        for level in levels:
            handler.update_format(level)
        handler._stopped = False


def _put_handlers(core: Any, handlers: Mapping[int, Any]) -> None:
    for handler in [handler for handler in core.handlers.values() if _is_pinned(handler)]:
        if handlers.get(handler._id, handler) is not handler:  # the default one comes back beside it
            handler._id = handler._error_interceptor._handler_id = _BEFORE_ALL
            handlers = {**handlers, _BEFORE_ALL: handler}
    core.handlers = dict(sorted(handlers.items()))
    core.min_level = min((handler.levelno for handler in handlers.values()), default=float("inf"))


_DEFAULT_ID, _BEFORE_ALL = 0, -1


def _is_pinned(handler: Any) -> bool:
    return hasattr(handler, "mlctx_pinned")


def pin(key: int) -> Callable[[], None]:
    """Put a handler before all others and keep it, whatever removes it; what is returned takes it away.

    The state does not know it: it is not captured, restored or named. Where the default handler is set aside
    it has that one's id, for applications that begin with ``logger.remove(0)``.
    """
    core = _core()

    class Pinned(type(core.handlers[key])):  # type: ignore[misc]  # loguru's class, without types
        mlctx_pinned = True

        def stop(self) -> None:
            core.handlers[self._id] = self  # the very dictionary that `remove` goes on with
            core.min_level = min(core.min_level, self.levelno)

        def __deepcopy__(self, memo: object) -> Pinned:
            return self

        def __reduce__(self) -> tuple[type[_Silent], tuple[()]]:
            return _Silent, ()

    with core.lock:
        handlers = dict(core.handlers)
        handler = handlers.pop(key)
        handler.__class__ = Pinned
        place = _BEFORE_ALL if _DEFAULT_ID in handlers or not default_handlers() else _DEFAULT_ID
        handler._id = handler._error_interceptor._handler_id = place
        core.handlers = {place: handler, **handlers}

    def unpin() -> None:
        with core.lock:
            handlers = {key: other for key, other in core.handlers.items() if other is not handler}
            _put_handlers(core, handlers)
            super(Pinned, handler).stop()

    return unpin


class _Silent:
    """What a pinned handler is in another process, which the logger was sent to."""

    levelno = float("inf")

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: None


class Handler(Kind):
    """A handler, by its id."""

    name = "loguru.handler"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The handlers in force."""
        return [(key, handler) for key, handler in _core().handlers.items() if not _is_pinned(handler)]

    def undo_all(self, changes: list[Change], failures: list[Exception]) -> None:
        """Revive before anything is stopped: a record of another thread is rather written twice than lost."""
        for change in sorted(changes, key=lambda change: change.before is ABSENT):
            attempt(failures, self.undo, change.cell[1], change.before, change.after)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Stop the handler, or revive the very object."""
        core = _core()
        if before is ABSENT:
            if key in core.handlers:
                _logger().remove(key)
            return
        if before is _DEFAULT:
            self._rebuild_default(core)
            return
        with core.lock:
            _revive(before, core.levels)
            _put_handlers(core, {**core.handlers, key: before})

    @staticmethod
    def _rebuild_default(core: Any) -> None:
        key = _logger().add(sys.stderr)
        with core.lock:
            handlers = dict(core.handlers)
            handler = handlers.pop(key)
            handler._id = handler._error_interceptor._handler_id = 0
            _put_handlers(core, {**handlers, 0: handler})

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The id of the handler and, where there is one, its sink."""
        if before is ABSENT:
            return f"loguru handler {key} left, with the sink {after._name}"
        if any(lease.made == key for _, lease in in_order()):
            return "loguru handler of LoggerService removed"
        return f"loguru handler {key} removed"

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """The default handler, the very one where it is still in force."""
        return {key: now.get(key, _DEFAULT) for key in default_handlers()}


class Level(Kind):
    """A level, by its name."""

    name = "loguru.level"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """Number, colour and icon of each level."""
        return [*_core().levels.items()]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Forget the level, or give it back what it was."""
        core = _core()
        if before is ABSENT:
            with core.lock:
                for table in (core.levels, core.levels_ansi_codes, core.levels_lookup):
                    table.pop(key, None)
                for handler in core.handlers.values():
                    handler._precolorized_formats.pop(key, None)
            return
        ansify = sys.modules["loguru._colorizer"].Colorizer.ansify
        with core.lock:
            core.levels[key] = before
            core.levels_ansi_codes[key] = ansify(before.color)
            core.levels_lookup[key] = (key, key, before.no, before.icon)
            for handler in core.handlers.values():
                handler.update_format(key)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The name of the level."""
        return f"loguru level {key} {'added' if before is ABSENT else 'changed'}"

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """The levels that loguru brings."""
        levels: dict[Hashable, object] = _fresh_core().levels
        return levels


class Extra(Table):
    """A value of ``logger.configure(extra=…)``, by its key."""

    def _owner(self) -> Any:
        return _core()

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The key; the value may be anything."""
        what = "set" if before is ABSENT else "removed" if after is ABSENT else "changed"
        return f"loguru's extra {key!r} {what}"


class Patcher(Attribute):
    """The function of ``logger.configure(patcher=…)``."""

    def _owner(self) -> Any:
        return _core()


class Activation(Kind):
    """Whether a module's records are enabled, by the module's name, None for those without one."""

    name = "loguru.activation"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """What ``logger.enable`` and ``logger.disable`` have set."""
        core = _core()
        return [*core.activation_list, (None, core.activation_none)]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Rebuild the list, deepest module first as loguru keeps it, and drop what was decided by it."""
        core = _core()
        with core.lock:
            if key is None:
                core.activation_none = before
            else:
                entries = {**dict(core.activation_list), key: before}
                if before is ABSENT:
                    del entries[key]
                core.activation_list = sorted(
                    entries.items(), key=lambda entry: entry[0].count("."), reverse=True
                )
            core.enabled = {}

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The module and what became of it."""
        module = f"`{key.rstrip('.')}`" if key else "all modules" if key == "" else "modules without a name"
        was, now = (self._above(key) if value is ABSENT else value for value in (before, after))
        return None if was is now else f"loguru {'enabled' if now else 'disabled'} for {module}"

    @staticmethod
    def _above(key: str) -> bool:
        """What holds for a module of which nothing was said itself."""
        above = (enabled for name, enabled in _core().activation_list if name != key and key.startswith(name))
        return bool(next(above, True))  # loguru keeps the deepest first

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """Everything is enabled."""
        return {None: True}


class Context(Kind):
    """A value of ``logger.contextualize(…)`` in the context of the caller, by its key."""

    name = "loguru.context"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The values in force."""
        return [*sys.modules["loguru._logger"].context.get().items()]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Set or delete the value, in a new mapping as loguru does."""
        variable = sys.modules["loguru._logger"].context
        values = {**variable.get(), key: before}
        if before is ABSENT:
            del values[key]
        variable.set(values)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The key; the value may be anything."""
        if before is ABSENT:
            return f"loguru's contextualize({key}=…) left open"
        return f"loguru's context {key!r} {'removed' if after is ABSENT else 'changed'}"


KINDS: tuple[Kind, ...] = (
    Handler(),
    Level(),
    Extra("loguru.extra", "loguru", "extra"),
    Patcher("loguru.patcher", "loguru", "patcher", tell=lambda after: "loguru's patcher changed"),
    Activation(),
    Context(),
)
