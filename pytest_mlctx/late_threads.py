"""Threads that outlive their test: their transactions on temporary stores are refused."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import pytest

from pytest_mlctx.lifecycle import Observer

_LIBRARIES = tuple(
    {f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


class LateThreads(Observer):
    """Looks between tests for threads that a test started and left in the middle of the user's code.

    A thread that was there before, or that a fixture of higher scope started, is none; nor is one of a pool
    that waits for work, since of that there is no frame of the user's code.
    """

    def __init__(self) -> None:
        self._welcome = WeakSet(threading.enumerate())
        self._barred: WeakKeyDictionary[threading.Thread, tuple[FrameType, str]] = WeakKeyDictionary()

    def on_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Bar what still runs after the test's teardown, each attempt's own."""
        threads = set(threading.enumerate()) - set(self._welcome) if report.when == "teardown" else ()
        if threads:
            frames = sys._current_frames()
            for thread in threads:
                began = _users_first(frames.get(thread.ident or 0))
                if began is not None and thread not in self._barred:
                    self._barred[thread] = began, item.nodeid

    @contextmanager
    def during_setup_of_shared(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Welcome the threads that the fixture starts."""
        before = set(threading.enumerate())
        try:
            yield
        finally:
            self._welcome.update(set(threading.enumerate()) - before)

    def is_welcome(self, thread: threading.Thread) -> bool:
        """Whether the thread is none that a test started."""
        return thread in self._welcome

    def check(self) -> None:
        """Refuse the calling thread while what it did when its test ended is not done.

        Raises:
            RuntimeError: names the test.
        """
        thread = threading.current_thread()
        if thread not in self._barred:
            return
        began, nodeid = self._barred[thread]
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame is began:
                raise RuntimeError(
                    f"{nodeid} is over and a thread that it started still logs: end the thread within the "
                    "test, or start it in a fixture of higher scope."
                )
            frame = frame.f_back
        del self._barred[thread]  # of a pool: it has other work now


def _users_first(frame: FrameType | None) -> FrameType | None:
    """The outermost frame outside of the standard library and installed packages."""
    first = None
    while frame is not None:
        if not frame.f_code.co_filename.startswith((*_LIBRARIES, "<")):
            first = frame
        frame = frame.f_back
    return first
