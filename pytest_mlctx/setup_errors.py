"""Setup errors of one sentence: shown in full for the first test, and as a reference for later ones."""

from __future__ import annotations

import pytest

from pytest_mlctx.lifecycle import Observer

_sentences: set[str] = set()


def failure(sentence: str) -> BaseException:
    """What ends the setup with this sentence, when it is raised."""
    _sentences.add(sentence)
    return pytest.fail.Exception(sentence, pytrace=False)


class SetupErrors(Observer):
    """Shortens the report of a setup error that an earlier test has shown in full."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}  # by the sentence, the test whose report has it

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Shorten the report."""
        sentence = report.longreprtext.strip() if report.failed and report.when == "setup" else ""
        if sentence in _sentences:
            first = self._first.setdefault(sentence, report.nodeid)
            if first != report.nodeid:
                report.longrepr = f"as in {first}"
