"""What users change in loguru: each change is told, and undone again and again."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from state_changes import LOGURU_CHANGES

from pytest_mlctx.services import state


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[Any]:
    """loguru as the tests before left it, whatever this one does."""
    before = state.capture("loguru", "logging")
    yield before
    state.restore(before)


@pytest.fixture
def lines() -> Any:
    """What a handler of the user's, added before, was given."""
    written: list[str] = []
    logger.add(lambda message: written.append(str(message).strip()), format="{message}")
    return written


@pytest.fixture
def before(lines: Any) -> Any:
    return state.capture("loguru", "logging")


@pytest.mark.parametrize("name", LOGURU_CHANGES)
def test_a_change_is_told_and_undone_again_and_again(name: Any, before: Any, lines: Any) -> None:
    change, sentences = LOGURU_CHANGES[name]
    handlers = {**logger._core.handlers}
    for turn in range(2):
        if name == "level" and turn:
            assert "NOTE" not in logger._core.levels
        change()
        told = [one.sentence for one in state.compare(before, state.capture("loguru", "logging"))]
        assert all(any(re.match(sentence, one) for one in told) for sentence in sentences), told
        state.restore(before)
        assert state.compare(before, state.capture("loguru", "logging")) == []
        assert list(logger._core.handlers) == list(handlers)
        assert all(logger._core.handlers[key] is handlers[key] for key in handlers)
        logger.info("after {}", turn)
        assert lines[-1] == f"after {turn}"


def test_enabled_again_is_told(lines: Any) -> None:
    logger.disable("package")
    before = state.capture("loguru")
    logger.enable("package")
    assert [one.sentence for one in state.compare(before, state.capture("loguru"))] == [
        "loguru enabled for `package`"
    ]
    state.restore(before)
    assert state.compare(before, state.capture("loguru")) == []
    assert "package." in dict(logger._core.activation_list)


def test_a_module_that_a_test_disabled_logs_again(before: Any, lines: Any) -> None:
    logger.disable(__name__)
    logger.info("unheard")
    state.restore(before)
    logger.info("heard")
    assert lines == ["heard"]


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_file_sink_that_was_removed_goes_on_where_it_was(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "run.log"
    logger.add(path, format="{message}", mode=mode)
    logger.info("one")
    before = state.capture("loguru")
    for _ in range(2):
        logger.remove()
        state.restore(before)
    logger.info("two")
    logger.complete()
    assert path.read_text() == "one\ntwo\n"


def test_an_enqueued_handler_that_was_removed_writes_again() -> None:
    written: list[str] = []
    key = logger.add(written.append, format="{message}", enqueue=True)
    handler = logger._core.handlers[key]
    before = state.capture("loguru")
    logger.info("one")
    logger.remove(key)
    state.restore(before)
    assert logger._core.handlers[key] is handler
    logger.info("two")
    logger.complete()
    assert [str(message) for message in written] == ["one\n", "two\n"]
    logger.remove(key)
    assert handler._thread is not None
    assert not handler._thread.is_alive()


def test_an_enqueued_handler_left_is_flushed_and_stopped(before: Any) -> None:
    written: list[str] = []
    key = logger.add(written.append, format="{message}", enqueue=True)
    thread = logger._core.handlers[key]._thread
    for number in range(100):
        logger.info(number)
    state.restore(before)
    assert len(written) == 100
    assert not thread.is_alive()


def test_a_logging_handler_as_sink_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "std.log"
    logger.add(logging.FileHandler(path, mode="w"), format="{message}")
    logger.info("one")
    before = state.capture("loguru")
    logger.remove()
    state.restore(before)
    logger.info("two")
    assert path.read_text() == "one\ntwo\n"


def test_a_level_that_is_gone_leaves_no_colour_behind(before: Any) -> None:
    key = logger.add(lambda message: None, colorize=True)
    colourful = state.capture("loguru")
    logger.level("NOTE", no=22, color="<blue>")
    state.restore(colourful)
    assert "NOTE" not in logger._core.handlers[key]._precolorized_formats
    with pytest.raises(ValueError, match="NOTE"):
        logger.log("NOTE", "x")


def test_the_levels_known_when_a_handler_comes_back_are_coloured(lines: Any) -> None:
    written: list[str] = []
    key = logger.add(written.append, format="<level>{message}</level>", colorize=True)
    before = state.capture("loguru")
    logger.remove(key)
    logger.level("INFO", color="<red>")
    state.restore(before)
    logger.info("x")
    assert "\x1b[1m" in written[0]


def test_a_thread_that_logs_meanwhile_loses_nothing_and_never_fails(lines: Any) -> None:
    errors: list[str] = []
    logger.add(lambda message: lines.append("caught"), catch=False, format="{message}")
    before = state.capture("loguru")
    running = threading.Event()
    running.set()
    sent = 0

    def chat() -> None:
        nonlocal sent
        try:
            while running.is_set():
                logger.info("steady")
                sent += 1
        except Exception as error:
            errors.append(repr(error))

    thread = threading.Thread(target=chat)
    thread.start()
    for _ in range(200):
        logger.add(lambda message: None)
        state.restore(before)
    running.clear()
    thread.join()
    assert errors == []
    assert sum(line == "steady" for line in lines) == sent
    assert state.compare(before, state.capture("loguru")) == []


def test_a_handler_whose_stop_fails_keeps_the_others_from_nothing(
    before: Any, lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Sink:
        def write(self, message: Any) -> None:
            pass

        def stop(self) -> None:
            raise OSError("no answer from https://ada:hunter2@host")

    logger.add(Sink())
    logger.configure(extra={"a": 1})
    with caplog.at_level("WARNING"):
        state.restore(before)
    assert "Not all of the state could be restored: OSError: no answer from https://***@host" in caplog.text
    assert state.compare(before, state.capture("loguru")) == []
