"""One table of options, and the settings of a session that come out of it."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest


class Origin(Enum):
    """Where a value came from."""

    COMMAND_LINE = "command line"
    INI = "ini"
    DEFAULT = "default"


@dataclass(frozen=True)
class Option:
    """One option of the command line, one of ini, or both."""

    name: str
    help: str
    default: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    default_text: str = ""
    repeatable: bool = False
    ini_only: bool = False
    ini_type: Literal["string", "linelist", "args"] = "string"

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return "--mlctx-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        """As it is written in an ini file."""
        return f"mlctx_{self.name}"

    @property
    def placeholder(self) -> str:
        """What stands for the value in the usage."""
        return "{" + ",".join(self.choices) + "}" if self.choices else self.metavar or self.name.upper()

    @property
    def told_default(self) -> str:
        """The default in words."""
        return self.default_text or self.default or "none"


_UNSET: Any = object()  # pytest 7.4 gives '' or [] for an ini option that is unset and has no default

SERVICES = ("logger", "alerts", "mlflow")

OPTIONS = (
    Option(
        "experiment", "experiment of the runs", metavar="NAME", default_text="the name of the root folder"
    ),
    Option("log_level", "level of the log", default="DEBUG", metavar="LEVEL"),
    Option(
        "log_sink",
        "log file; an xdist worker writes beside it, run.gw0.log",
        metavar="PATH",
        default_text="temporary",
    ),
    Option("tracking_uri", "where to track", metavar="URI", default_text="temporary SQLite"),
    Option("registry_uri", "where to register models", metavar="URI", default_text="the tracking URI"),
    Option(
        "isolation",
        "test: each test starts from what the living fixtures of higher scope left in the temporary store; "
        "session: the store keeps what all tests logged; auto: test on the temporary store, session on "
        "one that you named",
        default="auto",
        choices=("auto", "session", "test"),
    ),
    Option(
        "remote",
        "while the store is temporary: what becomes of a remote URI that the code under test sets itself",
        default="refuse",
        choices=("refuse", "redirect", "allow"),
    ),
    Option("tag", "tag every run; repeatable", metavar="KEY=VALUE", repeatable=True, ini_type="linelist"),
    Option("alerts", "where alerts go", default="console", choices=("console", "desktop", "off")),
    Option(
        "leaks",
        "what to do when a test leaves the process-wide state changed: auto puts it back for tests that use "
        "a service and counts them; warn and error judge every test",
        default="auto",
        choices=("auto", "off", "warn", "error"),
    ),
    Option(
        "autouse",
        "services to start for every test: logger, alerts, mlflow, separated by spaces",
        ini_only=True,
        ini_type="args",
    ),
)


@dataclass(frozen=True)
class Settings:
    """What a session was asked for, and where each value came from."""

    experiment: str
    log_level: str
    log_sink: Path | None
    tracking_uri: str | None
    registry_uri: str | None
    isolation: Literal["auto", "session", "test"]
    remote: Literal["refuse", "redirect", "allow"]
    tags: Mapping[str, str]
    alerts: Literal["console", "desktop", "off"]
    leaks: Literal["auto", "off", "warn", "error"]
    autouse: tuple[str, ...]
    origins: Mapping[str, Origin]

    @property
    def given(self) -> bool:
        """Whether any value was given, on the command line or in ini."""
        return any(origin is not Origin.DEFAULT for origin in self.origins.values())


def add_options(parser: pytest.Parser) -> None:
    """Declare the table to pytest's parser, for the command line and for ini."""
    group = parser.getgroup("mlctx", "global context of ML code (pytest-mlctx)")
    for option in OPTIONS:
        text = f"{option.help} ({option.told_default})"
        parser.addini(option.ini, text, type=option.ini_type, default=_UNSET)
        if not option.ini_only:
            group.addoption(
                option.flag,
                dest=option.ini,
                action="append" if option.repeatable else "store",
                metavar=option.placeholder,
                help=text.replace("%", "%%"),
            )


def autouse_is_set(config: pytest.Config) -> bool:
    """Whether ini names services for every test."""
    return bool(config.getini("mlctx_autouse")) and config.getini("mlctx_autouse") is not _UNSET


def only_tells(config: pytest.Config) -> bool:
    """Whether pytest was asked for help or the like, which works with bad values too."""
    flags = ("help", "version", "markers", "showfixtures", "show_fixtures_per_test")
    return any(getattr(config.option, flag, False) for flag in flags)


