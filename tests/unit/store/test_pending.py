"""What waits to be written is written when somebody looks, in any thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pytest_mlctx.services.store.pending import Pending, Write


def test_who_looks_while_another_thread_writes_waits_for_it() -> None:
    pending, written = Pending(), []
    begun, go = threading.Event(), threading.Event()

    def write(contents: Sequence[int]) -> None:
        begun.set()
        assert go.wait(5)
        written.extend(contents)

    def look() -> None:
        pending.flush()
        seen.extend(written)

    seen: list[int] = []
    pending.add(Write("a", write, 1))
    writer = threading.Thread(target=pending.flush)
    writer.start()
    assert begun.wait(5)
    reader = threading.Thread(target=look)
    reader.start()
    reader.join(0.05)
    go.set()
    writer.join()
    reader.join()
    assert seen == [1]


def test_who_looks_while_it_writes_does_not_wait_for_itself() -> None:
    pending, written = Pending(), []

    def write(contents: Sequence[int]) -> None:
        pending.flush()
        written.extend(contents)

    pending.add(Write("a", write, 1))
    pending.flush()
    assert written == [1]
