"""The settings of a session, read from the command line and ini by the table of options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_mlctx import options
from pytest_mlctx.options import OPTIONS, UNSET, Option, Origin

if TYPE_CHECKING:
    import argparse


class Settings(NamedTuple):
    """What a session was asked for, and where each value came from."""

    experiment: str
    log_level: str
    log_sink: Path | None
    tracking_uri: str | None
    registry_uri: str | None
    isolation: options.Isolation
    remote: options.Remote
    requirements: options.Requirements
    stores: options.Stores
    tags: Mapping[str, str]
    record: str | None
    baseline: options.Baseline
    baseline_branch: str | None
    alerts: options.Alerts
    notify: options.Notify
    leaks: options.Leaks
    autouse: tuple[str, ...]
    origins: Mapping[str, Origin]

    @property
    def given(self) -> bool:
        """Whether any value was given, on the command line or in ini."""
        return any(origin != "default" for origin in self.origins.values())


def names_autouse(config: pytest.Config) -> bool:
    """Whether ini names services for every test."""
    try:
        services = config.getini("mlctx_autouse")
    except TypeError:  # told by `read`
        return False
    return services is not UNSET and bool(services)


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
        values[option.name], origins[option.name] = _value(config, given, option)
    if any(origin != "default" for origin in origins.values()):
        from pytest_mlctx.validation import validate

        validate(values, origins, config)
    return Settings(
        experiment=values.pop("experiment") or " ".join(config.rootpath.name.split()) or "default",
        tags=values.pop("tag") or {},
        autouse=values.pop("autouse") or (),
        origins=origins,
        **values,
    )


def _value(config: pytest.Config, given: argparse.Namespace, option: Option) -> tuple[Any, Origin]:
    value = None if option.ini_only else getattr(given, option.ini, None)
    if value is not None:
        return value, "command line"
    try:
        value = config.getini(option.ini)
    except TypeError as error:  # a TOML file of pytest 9, where values have types
        raise pytest.UsageError(str(error)) from None
    return (option.default, "default") if value is UNSET else (value, "ini")
