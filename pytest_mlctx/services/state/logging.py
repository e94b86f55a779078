"""The process-wide state of the standard library's logging, pytest's own handlers aside."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Any, Final

from pytest_mlctx.services.state.kinds import ABSENT, Attribute, Held, Kind, Setting, put


def reopen(handler: logging.Handler) -> None:
    """Make a handler that was closed write again, without truncating its file."""
    if getattr(handler, "_closed", False):
        handler._closed = False  # type: ignore[attr-defined]
        if handler.name:
            handler.name = handler.name  # close() took it out of the registry of names
        logging._addHandlerRef(handler)  # type: ignore[attr-defined]  # flushed at exit
        if isinstance(handler, logging.FileHandler) and handler.stream is None and not handler.delay:
            mode, handler.mode = handler.mode, "a"
            handler.stream = handler._open()
            handler.mode = mode


def _is_closed(handler: logging.Handler) -> bool:
    return bool(getattr(handler, "_closed", False))


def _is_lost(handler: logging.Handler) -> bool:
    """Whether records are lost: ``dictConfig`` closes every handler, and most of them write all the same."""
    return _is_closed(handler) and isinstance(handler, logging.FileHandler) and handler.mode == "w"


def _is_pytests(handler: logging.Handler) -> bool:
    return type(handler).__module__ == "_pytest.logging"


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
            (id(handler), Held((id(handler), _is_closed(handler)), (place, handler)))
            for place, handler in enumerate(logging.root.handlers)
            if not _is_pytests(handler)
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
            if handler not in logging.root.handlers:
                logging.root.handlers.insert(place, handler)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The handler as logging shows it."""
        if before is ABSENT:
            handler = after.thing[1]
            return None if _is_alembic(handler) else f"root logging handler {handler!r} left"
        if after is not ABSENT:
            lost = _is_lost(before.thing[1])
            return f"root logging handler {before.thing[1]!r} closed" if lost else None
        return f"root logging handler {before.thing[1]!r} removed"


