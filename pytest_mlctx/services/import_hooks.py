"""Import hooks: a callback runs once somebody else has imported a module."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType

from pytest_mlctx.services.state.kinds import loaded


class Finder(importlib.abc.MetaPathFinder):
    """Hands each of these modules over when it has been imported, before who imported it goes on."""

    def __init__(self, names: Container[str], then: Callable[[ModuleType], None]) -> None:
        self._names = names
        self._then = then

    def install(self) -> None:
        """Wait from now on."""
        sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Wait no longer; somebody may have taken us off before."""
        with suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find as the finders after this one do: one before it may wait for the same module and ask it."""
        if fullname not in self._names or self not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module
                spec.loader.exec_module = functools.partial(self._execute, execute)  # type: ignore[method-assign]
                return spec
        return None

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        self._then(module)


@contextmanager
def once_imported(name: str, work: Callable[[], None]) -> Iterator[None]:
    """Within the block the work is done when the module has been imported, at once where it already is."""
    finder = Finder({name}, lambda _module: work())
    if loaded(name) is None:
        finder.install()
    else:
        work()
    try:
        yield
    finally:
        finder.uninstall()
