"""Files that MLflow's defaults write to the working folder: reported once, never deleted."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_mlctx.services.state.kinds import Kind

_NAMES = ("mlruns", "mlflow.db", "mlartifacts")
_watched: dict[str, None] = {}
_expected: set[str] = set()


def watch(folder: str | os.PathLike[str]) -> Callable[[], None]:
    """Look at this folder too, besides the working folder of the moment, until the result is called."""
    path = str(Path(folder).absolute())
    _watched[path] = None
    return lambda: _watched.pop(path, None)


def expect(*paths: Path) -> Callable[[], None]:
    """Take these for no litter, since a store that was asked for lies there, until the result is called."""
    new = {str(path.absolute()) for path in paths} - _expected
    _expected.update(new)
    return lambda: _expected.difference_update(new)


class Litter(Kind):
    """A file or folder of MLflow's, in a folder that is looked at."""

    name = "files.litter"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """Each path looked at, and whether it exists."""
        folders = dict(_watched)
        with suppress(OSError):  # the working folder may have been deleted
            folders[os.getcwd()] = None  # noqa: PTH109 - a tenth of the time
        paths = [f"{folder}{os.sep}{name}" for folder in folders for name in _NAMES]
        return [(path, os.path.lexists(path)) for path in paths]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Leave it: it may hold somebody's work."""

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """The path of what is new; a folder that was not looked at before tells nothing."""
        new = before is False and after is True and key not in _expected
        return f"{key} written" if new else None


class WorkingFolder(Kind):
    """The working folder of the process, None where it has been deleted."""

    name = "files.folder"

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The one cell."""
        try:
            return (("", os.getcwd()),)  # noqa: PTH109
        except OSError:
            return (("", None),)

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Go back to it."""
        if before is not None:
            os.chdir(before)

    def tell(self, key: Any, before: Any, after: Any) -> str | None:
        """Where the process is now."""
        return "the working folder was deleted" if after is None else f"working folder changed to {after}"


KINDS: tuple[Kind, ...] = (Litter(), WorkingFolder())
