"""Writes to a temporary store that wait until something is about to read it."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

_PATIENCE = 5.0  # seconds to wait for a thread that writes: it may itself wait for what the caller holds

# Audit events of the standard library after which another reader may look: a child process, a connection of
# the test's own, a server on this store, also over a connection that was kept.
_LOOKS = frozenset(
    {
        "sqlite3.connect",
        "socket.connect",
        "http.client.send",
        "subprocess.Popen",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
    }
)

_all: weakref.WeakSet[Pending] = weakref.WeakSet()


class Write(NamedTuple):
    """One write that waits."""

    id: str
    """Of what it is about, such as a trace."""
    write: Callable[[Sequence[Any]], None]
    """Writes the contents of all that wait for the same function, in their order."""
    content: Any


class Pending:
    """The writes that wait, oldest first."""

    def __init__(self) -> None:
        self._writes: deque[Write] = deque()  # whose methods are atomic: the collector may add to it
        self._lock = threading.RLock()
        self._writer: int | None = None  # the thread that writes
        _all.add(self)

    def add(self, write: Write) -> None:
        """Let it wait."""
        _watch()
        self._writes.append(write)

    def flush(self) -> None:
        """Write what waits, unless this thread is at it; what another thread is writing is waited for."""
        if not (self._writes or self._writer) or not self._lock.acquire(timeout=_PATIENCE):
            return
        try:
            if self._writer is None:
                self._writer = threading.get_ident()
                try:
                    self._write()
                finally:
                    self._writer = None
        finally:
            self._lock.release()

    def _write(self) -> None:
        by_function: dict[Callable[[Sequence[Any]], None], list[Any]] = {}
        while self._writes:
            write = self._writes.popleft()
            by_function.setdefault(write.write, []).append(write.content)
        for function, contents in by_function.items():
            function(contents)

    def is_written_here(self) -> bool:
        """Whether the calling thread writes what waited."""
        return self._writer == threading.get_ident()

    def drop(self) -> set[str]:
        """Forget what waits; the ids of what it was about."""
        dropped = {write.id for write in [*self._writes]}
        self._writes.clear()
        return dropped


def flush_all() -> None:
    """Write what waits for any store."""
    for pending in [*_all]:
        pending.flush()


@cache
def _watch() -> None:
    """Hear of other readers from now on: a hook of the interpreter's cannot be taken off again."""
    sys.addaudithook(_heard)


def _heard(event: str, arguments: Sequence[object]) -> None:
    # The pipe to a child that multiprocessing or loky has just spawned: of that alone there is no event.
    if event in _LOOKS or (event == "open" and type(arguments[0]) is int):
        flush_all()
