"""pytest's private names: fixture definitions, the requests that lead to one, and its log handlers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest


def is_higher_scoped(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Whether the fixture can outlive the test that it is set up for."""
    return fixturedef.scope != "function"


def definitions(item: pytest.Item) -> Mapping[str, Sequence[pytest.FixtureDef[Any]]]:
    """The fixtures that a test is known to use, by name; the last of each name is in force."""
    found: Mapping[str, Sequence[pytest.FixtureDef[Any]]] = getattr(
        getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}
    )
    return found


def set_up_for(request: pytest.FixtureRequest) -> list[pytest.FixtureDef[Any]]:
    """The fixtures that are set up already for the test of this request."""
    found: Mapping[str, pytest.FixtureDef[Any]] = getattr(request, "_fixture_defs", {})
    return [fixturedef for fixturedef in found.values() if is_set_up(fixturedef)]


def is_set_up(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Whether the fixture's setup has ended, well or not."""
    return fixturedef.cached_result is not None


def teardowns(fixturedef: pytest.FixtureDef[Any]) -> int:
    """How much runs when the fixture ends: its setup adds to it; pytest 9 itself has added one before."""
    return len(getattr(fixturedef, "_finalizers", ()))


def setup_error(fixturedef: pytest.FixtureDef[Any]) -> BaseException | None:
    """The exception that ended the fixture's setup."""
    raised: Any = fixturedef.cached_result and fixturedef.cached_result[2]
    # pytest 7 keeps type, exception and traceback, later ones the exception first.
    return next((part for part in raised or () if isinstance(part, BaseException)), None)


def waiting_for(request: pytest.FixtureRequest) -> Iterator[pytest.FixtureDef[Any]]:
    """The fixtures of higher scope in the middle of whose setup this request was made, innermost first.

    They asked by ``getfixturevalue``; one that asks by an argument is set up after that.
    """
    asked = request.fixturename
    parent = getattr(request, "_parent_request", None)
    while parent is not None:
        fixturedef = getattr(parent, "_fixturedef", None)
        if fixturedef is not None:
            if is_higher_scoped(fixturedef) and asked not in fixturedef.argnames:
                yield fixturedef
            asked = fixturedef.argname
        parent = getattr(parent, "_parent_request", None)


def log_file_handlers(config: pytest.Config) -> Iterator[logging.Handler]:
    """What writes ``--log-file`` and live logs."""
    return _of_logging_plugin(config, "log_file_handler", "log_cli_handler")


def log_handlers(config: pytest.Config) -> list[logging.Handler]:
    """Log handlers of pytest in use; while a test runs also those that code has taken off the root."""
    root = [handler for handler in logging.root.handlers if type(handler).__module__ == "_pytest.logging"]
    if "PYTEST_CURRENT_TEST" not in os.environ:
        return root
    lost = _of_logging_plugin(
        config, "caplog_handler", "report_handler", "log_file_handler", "log_cli_handler"
    )
    return root + [handler for handler in lost if handler not in root]


def _of_logging_plugin(config: pytest.Config, *names: str) -> Iterator[logging.Handler]:
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    for name in names:
        handler = getattr(plugin, name, None)
        if isinstance(handler, logging.Handler):
            yield handler
