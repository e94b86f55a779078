"""What a session writes of its tests: without the credentials that MLflow's errors and prints carry."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import pytest


class Discretion:
    """Redacts reports, for the terminal and whatever else is made of them, the log file and live logs."""

    def __init__(self, config: pytest.Config) -> None:
        from pytest_mlctx.services.secrets import redact_prose

        self._redact = redact_prose
        plugin = config.pluginmanager.get_plugin("logging-plugin")
        for name in ("log_file_handler", "log_cli_handler"):  # what reports show of a log is in them
            handler = getattr(plugin, name, None)
            if isinstance(handler, logging.Handler):
                handler.format = self._formatting(handler.format)  # type: ignore[method-assign]

    def _formatting(self, original: Any) -> Any:
        return lambda record: self._redact(original(record))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Redact the traceback and the captured output."""
        report = yield
        report.longrepr, report.sections = self._redacted(report.longrepr), self._redacted(report.sections)
        return report

    def _redacted(self, thing: Any) -> Any:
        if isinstance(thing, str):
            return self._redact(thing)
        if type(thing) in (list, tuple):
            return type(thing)(map(self._redacted, thing))
        if type(thing).__module__.startswith("_pytest."):  # the parts that a traceback is shown in
            vars(thing).update({name: self._redacted(value) for name, value in vars(thing).items()})
        return thing
