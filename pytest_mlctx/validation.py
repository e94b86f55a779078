"""Validation of the options' values before the session starts; imported only where one was given."""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.options import BY_NAME, OPTIONS, Option, Origin, needs_the_temporary_store

SERVICES = ("logger", "alerts", "mlflow")
_LONGEST_KEY = 250  # characters (mlflow.utils.validation.MAX_ENTITY_KEY_LENGTH)
LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")


def validate(values: dict[str, Any], origins: Mapping[str, Origin], config: pytest.Config) -> None:
    """Put in the place of each given value what it means.

    Raises:
        pytest.UsageError: one sentence that names option, value and remedy.
    """
    try:
        for option in OPTIONS:
            if (origin := origins[option.name]) != "default":
                base = _base_folder(config, origin)
                values[option.name] = _meaning(option, option.named(origin), values[option.name], base)
        if values["isolation"] == "test" and values["tracking_uri"] is not None:
            _prefer_one(values, origins)
    except pytest.UsageError as error:
        from pytest_mlctx.services.credentials import redact

        raise pytest.UsageError(redact(str(error))) from None


def _base_folder(config: pytest.Config, origin: Origin) -> Path:
    """What a relative path is relative to: the ini file's folder, or the caller's."""
    if origin == "ini" and config.inipath is not None:
        return config.inipath.parent
    return config.invocation_params.dir


def _meaning(option: Option, name: str, value: Any, base: Path) -> Any:
    if option.choices:
        return _choose(name, value, option.choices)
    return _PARSERS[option.name](name, value, base)


def _choose(name: str, value: str, choices: Sequence[str]) -> str:
    if value in choices:
        return value
    raise pytest.UsageError(f"{name}: {value!r} is not known, {_hint(value.lower(), choices)}")


def _hint(value: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(value, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(choices)}."


def _prefer_one(values: dict[str, Any], origins: Mapping[str, Origin]) -> None:
    """Isolation by test needs the temporary store: what stands on the command line beats what is in ini."""
    if origins["isolation"] == origins["tracking_uri"]:
        other = BY_NAME["tracking_uri"].named(origins["tracking_uri"])
        raise pytest.UsageError(needs_the_temporary_store(origins["isolation"], other))
    if origins["isolation"] == "command line":
        values["tracking_uri"] = None
    else:
        values["isolation"] = "session"


def _experiment(name: str, value: str, _: Path) -> str:
    from pytest_mlctx.services import experiment_names

    if mistake := experiment_names.mistake(value):
        raise pytest.UsageError(f"{name}: {mistake}.")
    return value


def _log_level(name: str, value: str, _: Path) -> str:
    from pytest_mlctx.logs import load_loguru

    load_loguru()
    from loguru import logger

    try:
        return logger.level(value.upper()).name  # a conftest may have added levels
    except ValueError:
        raise pytest.UsageError(
            f"{name}: {value!r} is not a level of loguru's, {_hint(value.upper(), LEVELS)}"
        ) from None


def _log_sink(name: str, value: str, base: Path) -> Path:
    path = base / os.path.expanduser(value)  # noqa: PTH111  (Path.expanduser raises for an unknown user)
    try:
        if not value.strip() or _is_folder(path):
            raise pytest.UsageError(f"{name}: {value!r} is not the path of a file, add a file's name.")
        if not _is_folder(path.parent):
            raise pytest.UsageError(
                f"{name}: the folder {str(path.parent)!r} does not exist, create it or choose another."
            )
    except OSError as error:
        raise pytest.UsageError(
            f"{name}: {str(path)!r} cannot be written ({error.strerror}), choose another file."
        ) from None
    writable = path if path.exists() else path.parent
    if not os.access(writable, os.W_OK):
        raise pytest.UsageError(
            f"{name}: {str(writable)!r} may not be written, change its permissions or choose another file."
        )
    return path


def _is_folder(path: Path) -> bool:
    """As `Path.is_dir`, which in Python 3.13 takes what may not be looked at for missing."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _uri(name: str, value: str, base: Path) -> str:
    from pytest_mlctx.services import ServiceError, uris

    try:
        uris.check(f"{name}:", value)
    except ServiceError as error:
        raise pytest.UsageError(str(error)) from None
    return uris.anchored(value, base)


def _tags(name: str, given: list[str], _: Path) -> dict[str, str]:
    tags: dict[str, str] = {}
    for pair in given:
        key, separator, value = pair.partition("=")
        key = key.strip()
        if not separator or not key:
            raise pytest.UsageError(f"{name}: {pair!r} is not KEY=VALUE, write for example 'team=fraud'.")
        # The characters that MLflow's documentation of set_tag allows.
        if not re.fullmatch(r"[\w\-. /:]+", key):
            raise pytest.UsageError(
                f"{name}: the key {key!r} has characters that MLflow refuses, "
                "use letters, digits, '_', '-', '.', ' ', ':' and '/'."
            )
        # A file store makes a file of it (mlflow.utils.validation.path_not_unique).
        if key != posixpath.normpath(key) or key in (".", "..") or key.startswith(("/", "../")):
            raise pytest.UsageError(
                f"{name}: the key {key!r} is no plain path, which MLflow refuses, write it without "
                "'.', '..' and '/' at its ends."
            )
        if len(key) > _LONGEST_KEY:
            raise pytest.UsageError(
                f"{name}: the key {key[:20] + '…'!r} has {len(key)} characters, use {_LONGEST_KEY} at most."
            )
        tags[key] = value
    return tags


def _branch(name: str, value: str, _: Path) -> str:
    if not value.strip():
        raise pytest.UsageError(f"{name}: {value!r} is not the name of a branch, write for example 'main'.")
    return value


def _autouse(name: str, given: list[str], _: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_choose(name, service.strip(","), SERVICES) for service in given))


_PARSERS: Mapping[str, Callable[[str, Any, Path], Any]] = {
    "experiment": _experiment,
    "log_level": _log_level,
    "log_sink": _log_sink,
    "tracking_uri": _uri,
    "registry_uri": _uri,
    "record": _uri,
    "baseline_branch": _branch,
    "tag": _tags,
    "autouse": _autouse,
}
