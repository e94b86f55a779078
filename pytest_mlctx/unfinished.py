"""Fixtures whose setup had begun before the hooks were registered that follow fixtures.

A fixture that asks for the first service by ``getfixturevalue`` goes on when the service has started.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import pytest

T = TypeVar("T")


class Unfinished(Generic[T]):
    """The fixtures of higher scope that wait for a request, each with what is to be known when it is done.

    Those that will be seen by ``pytest_fixture_setup`` are to be taken out by `seen`.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[pytest.FixtureDef[Any], T]] = []  # outermost first

    def expect(self, request: pytest.FixtureRequest, known: T) -> None:
        """Wait for the fixtures whose setup led to this request."""
        parent = getattr(request, "_parent_request", None)
        while parent is not None:
            fixturedef = getattr(parent, "_fixturedef", None)
            if fixturedef is not None and fixturedef.scope != "function":
                self._waiting.insert(0, (fixturedef, known))
            parent = getattr(parent, "_parent_request", None)

    def seen(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Its setup is followed from its beginning: it asked by an argument, which comes before that."""
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not fixturedef]

    def done(self) -> Iterator[tuple[pytest.FixtureDef[Any], T]]:
        """Those whose setup has ended since, innermost first."""
        while self._waiting and self._waiting[-1][0].cached_result is not None:
            yield self._waiting.pop()

    def known(self) -> list[T]:
        """What is known of those that still wait."""
        return [known for _, known in self._waiting]