def read(config: pytest.Config, given: argparse.Namespace) -> Settings:
    """The session's settings: command line over ini over default.

    Args:
        config: for ini and folders.
        given: the parsed command line; before pytest_configure it is not in config yet.

    Raises:
        pytest.UsageError: a value that can be judged wrong without a start; names option, value and remedy.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for option in OPTIONS:
        value, origin = _value(config, given, option)
        values[option.name], origins[option.name] = value, origin
        if origin is Origin.DEFAULT:
            continue
        name = f"ini option {option.ini}" if origin is Origin.INI else option.flag
        if option.choices:
            _choose(name, str(value), option.choices)
        elif option.name in _PARSERS:
            values[option.name] = _PARSERS[option.name](name, value, _base_folder(config, origin))
    if values["isolation"] == "test" and values["tracking_uri"] is not None:
        _prefer_one(values, origins)
    values["experiment"] = values["experiment"] or _one_line(config.rootpath.name) or "default"
    return Settings(
        tags=values.pop("tag") or {}, autouse=values.pop("autouse") or (), origins=origins, **values
    )


def _prefer_one(values: dict[str, Any], origins: Mapping[str, Origin]) -> None:
    """Isolation by test needs the temporary store: what stands on the command line beats what is in ini."""
    if origins["isolation"] is origins["tracking_uri"]:
        names = ("--mlctx-isolation", "--mlctx-tracking-uri")
        if origins["isolation"] is Origin.INI:
            names = ("ini option mlctx_isolation", "ini option mlctx_tracking_uri")
        raise pytest.UsageError(
            f"{names[0]}: 'test' needs the temporary store and {names[1]} names another, drop one of them."
        )
    if origins["isolation"] is Origin.COMMAND_LINE:
        values["tracking_uri"] = None
    else:
        values["isolation"] = "session"


def _value(config: pytest.Config, given: argparse.Namespace, option: Option) -> tuple[Any, Origin]:
    value = None if option.ini_only else getattr(given, option.ini)
    if value is not None:
        return value, Origin.COMMAND_LINE
    value = config.getini(option.ini)
    return (option.default, Origin.DEFAULT) if value is _UNSET else (value, Origin.INI)


def _base_folder(config: pytest.Config, origin: Origin) -> Path:
    """What a relative path is relative to: the caller's folder, or the ini file's."""
    if origin is Origin.INI and config.inipath is not None:
        return config.inipath.parent
    return config.invocation_params.dir


def _choose(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value in choices:
        return value
    near = difflib.get_close_matches(value.lower(), choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(choices)}."
    raise pytest.UsageError(f"{name}: {value!r} is not known, {hint}")


def _one_line(name: str) -> str:
    return " ".join(name.split())


def _experiment(name: str, value: str, _: Path) -> str:
    if not value.strip() or re.search(r"[\r\n]", value):
        raise pytest.UsageError(
            f"{name}: {value!r} is not the name of an experiment, give one line that is not blank."
        )
    return value


def _log_level(name: str, value: str, _: Path) -> str:
    from loguru import logger

    try:
        return logger.level(value.upper()).name
    except ValueError:
        levels = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
        near = difflib.get_close_matches(value.upper(), levels, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(levels)}."
        raise pytest.UsageError(f"{name}: {value!r} is not a level of loguru's, {hint}") from None


def _log_sink(name: str, value: str, base: Path) -> Path:
    path = base / Path(value).expanduser()
    remedy = "create it or choose another."
    if not value.strip() or path.is_dir():
        raise pytest.UsageError(f"{name}: {value!r} is not the path of a file, add a file's name.")
    if not path.parent.is_dir():
        raise pytest.UsageError(f"{name}: the folder {str(path.parent)!r} does not exist, {remedy}")
    writable = path if path.exists() else path.parent
    if not os.access(writable, os.W_OK):
        raise pytest.UsageError(
            f"{name}: {str(writable)!r} may not be written, change its permissions or choose another."
        )
    return path


def _uri(name: str, value: str, _: Path) -> str:
    from pytest_mlctx.services import ServiceError, uris

    try:
        uris.check(f"{name}:", value)
    except ServiceError as error:
        raise pytest.UsageError(str(error)) from None
    return value


def _tags(name: str, values: list[str], _: Path) -> dict[str, str]:
    tags: dict[str, str] = {}
    for value in values:
        key, separator, text = value.partition("=")
        # The characters are those that MLflow's documentation of set_tag allows in a key.
        if not separator or not re.fullmatch(r"[\w\-. /:]+", key.strip()):
            raise pytest.UsageError(f"{name}: {value!r} is not KEY=VALUE, write for example 'team=fraud'.")
        tags[key.strip()] = text
    return tags


def _autouse(name: str, values: list[str], _: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_choose(name, value.rstrip(","), SERVICES) for value in values))


_PARSERS: Mapping[str, Callable[[str, Any, Path], Any]] = {
    "experiment": _experiment,
    "log_level": _log_level,
    "log_sink": _log_sink,
    "tracking_uri": _uri,
    "registry_uri": _uri,
    "tag": _tags,
    "autouse": _autouse,
}