class LevelName(Kind):
    """A name of a level (by name) and the name of a level (by number)."""

    name = "logging.level_name"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """Both of logging's tables: their keys are of different types."""
        return [*logging._nameToLevel.items(), *logging._levelToName.items()]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Change the table that the key belongs to."""
        table: dict[Any, Any] = logging._nameToLevel if isinstance(key, str) else logging._levelToName
        put(table, key, before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """A changed name; an added one is what many libraries do when they are imported."""
        return None if before is ABSENT else f"logging level {key} renamed"


class DisabledLoggers(Kind):
    """The loggers that are disabled: ``dictConfig`` and ``fileConfig`` do that to all that exist."""

    name = "logging.disabled"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """Their names, in one cell."""
        # Some of them are no loggers but hold a place.
        known = [*logging.root.manager.loggerDict.items(), ("root", logging.root)]
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


_UNCONFIGURED: Final = Held((0, True, (), ()), (0, True, [], []))


class ConfiguredLogger(Kind):
    """Level, propagation, handlers and filters of a logger, by its name.

    One that is configured when it comes to be is left as it is: a library does so when it is imported.
    """

    name = "logging.logger"

    def __init__(self) -> None:
        self._unconfigured: set[str] = set()  # and there, at some time

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The loggers that are configured; MLflow's level has a cell of its own."""
        cells = []
        for name, logger in [*logging.root.manager.loggerDict.items(), ("root", logging.root)]:
            if logger.__class__ is logging.PlaceHolder:
                continue
            if logger.handlers or logger.level or not logger.propagate or logger.filters:  # type: ignore[union-attr]
                value = self._value(name, logger)
                if value.key != _UNCONFIGURED.key:  # by others than pytest and MLflow
                    if name != "alembic":  # MLflow configures it when it migrates a store
                        cells.append((name, value))
                    continue
            self._unconfigured.add(name)
        return cells

    def ignores_new(self, key: Any) -> bool:
        """Unless it was there before; a logger of MLflow's may only have held a place."""
        return key not in self._unconfigured and not key.startswith("mlflow.")

    @staticmethod
    def _value(name: str, logger: Any) -> Held:
        # The root's level and handlers have cells of their own.
        level = 0 if name in ("mlflow", "root") else logger.level
        handlers = [] if name == "root" else [one for one in logger.handlers if not _is_pytests(one)]
        filters = [*logger.filters]
        key = (
            level,
            logger.propagate,
            tuple((id(one), _is_closed(one)) for one in handlers if type(one) is not logging.NullHandler),
            tuple(id(one) for one in filters if not _is_mlflows(one)),
        )
        return Held(key, (level, logger.propagate, handlers, filters))

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Configure the logger as it was; handlers that were closed write again."""
        if _is_litellms(before, now):
            return
        logger = logging.getLogger(key)
        level, logger.propagate, handlers, logger.filters[:] = _or_unconfigured(before).thing
        if key == "root":
            return
        if key != "mlflow":
            logger.setLevel(level)
        for handler in handlers:
            reopen(handler)
        logger.handlers[:] = [*handlers, *filter(_is_pytests, logger.handlers)]

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """Which logger, and what of it; that handlers were closed only where they write no more."""
        if _is_litellms(before, after):
            return None
        before, after = _or_unconfigured(before), _or_unconfigured(after)
        level, propagate, handlers, filters = (
            (was, now) for was, now in zip(before.key, after.key, strict=True)
        )
        changed = [f"level {logging.getLevelName(level[1])}"] if level[0] != level[1] else []
        changed += [f"propagate={propagate[1]}"] if propagate[0] is not propagate[1] else []
        ids = [[one for one, _ in of] for of in handlers]
        if ids[0] != ids[1] or any(
            _is_lost(one) and (id(one), False) in handlers[0] for one in before.thing[2]
        ):
            changed.append("handlers" if ids[0] != ids[1] else "a handler closed")
        changed += ["filters"] if filters[0] != filters[1] else []
        return f"logger {key!r} configured otherwise ({', '.join(changed)})" if changed else None


def _or_unconfigured(value: Any) -> Held:
    return _UNCONFIGURED if value is ABSENT else value


def _package(log_filter: Any) -> str:
    return str(getattr(log_filter, "__module__", "")).partition(".")[0]


def _is_mlflows(log_filter: Any) -> bool:
    """Whether MLflow has made the filter: MLflow 2 adds some as it traces."""
    return _package(log_filter) == "mlflow"


def _is_litellms(before: Any, after: Any) -> bool:
    """Whether litellm has configured the logger: it hides secrets in those of others when it is imported."""
    was, now = ([*map(_package, _or_unconfigured(one).thing[3])] for one in (before, after))
    return now.count("litellm") > was.count("litellm")


KINDS: tuple[Kind, ...] = (
    RootHandler(),
    Setting(
        "logging.level",
        lambda: logging.root.level,
        lambda level: logging.root.setLevel(level),  # which also clears the loggers' caches
        tell=lambda after: f"level of the root logger changed to {logging.getLevelName(after)}",
    ),
    Setting(
        "logging.disable",
        lambda: logging.root.manager.disable,
        logging.disable,  # which also clears the loggers' caches
        tell=lambda after: (
            f"logging disabled up to {logging.getLevelName(after)}" if after else "logging enabled again"
        ),
    ),
    LevelName(),
    ConfiguredLogger(),
    DisabledLoggers(),
    Setting(
        "logging.warnings",
        lambda: getattr(logging, "_warnings_showwarning", None) is not None,
        logging.captureWarnings,
        tell=lambda after: f"logging.captureWarnings({after}) left",
    ),
    Attribute(
        "logging.record_factory", "logging", "_logRecordFactory", tell=lambda _: "log record factory set"
    ),
    Attribute("logging.last_resort", "logging", "lastResort", tell=lambda _: "logging.lastResort changed"),
    Attribute(
        "logging.raise",
        "logging",
        "raiseExceptions",
        pristine=True,
        tell=lambda after: f"logging.raiseExceptions set to {after}",
    ),
)
