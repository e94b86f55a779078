"""The hooks that pytest calls, and nothing else."""

from __future__ import annotations

import os
import sys
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlctx import options, settings, workers
from pytest_mlctx.session import Session

if TYPE_CHECKING:
    import argparse


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Prepare services for every test: their environment holds when conftests are imported."""
    if not _off(early_config) and settings.names_autouse(early_config):
        try:
            _begin(early_config, early_config.known_args_namespace)
        except pytest.UsageError:  # told in pytest_configure, which --help survives
            return


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; a bad value ends the session here, but not ``--help`` and its like."""
    if _off(config):
        return
    config.addinivalue_line("markers", options.RECORD_MARKER)
    config.addinivalue_line("markers", options.TRIALS_MARKER)
    # Not by `pytest_plugins`: where this plugin was taken off again, its fixtures would stay.
    config.pluginmanager.import_plugin("pytest_mlctx.fixtures")
    try:
        if Session.key in config.stash:
            config.stash[Session.key].revise(settings.read(config, config.option))
        else:
            _begin(config, config.option)
    except pytest.UsageError:
        if not settings.only_tells(config):
            raise


def _off(config: pytest.Config) -> bool:
    """Whether ``-p no:mlctx`` was given, which takes the plugin off where a conftest names it too."""
    return config.pluginmanager.is_blocked("mlctx")


def _begin(config: pytest.Config, given: argparse.Namespace) -> None:
    session = config.stash[Session.key] = Session(config, settings.read(config, given))
    if (children := sys.modules.get("pytest_mlctx.services.children")) is not None:
        children.end()  # a session within a test of another session
    if session.settings.autouse:
        from pytest_mlctx import autouse

        config.pluginmanager.register(autouse, "mlctx-autouse")
    if "mlflow" in session.settings.autouse:
        session.hold_early()
        config.add_cleanup(session.close)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Tell what was asked for."""
    session = config.stash.get(Session.key, None)
    if session is None or not session.settings.given:
        return []
    from pytest_mlctx import report

    return report.header(session)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Tell what will be used, where nothing was asked for; pytest itself has no header then under ``-q``."""
    session = config.stash.get(Session.key, None)
    if session is None or session.settings.given or not session.used_by(items):
        return []
    from pytest_mlctx import report

    return report.header(session, items) if report.wanted(config) else []


def pytest_collection_finish(session: pytest.Session) -> None:
    """Follow the tests, but where they are only listed."""
    mlctx = session.config.stash.get(Session.key, None)
    if mlctx is None or session.config.option.collectonly:
        return
    mlctx.follow(session.items)
    if workers.given(session.config) and not mlctx.settings.given and mlctx.used_by(session.items):
        from pytest_mlctx import report

        workers.tell_header(session.config, report.header(mlctx, session.items))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Record the tests."""
    mlctx = session.config.stash.get(Session.key, None)
    if mlctx is not None and not session.config.option.collectonly:
        mlctx.record()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand a worker of xdist's what it needs."""
    session = node.config.stash.get(Session.key, None)
    if session is not None:
        session.workers.starts(node)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Keep for the summary what a worker of xdist's used."""
    session = node.config.stash.get(Session.key, None)
    if session is not None:
        session.workers.ended(node, error)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what killed workers of xdist left open."""
    mlctx = session.config.stash.get(Session.key, None)
    if mlctx is not None:
        mlctx.workers.close_lost(mlctx.settings)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a comparison with a baseline that has failed."""
    baselines = sys.modules.get("pytest_mlctx.baselines")
    return None if baselines is None else baselines.explained(op, left, right)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Tell what tests left changed or open, what models took, what no service saw; reports carry it."""
    session = config.stash.get(Session.key, None)
    if session is None or config.option.collectonly or workers.given(config):
        return  # a worker has a terminal of its own where plugins are not loaded by themselves
    left = session.default_store_files()
    if not (left or session.active or session.workers.header or session.settings.given):
        return
    from pytest_mlctx import report

    reports = chain.from_iterable(terminalreporter.stats.values())
    quiet, verbose = not report.wanted(config), config.option.verbose > 0
    for title, lines in report.summary(session, reports, left, quiet=quiet, verbose=verbose):
        if title:
            terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    if session.recording is not None and (file := os.environ.get("GITHUB_STEP_SUMMARY")):
        session.recording.write_step_summary(Path(file))
    if session.settings.notify != "never":
        from pytest_mlctx import notification

        seconds = time.monotonic() - session.began
        notification.send(session.settings, terminalreporter, exitstatus, seconds)
