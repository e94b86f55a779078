"""What process-wide state is made of: cells, and the kinds of cell that a library has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias

Cell: TypeAlias = "tuple[str, Hashable]"
"""The name of a kind, such as ``loguru.handler``, and the key within it, such as ``0``."""


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""The value of a cell that does not exist."""


@dataclass(frozen=True)
class Held:
    """A value that is compared by a key, and keeps the thing that putting it back needs."""

    key: object
    thing: Any = field(compare=False)


@dataclass(frozen=True)
class Change:
    """One difference between two states."""

    cell: Cell
    before: object
    after: object
    sentence: str | None = None
    """The change in the user's words; None for what is put back and never named."""


_COMPARED_BY_VALUE: Final = frozenset({str, int, float, bool, bytes, type(None), frozenset, Held})


def same(one: object, other: object) -> bool:
    """Whether two values of a cell are equal: plain data by value, any other object by identity."""
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _COMPARED_BY_VALUE:
        return one == other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return False


class Kind:
    """One kind of state: how its cells are read, put back and told."""

    name: str

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The cells as they are now."""
        raise NotImplementedError

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Put one cell back."""
        raise NotImplementedError

    def undo_all(self, changes: list[Change], failures: list[Exception]) -> None:
        """Put cells back, last one first, each on its own."""
        for change in reversed(changes):
            try:
                self.undo(change.cell[1], change.before, change.after)
            except Exception as error:
                failures.append(error)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The change of one cell in the user's words; None where it is not worth one."""
        return None

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """The cells as the import of the library left them, where ``now`` is what they became."""
        return {}


def loaded(name: str) -> Any | None:
    """The module of that name where it is imported and usable, else None."""
    module = sys.modules.get(name)
    if type(module) is not ModuleType and not isinstance(module, ModuleType):
        return None
    spec = getattr(module, "__spec__", None)
    return None if spec is not None and getattr(spec, "_initializing", False) else module


class Attribute(Kind):
    """A variable of a module, or of an object in it."""

    def __init__(
        self,
        name: str,
        module: str,
        path: str,
        pristine: object = None,
        tell: Callable[[Any, Any], str | None] = lambda before, after: None,
    ) -> None:
        self.name = name
        self._module = module
        *owners, self._attribute = path.split(".")
        self._owners = owners
        self._pristine = pristine
        self._tell = tell

    def _owner(self) -> Any:
        owner: Any = sys.modules.get(self._module)
        for name in self._owners:
            owner = getattr(owner, name, None)
        return owner

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell, where the variable exists."""
        value = getattr(self._owner(), self._attribute, ABSENT)
        return () if value is ABSENT else (("", value),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Assign the variable."""
        if before is not ABSENT:
            setattr(self._owner(), self._attribute, before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """As the caller says it; a variable that came with its module is no change."""
        return None if before is ABSENT or after is ABSENT else self._tell(before, after)

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """The value that the module's source gives."""
        return {"": self._pristine} if now else {}


Library: TypeAlias = Literal["mlflow", "loguru", "logging", "environment", "files"]
