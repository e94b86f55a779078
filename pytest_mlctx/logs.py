"""loguru's records, given to pytest's own log handlers: caplog, live logs, the log file, report sections."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
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
def bridged(level: str) -> Iterator[None]:
    """Within the block each record of loguru's reaches the handlers of pytest that are in use.

    Args:
        level: what a handler lets pass that has no level of its own, a name of loguru's.
    """
    from loguru import logger

    _name_levels()
    bridge = _Bridge(logger.level(level).no)
    # The traceback is formatted by pytest's handlers; loguru's own way would show values of variables too.
    handler = logger.add(
        bridge.give, level=0, format=lambda _: "", backtrace=False, diagnose=False, catch=False
    )
    try:
        yield
    finally:
        with suppress(ValueError):  # a test's logger.remove() took it along
            logger.remove(handler)
        bridge.close()


class _Bridge:
    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._once: dict[logging.Handler, _Once] = {}
        for handler in _pytests_handlers():
            self._once_of(handler)

    def give(self, message: Message) -> None:
        record = message.record
        number = record["level"].no
        if number <= logging.root.manager.disable:
            return
        handlers = [
            handler for handler in _pytests_handlers() if number >= (handler.level or self._threshold)
        ]
        if not handlers:
            return
        reached = _reached_by_itself()
        converted = _as_logging_record(record)
        for handler in handlers:
            once = self._once_of(handler)
            if handler not in reached and once.seen is not record["extra"]:
                handler.handle(converted)
                once.given = record["extra"]

    def _once_of(self, handler: logging.Handler) -> _Once:
        if handler not in self._once:
            self._once[handler] = _Once()
            handler.addFilter(self._once[handler])
        return self._once[handler]

    def close(self) -> None:
        for handler, once in self._once.items():
            handler.removeFilter(once)


class _Once(threading.local):
    """A filter of one handler that lets a record of loguru's pass once.

    Users lead loguru to pytest by recipes of its documentation (``logger.add(caplog.handler)``,
    PropagateHandler), as the plugin pytest-loguru does. A record that came so has loguru's own ``extra``.
    """

    seen: object = None  # of the last record that came
    given: object = None  # of the last record that the bridge gave

    def filter(self, record: logging.LogRecord) -> bool:
        self.seen = getattr(record, "extra", None)
        return self.seen is None or self.seen is not self.given


def _pytests_handlers() -> list[logging.Handler]:
    return [handler for handler in logging.root.handlers if type(handler).__module__ == "_pytest.logging"]


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
