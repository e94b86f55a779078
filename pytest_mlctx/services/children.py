"""Reuse of requirements in child processes, which a variable of the environment asks for.

`pytest_mlctx_children.pth` has every Python look for the variable when it starts, and import this with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VARIABLE = "MLCTX_CHILDREN"
_ALWAYS = "always"

_before: list[str | None] = []
_begun: Any = None  # what a child process has installed


def reach(folders: Iterable[Path] | None) -> None:
    """Have child processes reuse from now on: always, or where they track to a store below a folder."""
    _before.append(os.environ.get(VARIABLE))
    os.environ[VARIABLE] = _ALWAYS if folders is None else os.pathsep.join(map(str, folders))


def leave() -> None:
    """End one :func:`reach`."""
    value = _before.pop()
    if value is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = value


def begin() -> None:
    """In a child process that starts, reuse from the import of mlflow on; site may ask for it twice."""
    if not any(isinstance(one, _Waiting) for one in sys.meta_path):
        sys.meta_path.insert(0, _Waiting(os.environ[VARIABLE]))


def end() -> None:
    """In a child process that turns out to be a session of its own: its own settings hold."""
    global _begun
    waiting = [one for one in sys.meta_path if isinstance(one, _Waiting)]
    for one in waiting:
        sys.meta_path.remove(one)
    if waiting or _begun is not None:
        os.environ.pop(VARIABLE, None)
    if _begun is not None:
        from pytest_mlctx.services import requirements

        requirements.uninstall(_begun)
        _begun = None


class _Waiting:
    """A finder that finds nothing, and learns that mlflow is about to be imported."""

    def __init__(self, asked: str) -> None:
        self._asked = asked

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Begin with mlflow."""
        if fullname != "mlflow":
            return
        sys.meta_path.remove(self)
        global _begun
        from pytest_mlctx.services import requirements

        _begun = requirements.install(self._wanted)

    def _wanted(self) -> bool:
        import mlflow

        if self._asked == _ALWAYS:
            return True
        store = mlflow.get_tracking_uri().removeprefix("sqlite:///")
        return any(store.startswith(os.path.join(folder, "")) for folder in self._asked.split(os.pathsep))  # noqa: PTH118
