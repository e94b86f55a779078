"""A deadline for work that may block, and the cause of an error in one line."""

from __future__ import annotations

import contextvars
import re
import threading
from collections.abc import Callable
from typing import TypeVar

from pytest_mlctx.services.credentials import redact

T = TypeVar("T")


class DeadlineError(Exception):
    """The work was not done in time; it goes on in the background."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Do the work in a thread, in the context of the caller, and wait for it this long.

    A thread, since a server that drips its answer byte by byte passes every timeout of a socket.

    Raises:
        DeadlineError: it takes longer.
        Exception: what the work itself raised.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            results.append(context.run(work))
        except BaseException as error:  # raised again below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="mlctx-deadline", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise DeadlineError(f"gave up after {seconds:.2g} s")
    return results[0]


def reason(error: BaseException) -> str:
    """The innermost cause of an error, as one short line without credentials."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    line = next(iter(str(error).strip().splitlines()), "")
    return (
        redact(re.sub(r"^.*?(Connection refused|Name or service not known|timed out).*$", r"\1", line))[:200]
        or type(error).__name__
    )
