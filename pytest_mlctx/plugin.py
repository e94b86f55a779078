"""What pytest calls: hooks, and nothing else."""

from __future__ import annotations

import pytest

from pytest_mlctx import report, settings
from pytest_mlctx.session import Autouse, Session

pytest_plugins = ("pytest_mlctx.fixtures",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    settings.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Prepare services for every test: their environment holds when conftests are imported."""
    if not settings.autouse_is_set(early_config):
        return
    try:
        session = Session(early_config, settings.read(early_config, early_config.known_args_namespace))
    except pytest.UsageError:  # told in pytest_configure, which --help survives
        return
    early_config.stash[Session.key] = session
    early_config.pluginmanager.register(Autouse(session.settings.autouse), "mlctx-autouse")
    if "mlflow" in session.settings.autouse:
        session.hold_early()
        early_config.add_cleanup(session.close)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; a bad value ends the session here, but not ``--help`` and its like."""
    if Session.key not in config.stash:
        try:
            config.stash[Session.key] = Session(config, settings.read(config, config.option))
        except pytest.UsageError:
            if settings.only_tells(config):
                return
            raise


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Tell what was asked for."""
    session = config.stash.get(Session.key, None)
    return report.header(session) if session and session.settings.given else []


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Tell what will be used, where nothing was asked for."""
    session = Session.of(config)
    return [] if session.settings.given or not session.used_by(items) else report.header(session)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Follow the tests where one of them uses a service."""
    mlctx = Session.of(session.config)
    if not session.config.option.collectonly and mlctx.used_by(session.items):
        mlctx.activate()
