"""The services that run: each ``start()`` that waits for its ``stop()``."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pytest_mlctx.services.state.kinds import ABSENT, Kind, State, put


@dataclass(eq=False)
class Lease:
    """One ``start()`` that waits for its ``stop()``."""

    service: object
    before: State  # what the matching stop gives back
    made: object  # what the start has made of the service's own
    thread: int = field(default_factory=threading.get_ident)

    def shares(self, other: Lease) -> bool:
        """Whether both hold the state of one library."""
        return not self.before.libraries.isdisjoint(other.before.libraries)


numbers: Iterator[int] = itertools.count()
leases: dict[int, Lease] = {}


def in_order() -> list[tuple[int, Lease]]:
    """The leases with their numbers, the outermost first."""
    return sorted(leases.copy().items())


class Running(Kind):
    """A lease, by its number."""

    name = "services.running"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The leases."""
        return in_order()

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Forget the lease or go on with it; what else its start or stop changed has cells of its own."""
        put(leases, key, before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The class of the service."""
        if before is ABSENT:
            return f"{type(after.service).__name__} left running"
        return f"{type(before.service).__name__} no longer running"


KINDS: tuple[Kind, ...] = (Running(),)
