"""loguru's records, given to pytest's own log handlers: caplog, live logs, the log file, report sections."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, cast

from pytest_mlctx import pytest_internals

if TYPE_CHECKING:
    import pytest
    from loguru import Message, Record


class _Stderr:
    """The stderr of the moment of use."""

    def __init__(self, now: TextIO) -> None:
        self._now = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now if sys.stderr is self else sys.stderr, name)


def load_loguru() -> None:
    """Import loguru, whose default handler would keep the stderr of that moment, which pytest closes."""
    if "loguru" not in sys.modules:
        now = sys.stderr
        sys.stderr = cast("TextIO", _Stderr(now))
        try:
            import loguru  # noqa: F401
        finally:
            sys.stderr = now


@contextmanager
def bridged(level: str, config: pytest.Config) -> Iterator[None]:
    """Within the block each record of loguru's reaches the handlers of pytest that are in use.

    Args:
        level: what a handler lets pass that has no level of its own, a name of loguru's.
        config: whose handlers these are.
    """
    from loguru import logger

    from pytest_mlctx.services.state.loguru import pin

    _name_levels()
    bridge = _Bridge(logger.level(level).no, config)
    # The traceback is formatted by pytest's handlers; loguru's own way would show values of variables too.
    handler = logger.add(
        bridge.give, level=0, format=lambda _: "", backtrace=False, diagnose=False, catch=False
    )
    unpin = pin(handler)  # applications begin with logger.remove()
    try:
        yield
    finally:
        unpin()
        bridge.close()


class _Extra(dict[str, Any]):
    """A record's ``extra`` that says which handlers have the record, to another thread or process too."""

    given: frozenset[int] = frozenset()


class _Bridge:
    def __init__(self, threshold: int, config: pytest.Config) -> None:
        self._threshold = threshold
        self._config = config
        self._filters: dict[logging.Handler, Callable[[logging.LogRecord], bool]] = {}

    def give(self, message: Message) -> None:
        record = message.record
        number = record["level"].no
        if number <= logging.root.manager.disable:
            return
        handlers = [
            handler
            for handler in pytest_internals.log_handlers(self._config)
            if number >= (handler.level or self._threshold)
        ]
        if not handlers:
            return
        reached = _reached_by_itself()
        converted = _as_logging_record(record)
        record["extra"] = extra = _Extra(record["extra"])  # other handlers of loguru's come after this one
        for handler in handlers:
            if handler not in reached:
                self._filter(handler)
                handler.handle(converted)
                extra.given |= {id(handler)}

    def _filter(self, handler: logging.Handler) -> None:
        """Keep off the handler what comes a second time, by a recipe of loguru's documentation."""
        if handler not in self._filters:

            def is_new(record: logging.LogRecord) -> bool:
                extra = getattr(record, "extra", None)
                return not (isinstance(extra, _Extra) and id(handler) in extra.given)

            self._filters[handler] = is_new
            handler.addFilter(is_new)

    def close(self) -> None:
        for handler, is_new in self._filters.items():
            handler.removeFilter(is_new)


def _name_levels() -> None:
    """Tell logging the names of loguru's levels, for ``caplog.at_level`` and for reports."""
    from loguru import logger

    for name in ("TRACE", "SUCCESS"):
        number = logger.level(name).no
        known = logging.getLevelName(number)
        logging.addLevelName(number, name)
        if known != f"Level {number}":  # somebody named it before: both names work, theirs is shown
            logging.addLevelName(number, known)


def _reached_by_itself() -> list[logging.Handler]:
    """The handlers that the record being logged reaches anyway, since it came from stdlib logging.

    That is loguru's InterceptHandler recipe. A logger that does not propagate does not reach the root's
    handlers; a pytest of 2026 adds its own to those that exist when a test begins.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "callHandlers":  # not by its code: error trackers put theirs around it
            logger = frame.f_locals.get("self")
            if isinstance(logger, logging.Logger):
                return _handlers_of(logger)
        frame = frame.f_back
    return []


def _handlers_of(logger: logging.Logger) -> list[logging.Handler]:
    handlers = list(logger.handlers)
    while logger.propagate and logger.parent is not None:
        logger = logger.parent
        handlers += logger.handlers
    return handlers


def _as_logging_record(record: Record) -> logging.LogRecord:
    exception = record["exception"]
    converted = logging.LogRecord(
        name=record["name"] or "root",
        level=record["level"].no,
        pathname=record["file"].path,
        lineno=record["line"],
        msg=record["message"],
        args=None,
        exc_info=(exception.type, exception.value, exception.traceback) if exception else None,  # type: ignore[arg-type]
        func=record["function"],
    )
    converted.levelname = record["level"].name
    converted.created = record["time"].timestamp()
    converted.msecs = record["time"].microsecond / 1000
    converted.thread, converted.threadName = record["thread"].id, record["thread"].name
    converted.process, converted.processName = record["process"].id, record["process"].name
    converted.extra = record["extra"]
    return converted
