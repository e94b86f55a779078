"""The process-wide state of the standard library's logging, pytest's own handlers aside."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Any

from pytest_mlctx.services.state.kinds import ABSENT, Held, Kind


def reopen(handler: logging.Handler) -> None:
    """Make a handler that was closed write again, without truncating its file."""
    if getattr(handler, "_closed", False):
        handler._closed = False  # type: ignore[attr-defined]
        if handler.name:
            handler.name = handler.name  # close() took it out of the registry of names
        if isinstance(handler, logging.FileHandler) and handler.stream is None and not handler.delay:
            mode, handler.mode = handler.mode, "a"
            handler.stream = handler._open()
            handler.mode = mode


def _is_alembic(handler: logging.Handler) -> bool:
    """Whether it is the console handler that many MLflows leave behind when they migrate a store."""
    line = str(getattr(handler.formatter, "_fmt", ""))
    return line.endswith("%(levelname)-5.5s [%(name)s] %(message)s")  # since 3.5 the time stands before it


class RootHandler(Kind):
    """A handler of the root logger; pytest's own come and go."""

    name = "logging.handler"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The handlers, each with its place."""
        return [
            (id(handler), Held(id(handler), (place, handler)))
            for place, handler in enumerate(logging.root.handlers)
            if type(handler).__module__ != "_pytest.logging"
        ]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Take the handler away and release its file, or put it back in its place."""
        if before is ABSENT:
            _, handler = now.thing
            logging.root.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
        else:
            place, handler = before.thing
            reopen(handler)
            logging.root.handlers.insert(place, handler)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The handler as logging shows it."""
        if before is ABSENT:
            handler = after.thing[1]
            return None if _is_alembic(handler) else f"root logging handler {handler!r} left"
        return f"root logging handler {before.thing[1]!r} removed"


class RootLevel(Kind):
    """The level of the root logger."""

    name = "logging.level"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell."""
        return (("", logging.root.level),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Set the level, which also clears the loggers' caches."""
        logging.root.setLevel(before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The new level."""
        return f"level of the root logger changed to {logging.getLevelName(after)}"


class Disabled(Kind):
    """The level that ``logging.disable`` has set."""

    name = "logging.disable"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell."""
        return (("", logging.root.manager.disable),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Disable up to the level before, which also clears the loggers' caches."""
        logging.disable(before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The new level."""
        return f"logging disabled up to {logging.getLevelName(after)}" if after else "logging enabled again"


class LevelName(Kind):
    """A name of a level (by name) and the name of a level (by number)."""

    name = "logging.level_name"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """Both of logging's tables: their keys are of different types."""
        return [*logging._nameToLevel.items(), *logging._levelToName.items()]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Change the table that the key belongs to."""
        table: dict[Any, Any] = logging._nameToLevel if isinstance(key, str) else logging._levelToName
        if before is ABSENT:
            table.pop(key, None)
        else:
            table[key] = before

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """A changed name; an added one is what many libraries do when they are imported."""
        return None if before is ABSENT else f"logging level {key} renamed"


class DisabledLoggers(Kind):
    """The loggers that are disabled: ``dictConfig`` and ``fileConfig`` do that to all that exist."""

    name = "logging.disabled"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """Their names, in one cell."""
        known = [*logging.root.manager.loggerDict.items()]  # some of them are no loggers but hold a place
        return (("", frozenset([name for name, logger in known if getattr(logger, "disabled", False)])),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Enable those that were, disable the others again."""
        for name in before ^ now:
            logging.getLogger(name).disabled = name in before

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """How many, and one of them."""
        if disabled := sorted(after - before):
            more = f" and {len(disabled) - 1} other loggers" if disabled[1:] else ""
            return f"logger {disabled[0]!r}{more} disabled"
        return f"logger {min(before - after)!r} enabled"


class ConfiguredLogger(Kind):
    """Level, handlers and propagation of a logger that has any of its own, by its name; filters go with them.

    One that a library or a test configures first is left as it is: a library does so when it is imported.
    """

    name = "logging.logger"
    ignores_new = True

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The loggers that are configured; MLflow's level has a cell of its own."""
        return [
            (name, self._value(name, logger))
            for name, logger in [*logging.root.manager.loggerDict.items()]
            if logger.__class__ is not logging.PlaceHolder
            and name != "alembic"  # MLflow configures it when it migrates a store
            and (logger.handlers or logger.level or not logger.propagate or logger.filters)  # type: ignore[union-attr]
        ]

    @staticmethod
    def _value(name: str, logger: Any) -> Held:
        level = 0 if name == "mlflow" else logger.level
        handlers = [one for one in logger.handlers if type(one).__module__ != "_pytest.logging"]
        filters = [*logger.filters]
        key = (level, logger.propagate, tuple(map(id, handlers)))  # MLflow 2 adds filters as it traces
        return Held(key, (level, logger.propagate, handlers, filters))

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Configure the logger as it was; handlers that were closed write again."""
        logger = logging.getLogger(key)
        level, logger.propagate, handlers, logger.filters[:] = before.thing
        if key != "mlflow":
            logger.setLevel(level)
        for handler in handlers:
            reopen(handler)
        pytests = [one for one in logger.handlers if type(one).__module__ == "_pytest.logging"]
        logger.handlers[:] = [*handlers, *pytests]

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """Which logger."""
        return f"logger {key!r} configured otherwise"


class CapturedWarnings(Kind):
    """Whether ``logging.captureWarnings`` is on."""

    name = "logging.warnings"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell."""
        return (("", getattr(logging, "_warnings_showwarning", None) is not None),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Switch it."""
        logging.captureWarnings(before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """On or off."""
        return f"logging.captureWarnings({after}) left"


KINDS: tuple[Kind, ...] = (
    RootHandler(),
    RootLevel(),
    Disabled(),
    LevelName(),
    ConfiguredLogger(),
    DisabledLoggers(),
    CapturedWarnings(),
)
