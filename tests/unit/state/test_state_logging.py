"""What users change in the standard library's logging."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from state_changes import LOGGING_CHANGES

from pytest_mlctx.services import state


@pytest.fixture(autouse=True)
def before() -> Iterator[Any]:
    captured = state.capture("logging")
    yield captured
    state.restore(captured)


def told(before: state.State) -> list[str | None]:
    return [change.sentence for change in state.compare(before, state.capture("logging"))]


@pytest.mark.parametrize("name", LOGGING_CHANGES)
def test_a_change_is_told_and_undone_again_and_again(name: Any, before: Any) -> None:
    change, sentence = LOGGING_CHANGES[name]
    for _ in range(2):
        change()
        assert any(one and re.match(sentence, one) for one in told(before)), told(before)
        state.restore(before)
        assert told(before) == []


def test_a_handler_that_was_removed_is_back_in_its_place(before: Any, tmp_path: Path) -> None:
    handlers = [
        logging.StreamHandler(),
        logging.FileHandler(tmp_path / "x.log", mode="w"),
        logging.NullHandler(),
    ]
    for handler in handlers:
        logging.root.addHandler(handler)
    mine = [handler for handler in logging.root.handlers if type(handler).__module__ != "_pytest.logging"]
    with_mine = state.capture("logging")
    logging.root.warning("one")
    logging.basicConfig(force=True)  # removes and closes all
    assert f"root logging handler {handlers[1]!r} removed" in told(with_mine)
    state.restore(with_mine)
    assert told(with_mine) == []
    now = [handler for handler in logging.root.handlers if type(handler).__module__ != "_pytest.logging"]
    assert now == mine
    logging.root.warning("two")
    assert (tmp_path / "x.log").read_text() == "one\ntwo\n"


def test_pytests_own_handlers_come_and_go(before: Any, caplog: pytest.LogCaptureFixture) -> None:
    logging.root.removeHandler(caplog.handler)
    assert told(before) == []
    logging.root.addHandler(caplog.handler)
    assert told(before) == []


@pytest.mark.parametrize("time", ["", "%(asctime)s "], ids=["2.22", "3.6"])
def test_what_mlflows_migrations_leave_is_put_back_and_not_told(before: Any, time: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{time}%(levelname)-5.5s [%(name)s] %(message)s"))
    logging.root.addHandler(handler)
    assert told(before) == [None]
    state.restore(before)
    assert handler not in logging.root.handlers


def test_a_level_that_a_library_adds_is_put_back_and_not_told(before: Any) -> None:
    logging.addLevelName(5, "TRACE")
    assert told(before) == [None, None]
    state.restore(before)
    assert logging.getLevelName(5) == "Level 5"
    assert logging.getLevelName("TRACE") == "Level TRACE"


def test_the_caches_of_loggers_follow(before: Any) -> None:
    log = logging.getLogger("cached")
    logging.root.setLevel(logging.ERROR)
    assert not log.isEnabledFor(logging.WARNING)
    state.restore(before)
    assert log.isEnabledFor(logging.WARNING)
