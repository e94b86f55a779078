"""LoggerService: loguru on one sink, its default handler set aside meanwhile."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from loguru import logger
from pydantic import field_validator

from pytest_mlctx.services import state
from pytest_mlctx.services.base import Service
from pytest_mlctx.services.errors import ServiceError
from pytest_mlctx.services.state.loguru import default_handlers, handlers

if TYPE_CHECKING:
    from loguru import Logger

FORMAT = (
    "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> | <level>{level: <8}</level> | "
    "<cyan>{name}</cyan>:<cyan>{function}</cyan>:<cyan>{line}</cyan> - <level>{message}</level>"
)
# From loguru's documentation, "The record dict".
_RECORD_FIELDS = (
    *("elapsed", "exception", "extra", "file", "function", "level", "line"),
    *("message", "module", "name", "process", "thread", "time"),
)
_ATTRIBUTES = {
    "exception": ("type", "value", "traceback"),
    "file": ("name", "path"),
    "level": ("icon", "name", "no"),
    "process": ("id", "name"),
    "thread": ("id", "name"),
}


class _Stream:
    """A standard stream, looked up at each write: it may have been captured, replaced or closed since."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, message: str) -> None:
        for stream in (getattr(sys, self._name), getattr(sys, f"__{self._name}__")):
            if _usable(stream):
                stream.write(message)
                stream.flush()
                return


def _usable(stream: TextIO | None) -> bool:
    return stream is not None and not getattr(stream, "closed", False)


class LoggerService(Service):
    """loguru with one sink of the given level and format.

    While it runs loguru's default handler is set aside; handlers that were added before stay in use, those
    added meanwhile go with it.
    """

    libraries: ClassVar[tuple[state.Library, ...]] = ("loguru", "logging")

    sink: str = "stderr"
    """``stderr``, ``stdout``, or the path of a file, appended to."""
    level: str = "DEBUG"
    """The least severity that is written: a level that loguru knows."""
    format: str = FORMAT
    """A format string of loguru's, with its colour markup."""
    colorize: bool = True
    """Turn colour markup into terminal colours on ``stderr`` and ``stdout``; a file never has them."""
    serialize: bool = False
    """Write each record as a line of JSON."""
    backtrace: bool = True
    """Show the frames above the point where an exception was caught, too."""
    diagnose: bool = False
    """Show the values of variables in tracebacks; they may hold secrets."""
    catch: bool = True
    """Report an error of the sink on stderr instead of raising it in the code that logs."""

    @field_validator("level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        try:
            logger.level(level)
        except ValueError:
            raise ValueError(
                f"{level!r} is not a level of loguru's: "
                "use TRACE, DEBUG, INFO, SUCCESS, WARNING, ERROR or CRITICAL"
            ) from None
        return level

    @field_validator("format")
    @classmethod
    def _known_fields(cls, format: str) -> str:  # noqa: A002
        try:
            names = {name for _, name, _, _ in Formatter().parse(format) if name is not None}
        except ValueError as error:
            raise ValueError(f"{format!r} is not a format string ({error})") from None
        unknown = {re.split(r"[.\[]", name)[0] for name in names}.difference(_RECORD_FIELDS)
        if unknown:
            raise ValueError(
                f"{format!r} names {', '.join(map(repr, sorted(unknown)))}, which loguru's records have not: "
                f"use {', '.join(_RECORD_FIELDS)}"
            )
        for name in names:
            field, _, attribute = name.partition(".")
            if attribute and attribute.partition(".")[0] not in _ATTRIBUTES.get(field, (attribute,)):
                raise ValueError(
                    f"{format!r} names {name!r}, but of {field!r} loguru's records have only "
                    f"{', '.join(_ATTRIBUTES[field])}"
                )
        return format

    @field_validator("sink")
    @classmethod
    def _named_sink(cls, sink: str) -> str:
        if not sink.strip():
            raise ValueError("is empty: use stderr, stdout or the path of a file")
        return sink

    def logger(self) -> Logger:
        """The logger of loguru: the same object everywhere, before and after ``start()`` too."""
        return logger

    def _apply(self) -> int:
        with contextlib.ExitStack() as replaced:  # at its end, so that no record of another thread is lost
            for handler in default_handlers():
                replaced.callback(_remove, handler)
            again = [made for made in self._made() if made in handlers()]
            return again[0] if again else self._add()

    def _add(self) -> int:
        is_stream = self.sink in ("stderr", "stdout")
        sink: Any = _Stream(self.sink) if is_stream else _log_file(self.sink)
        encoding: Any = {} if is_stream else {"encoding": "utf-8"}
        try:
            return logger.add(
                sink,
                level=self.level,
                format=self.format,
                colorize=self.colorize and is_stream,
                serialize=self.serialize,
                backtrace=self.backtrace,
                diagnose=self.diagnose,
                catch=self.catch,
                **encoding,
            )
        except OSError as error:
            raise ServiceError(
                f"LoggerService.sink {self.sink!r} cannot be written ({error.strerror}): "
                "change its permissions or choose another file."
            ) from error
        except (KeyError, IndexError, ValueError) as error:
            if not is_stream and re.search(r"[{}]", re.sub(r"\{time(:[^}]*)?\}", "", self.sink)):
                raise ServiceError(
                    f"LoggerService.sink {self.sink!r} has braces, in which loguru knows only {{time}}: "
                    "choose a path without them."
                ) from error
            raise ServiceError(
                f"LoggerService.format {self.format!r} is not valid ({error}): "
                "write it as loguru's documentation of `add` describes."
            ) from error


def _remove(handler: int) -> None:
    with contextlib.suppress(ValueError):  # it is gone already
        logger.remove(handler)


def _log_file(sink: str) -> Path:
    """The path of a log file whose folder exists.

    Raises:
        ServiceError: it does not, or the path is a folder, or none at all.
    """
    path = Path(sink)
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
    except (OSError, ValueError) as error:  # too long a name, a NUL
        reason = getattr(error, "strerror", None) or error
        raise ServiceError(
            f"LoggerService.sink {sink[:100]!r} is not the path of a file ({reason}): choose another."
        ) from None
    if path.is_dir():
        raise ServiceError(f"LoggerService.sink {sink!r} is a folder: add the name of a file.")
    if not path.absolute().parent.is_dir():
        raise ServiceError(
            f"LoggerService.sink {sink!r}: the folder {str(path.absolute().parent)!r} does not exist: "
            "create it or choose another."
        )
    return path
