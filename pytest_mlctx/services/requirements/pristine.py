"""The original functions that inferring requirements calls: a mock in place of one switches reuse off.

With a mock nothing is read from memory or cache and nothing is kept: MLflow goes its own way, the mock wins.
"""

from __future__ import annotations

import builtins
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_MLFLOW = ("mlflow.utils.requirements_utils", "mlflow.utils.environment", "mlflow.utils.model_utils")
_CLASSES = ("Distribution", "PathDistribution", "MetadataPathFinder", "Prepared", "FastPath")
_BUILTINS = ("open", "__import__", "exec", "compile")

_Place = tuple[Any, str, Any]  # a module or class, a name in it, what stands there


class Pristine:
    """Functions, classes and modules of MLflow, of distributions' metadata and of processes, by identity."""

    def __init__(self) -> None:
        self._known: dict[str, list[_Place]] = {}
        self._path_hooks = tuple(map(id, sys.path_hooks))
        for module in (builtins, subprocess, importlib.metadata):
            self.learn(module)

    def learn(self, module: ModuleType) -> None:
        """Take this module as it is now for how it is to be."""
        self._known[module.__name__] = list(_places(module))

    def learn_imported(self) -> None:
        """Take in what was imported since, such as MLflow itself."""
        for name in (*_MLFLOW, "importlib_metadata"):
            module = sys.modules.get(name)
            if isinstance(module, ModuleType) and name not in self._known:
                self.learn(module)

    def holds(self) -> bool:
        """Whether all of it is as it was."""
        return self._path_hooks == tuple(map(id, sys.path_hooks)) and all(
            vars(owner).get(name) is value for places in self._known.values() for owner, name, value in places
        )


def _places(module: ModuleType) -> Iterator[_Place]:
    for name, value in list(vars(module).items()):
        if module is builtins and name not in _BUILTINS:
            continue
        if callable(value) or isinstance(value, (ModuleType, str)):  # MLflow fills tables of its own later
            yield module, name, value
        if isinstance(value, type) and name in _CLASSES:
            yield from ((value, member, there) for member, there in vars(value).items())
