"""The history of a test: its records that passed in earlier sessions, and those of the anchor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from pytest_mlctx.services import uris

# Tags of records.
RECORD, SESSION, ANCHOR = "mlctx.record", "mlctx.session", "mlctx.anchor"
BRANCH = "mlflow.source.git.branch"
# Of a record that passed, by its test, and by its test and branch: a search for one tag is quick.
_OF_TEST, _OF_TEST_ON_BRANCH = "mlctx.history", "mlctx.history_on_branch"

_OWN = 10  # records of this session itself, which a search may find too
_PAGE, _MOST_PAGES = 1000, 10


Ask = Callable[[Callable[[], Any]], Any]
"""Asks the store a question, of a server within a deadline, and gives the answer."""


class History:
    """Reads records of earlier sessions."""

    def __init__(self, store: Any, experiment_id: str, uri: str, ask: Ask) -> None:
        """Read nothing yet.

        Args:
            store: MLflow's tracking store that has the records.
            experiment_id: of their experiment.
            uri: of the store.
            ask: asks it.
        """
        self._store, self._experiment_id, self._ask = store, experiment_id, ask
        self._is_server = uris.is_server(uri)
        self._read: dict[str | None, list[Any]] = {}  # of a server, by branch
        self._pinned: dict[str | None, list[Any]] = {}

    def of(self, name: str, session: str, branch: str | None, at_most: int) -> list[Any]:
        """Records that passed (``mlflow.entities.Run``) of earlier sessions, newest first.

        Args:
            name: `name_of` the test.
            session: the id of this session, whose own records are no history.
            branch: of the records; None for any.
            at_most: how many.
        """
        if self._is_server:  # in few requests for all tests, and not in one for each
            if branch not in self._read:
                self._read[branch] = self._ask(lambda: self._pages(_that_passed(branch)))
            found = [run for run in self._read[branch] if run.data.tags.get(_OF_TEST) == name]
        else:
            tag, value = _OF_TEST, name
            if branch is not None:
                tag, value = _OF_TEST_ON_BRANCH, _on_branch(name, branch)
            wanted = f"tags.`{tag}` = '{value}'"
            found = self._ask(lambda: self._search(wanted, at_most + _OWN))
        return [run for run in found if run.data.tags.get(SESSION) != session][:at_most]

    def anchored(self, name: str, session: str, branch: str | None) -> list[Any]:
        """The records of the test in the newest session that was pinned."""
        if branch not in self._pinned:
            wanted = f"tags.`{RECORD}` = 'session' AND tags.`{ANCHOR}` = 'true'{_on(branch)}"
            found = self._ask(lambda: self._search(wanted, 2))
            others = [run.data.tags[SESSION] for run in found if run.data.tags.get(SESSION) != session]
            if others:
                of_session = f"{_that_passed(None)} AND tags.`{SESSION}` = '{others[0]}'"
                self._pinned[branch] = self._ask(lambda: self._pages(of_session))
            else:
                self._pinned[branch] = []
        return [run for run in self._pinned[branch] if run.data.tags.get(_OF_TEST) == name]

    def _search(self, wanted: str, at_most: int, token: str | None = None) -> Any:
        from mlflow.entities import ViewType

        return self._store.search_runs(
            [self._experiment_id],
            wanted,
            ViewType.ACTIVE_ONLY,
            at_most,
            ["attributes.start_time DESC"],
            token,
        )

    def _pages(self, wanted: str) -> list[Any]:
        found = page = self._search(wanted, _PAGE)
        for _ in range(_MOST_PAGES - 1):
            if not page.token:
                break
            page = self._search(wanted, _PAGE, page.token)
            found = [*found, *page]
        return [*found]


def name_of(nodeid: str) -> str:
    """What the records of a test, or of a key that outlives its name, are found by: short, in no quotes."""
    return hashlib.sha256(nodeid.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def tags(nodeid: str, branch: str) -> dict[str, str]:
    """What makes a record of this test, or key, on this branch part of its history."""
    name = name_of(nodeid)
    return {_OF_TEST: name, _OF_TEST_ON_BRANCH: _on_branch(name, branch)}


def _on_branch(name: str, branch: str) -> str:
    return name_of(f"{name} {branch}")


def _that_passed(branch: str | None) -> str:
    return f"tags.`{RECORD}` = 'test' AND tags.`mlctx.outcome` = 'passed'{_on(branch)}"


def _on(branch: str | None) -> str:
    if branch is None:
        return ""
    quote = '"' if "'" in branch else "'"
    return f" AND tags.`{BRANCH}` = {quote}{branch}{quote}"
