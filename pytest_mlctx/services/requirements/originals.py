"""The original functions that inferring requirements calls: a mock in place of one switches reuse off.

With a mock nothing is read from memory or cache and nothing is kept: MLflow goes its own way, the mock wins.
"""

from __future__ import annotations

import builtins
import copy
import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

_MLFLOW = ("mlflow.utils.requirements_utils", "mlflow.utils.environment", "mlflow.utils.model_utils")
_CLASSES = ("Distribution", "PathDistribution", "MetadataPathFinder", "Prepared", "FastPath")
_BUILTINS = ("open", "__import__", "exec", "compile")
# Of MLflow, filled when first needed, and by what.
_FILLED = {
    "_MODULES_TO_PACKAGES": "_init_modules_to_packages_map",
    "_PYPI_PACKAGE_INDEX": "_load_pypi_package_index",
}
_ASKED_ELSEWHERE = "_PACKAGES_TO_MODULES"  # when a model is loaded

_Place = tuple[Any, str, Any]  # a module or class, a name in it, what stands there


class Originals:
    """What MLflow, the metadata of distributions and processes go by: by identity, tables by content."""

    def __init__(self) -> None:
        self._known: dict[str, list[_Place]] = {}
        self._tables: dict[tuple[ModuleType, str], Any] = {}  # by content: patch.dict leaves the identity
        self._path_hooks = tuple(map(id, sys.path_hooks))
        for module in (builtins, subprocess, importlib.metadata):
            self.learn(module)

    def learn(self, module: ModuleType) -> None:
        """Take this module as it is now for how it is to be."""
        self._known[module.__name__] = list(_places(module))
        for name, value in vars(module).items():
            if _is_table(module, name, value):
                self._tables[module, name] = None if name in _FILLED else copy.deepcopy(value)

    def learn_imported(self) -> None:
        """Take in what was imported since, such as MLflow itself."""
        for name in (*_MLFLOW, "importlib_metadata"):
            module = sys.modules.get(name)
            if isinstance(module, ModuleType) and name not in self._known:
                self.learn(module)

    def holds(self) -> bool:
        """Whether all of it is as it was."""
        places = (place for known in self._known.values() for place in known)
        return (
            self._path_hooks == tuple(map(id, sys.path_hooks))
            and all(vars(owner).get(name) is value for owner, name, value in places)
            and all(self._is_as_known(module, name) for module, name in self._tables)
        )

    def _is_as_known(self, module: ModuleType, name: str) -> bool:
        value = vars(module).get(name)
        if name in _FILLED and value is None:
            return True
        if self._tables[module, name] is None:
            self._tables[module, name] = value  # for who asks while it is filled
            self._tables[module, name] = _filled(module, name)
        if value is not self._tables[module, name] and value != self._tables[module, name]:
            return False
        if isinstance(value, tuple):  # the index of PyPI: its 600,000 names are compared once
            self._tables[module, name] = value
        return True


def _filled(module: ModuleType, name: str) -> Any:
    """The table as MLflow fills it, among copies of its global names."""
    names = {**vars(module), name: None}
    try:
        returned = FunctionType(inspect.unwrap(names[_FILLED[name]]).__code__, names)()
    except Exception:
        return ...  # equal to none: MLflow goes its own way
    return copy.deepcopy(names[name]) if returned is None else returned


def _is_table(module: ModuleType, name: str, value: Any) -> bool:
    known = name in _FILLED or (isinstance(value, (dict, set)) and not name.startswith("__"))
    return module.__name__ in _MLFLOW and known and name != _ASKED_ELSEWHERE


def _places(module: ModuleType) -> Iterator[_Place]:
    for name, value in list(vars(module).items()):
        if module is builtins and name not in _BUILTINS:
            continue
        ours = module.__name__ in _MLFLOW and name != _ASKED_ELSEWHERE and not _is_table(module, name, value)
        if callable(value) or isinstance(value, (ModuleType, str)) or (ours and not name.startswith("__")):
            yield module, name, value
        if isinstance(value, type) and name in _CLASSES:
            yield from ((value, member, there) for member, there in vars(value).items())
