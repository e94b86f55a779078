"""loguru's records, given to pytest's own log handlers: caplog, live logs, the log file, report sections."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loguru import Message, Record


@contextmanager
def bridged(level: str) -> Iterator[None]:
    """Within the block each record of loguru's reaches the handlers of pytest that are in use.

    Args:
        level: what a handler lets pass that has no level of its own, a name of loguru's.
    """
    from loguru import logger

    threshold = logger.level(level).no

    def give(message: Message) -> None:
        record = message.record
        number = record["level"].no
        handlers = [
            handler
            for handler in logging.getLogger().handlers
            if _is_pytests(handler) and number >= (handler.level or threshold)
        ]
        if handlers and number > logging.root.manager.disable and not _arrives_by_itself():
            converted = _as_logging_record(record)
            for handler in handlers:
                handler.handle(converted)

    _name_levels()
    handler = logger.add(give, level=0, format="{message}", catch=False)
    try:
        yield
    finally:
        try:
            logger.remove(handler)
        except ValueError:  # a test's logger.remove() took it along
            pass


def _is_pytests(handler: logging.Handler) -> bool:
    return type(handler).__module__ == "_pytest.logging"


def _name_levels() -> None:
    """Tell logging the names of loguru's levels, for ``caplog.at_level`` and for reports."""
    from loguru import logger

    for name in ("TRACE", "SUCCESS"):
        logging.addLevelName(logger.level(name).no, name)


def _arrives_by_itself() -> bool:
    """Whether the record being logged came from stdlib logging and reaches the root logger's handlers anyway.

    That is loguru's InterceptHandler recipe. A logger that does not propagate does not reach them.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is logging.Logger.callHandlers.__code__:
            origin: logging.Logger | None = frame.f_locals["self"]
            while origin is not None and origin.parent is not None and origin.propagate:
                origin = origin.parent
            return origin is logging.root
        frame = frame.f_back
    return False


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
