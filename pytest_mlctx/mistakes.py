"""Mistakes of the user's that end the setup of a test: one sentence, told in full for the first test only."""

from __future__ import annotations

import pytest

_sentences: set[str] = set()


def error(sentence: str) -> BaseException:
    """What ends the setup with this sentence, when it is raised."""
    _sentences.add(sentence)
    return pytest.fail.Exception(sentence, pytrace=False)


class Told:
    """What a session has told."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}  # by the sentence, the test whose report has it

    def shorten(self, report: pytest.TestReport) -> None:
        """Let the report of a setup say no more than where the sentence stands, where one before has it."""
        sentence = report.longreprtext.strip()
        if sentence in _sentences:
            first = self._first.setdefault(sentence, report.nodeid)
            if first != report.nodeid:
                report.longrepr = f"as in {first}"
