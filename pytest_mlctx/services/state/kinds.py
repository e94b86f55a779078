"""Process-wide state as cells: the kinds of cell that a library has, and how each is compared.

The rule of what is named: every difference is put back, files aside, and `Kind.tell` names those that the
next test could see. It compares what is in force (what the public getters and the environment say, what is
patched, enabled, open and logged), not the variable that holds it. A default that is spelt out now, and what
was switched on and off again, are put back in silence; so are caches. What a library does to itself when it
is imported is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from inspect import unwrap
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias

from pytest_mlctx.services import mlflow_internals

Cell: TypeAlias = "tuple[str, Hashable]"
"""The name of a kind, such as ``loguru.handler``, and the key within it, such as ``0``."""

Library: TypeAlias = Literal["mlflow", "loguru", "logging", "environment", "files", "services"]


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""The value of a cell that does not exist."""


class Held:
    """A value that is compared by a key, and keeps the thing that putting it back needs."""

    __slots__ = ("key", "thing")

    def __init__(self, key: object, thing: Any) -> None:
        self.key: object = key
        self.thing: Any = thing

    def __repr__(self) -> str:
        return f"Held({self.key!r})"


@dataclass(frozen=True)
class Change:
    """One difference between two states."""

    cell: Cell
    before: object
    after: object
    sentence: str | None = None
    """The change in the user's words; None for what is put back and never named."""


@dataclass(frozen=True)
class State:
    """The cells of some libraries at one moment. A cell that is not in it is ABSENT."""

    cells: Mapping[Cell, object]
    libraries: frozenset[Library]
    pristine: frozenset[Library] = frozenset()
    """Those of the libraries that were not imported: they stand for what their import will make of them."""
    unread: frozenset[str] = frozenset()
    """The kinds that could not be read, where a stub took a library's place: they are left alone."""


_COMPARED_BY_VALUE: Final = frozenset({int, float, bool, bytes, type(None), frozenset})


def same(one: object, other: object) -> bool:
    """Whether two values of a cell are equal: plain data by value, any other object by identity."""
    if one is other:
        return True
    if isinstance(one, str) and isinstance(other, str):
        return one == other
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _COMPARED_BY_VALUE:
        return one == other
    if isinstance(one, Held) and isinstance(other, Held):
        return one.key == other.key
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return False


def attempt(failures: list[Exception], work: Callable[..., object], *arguments: object) -> None:
    """Do the work, and keep its failure instead of raising it."""
    try:
        work(*arguments)
    except Exception as error:
        failures.append(error)


def put(table: MutableMapping[Any, Any], key: Any, value: object) -> None:
    """Set an entry, or delete it where the value is ABSENT."""
    if value is ABSENT:
        table.pop(key, None)
    else:
        table[key] = value


class Kind:
    """One kind of state: how its cells are read, put back and told."""

    name: str
    leans_on: tuple[str, ...] = ()
    """Names of `mlflow_internals.NAMES`: without them it is neither read nor put back."""
    held_by_garbage = False
    """Whether it may change when garbage is collected, which is better done before it is put back."""

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The cells as they are now."""
        raise NotImplementedError

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Put one cell back."""
        raise NotImplementedError

    def undo_all(self, changes: list[Change], failures: list[Exception]) -> None:
        """Put cells back, each on its own: what is new goes, the latest first, then the rest in its order."""
        new = [change for change in changes if change.before is ABSENT]
        for change in [*reversed(new), *(change for change in changes if change.before is not ABSENT)]:
            attempt(failures, self.undo, change.cell[1], change.before, change.after)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The change of one cell in the user's words; None where its effect is that of before."""
        return None

    def echo_of(self, key: Any) -> Cell | None:
        """The cell that this one repeats: where both changed to the same, only that one is told."""
        return None

    def ignores_new(self, key: Any) -> bool:
        """Whether it is no change that this cell came to be."""
        return False

    def ignores_gone(self, key: Any) -> bool:
        """Whether a cell that is no more is left so."""
        return False

    def is_elsewhere(self, key: Any) -> bool:
        """Whether the cell belongs to another thread."""
        return False

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
    """A variable of a module, or of an object in it; absent while it has its pristine value."""

    def __init__(
        self,
        name: str,
        module: str,
        path: str,
        pristine: object = None,
        tell: Callable[[Any], str | None] = lambda after: None,
    ) -> None:
        self.name = name
        self.leans_on: tuple[str, ...] = mlflow_internals.listed(path)
        self._module = module
        *self._owners, self._attribute = path.split(".")
        self._pristine = pristine
        self._tell = tell

    def _owner(self) -> Any:
        owner: Any = sys.modules.get(self._module)
        for name in self._owners:
            owner = getattr(owner, name, None)
        return owner

    def _get(self) -> object:
        return getattr(self._owner(), self._attribute, self._pristine)

    def _set(self, value: object) -> None:
        setattr(self._owner(), self._attribute, value)

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell, where there is something to tell."""
        value = self._get()
        return () if same(value, self._pristine) else (("", value),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Assign the variable."""
        self._set(self._pristine if before is ABSENT else before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """As the caller says it of the value that is in force now."""
        return self._tell(self._pristine if after is ABSENT else after)


class Setting(Kind):
    """A value that one function tells and another sets; the import of its library is not what sets it."""

    def __init__(
        self, name: str, get: Callable[[], object], put: Callable[[Any], object], tell: Callable[[Any], str]
    ) -> None:
        self.name = name
        self._get, self._put, self._tell = get, put, tell

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell."""
        return (("", self._get()),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Set it."""
        self._put(before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """As the caller says it of the value that is in force now."""
        return self._tell(after)

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """As it is now."""
        return now


class AsImported(Attribute):
    """A variable whose pristine value only the import knows: what it was when it was first seen."""

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell, where the variable exists."""
        value = getattr(self._owner(), self._attribute, ABSENT)
        return () if value is ABSENT else (("", value),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Assign the variable; one that came with its module stays."""
        if before is not ABSENT:
            self._set(before)

    def pristine(self, now: Mapping[Hashable, object]) -> Mapping[Hashable, object]:
        """As it is now, but for what was wrapped around a function of the module's package."""
        package = self._module.partition(".")[0]
        return {key: unwrap(value, stop=lambda one: _is_of(package, one)) for key, value in now.items()}  # type: ignore[arg-type]


def _is_of(package: str, function: Any) -> bool:
    code = getattr(function, "__code__", None)
    folder = getattr(sys.modules.get(package), "__file__", None)
    return code is None or folder is None or Path(code.co_filename).is_relative_to(Path(folder).parent)


class ContextVariable(Attribute):
    """A ``contextvars.ContextVar`` of a module, in the context of the caller."""

    def _variable(self) -> Any:
        return super()._get()

    def _get(self) -> object:
        variable = self._variable()
        return self._pristine if variable is self._pristine else variable.get(self._pristine)

    def _set(self, value: object) -> None:
        self._variable().set(value)


class Table(Attribute):
    """A dictionary of a module, or of an object in it, each of its entries a cell."""

    def _table(self) -> dict[Any, Any]:
        table: Any = self._get()
        return {} if table is None else table

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The entries, none where the module is not imported."""
        return [*self._table().items()]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Set or delete the entry."""
        put(self._table(), key, before)
