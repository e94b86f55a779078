"""Redaction of credentials in a test's tracebacks, captured output and logs."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_mlctx import pytest_internals
from pytest_mlctx.lifecycle import Observer


class Redaction(Observer):
    """Redacts reports, for the terminal and whatever else is made of them, the log file and live logs."""

    def __init__(self, config: pytest.Config) -> None:
        from pytest_mlctx.services.credentials import redact_prose

        self._redact = redact_prose
        for handler in pytest_internals.log_file_handlers(config):  # what reports show of a log is in them
            handler.format = self._formatting(handler.format)  # type: ignore[method-assign]

    def _formatting(self, original: Any) -> Any:
        return lambda record: self._redact(original(record))

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Redact the traceback and the captured output."""
        report.longrepr, report.sections = self._redacted(report.longrepr), self._redacted(report.sections)

    def _redacted(self, thing: Any) -> Any:
        if isinstance(thing, str):
            return self._redact(thing)
        if type(thing) in (list, tuple):
            return type(thing)(map(self._redacted, thing))
        if type(thing).__module__.startswith("_pytest."):  # the parts that a traceback is shown in
            vars(thing).update({name: self._redacted(value) for name, value in vars(thing).items()})
        return thing
