"""The answers of `uv export`: one call for a project, while all that it reads is the same."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_FILES = ("uv.lock", "pyproject.toml", "uv.toml")  # of the project and of folders above
_NOT_READ = ("MLFLOW_", "_MLFLOW_", "PYTEST_")  # variables that change from test to test
_ROOMS = {"UV_CACHE_DIR", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON_INSTALL_DIR", "UV_TOOL_BIN_DIR", "UV_TOOL_DIR"}
_SOURCE = re.compile(rb'source = \{ (?:directory|editable|path|virtual) = "(?!\.")')  # not the project itself


class Exports:
    """MLflow's function; what it gave is given again in this process, unless it failed."""

    def __init__(self, export: Callable[..., list[str] | None]) -> None:
        self._export = export
        self._known: dict[str, list[str]] = {}

    def __call__(self, directory: Any = None, *arguments: Any, **options: Any) -> list[str] | None:
        """The requirements of the project in ``directory``."""
        folder = Path(os.path.realpath(directory or "."))
        read = _read(folder)
        key = f"{_digest(read)} {arguments!r} {options!r}"
        if key not in self._known:
            answer = self._export(directory, *arguments, **options)
            if not answer or _leads_elsewhere(folder, read) or _read(folder) != read:
                return answer
            self._known[key] = answer
        return list(self._known[key])


def _read(folder: Path) -> dict[str, bytes]:
    """By name, what uv reads for the project in ``folder``, variables too, and which uv that is."""
    read = {name: os.fsencode(value) for name, value in os.environ.items() if not name.startswith(_NOT_READ)}
    of_user = [os.environ.get(name) for name in ("XDG_CONFIG_HOME", "APPDATA", "PROGRAMDATA")]
    of_user.append(os.path.expanduser("~/.config"))  # noqa: PTH111  # no error without a home
    of_all = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)
    rooms = [Path(room, "uv") for room in (*of_user, *of_all, "/etc") if room]
    with contextlib.suppress(OSError):
        binary = Path(shutil.which("uv") or "").resolve()
        read[str(binary)] = b"%d %d" % (binary.stat().st_size, binary.stat().st_mtime_ns)
    for file in [room / name for room in (folder, *folder.parents, *rooms) for name in _FILES]:
        with contextlib.suppress(OSError):
            read[str(file)] = file.read_bytes()
    return read


def _leads_elsewhere(folder: Path, read: Mapping[str, bytes]) -> bool:
    """Whether uv may read more: another project, or what a variable names."""
    named = [value for name, value in read.items() if name.startswith("UV_") and name not in _ROOMS]
    return (
        any((folder / os.fsdecode(value)).exists() for value in named)
        or any(b"workspace" in content for name, content in read.items() if name.endswith(".toml"))
        or _SOURCE.search(read.get(str(folder / "uv.lock"), b"")) is not None
    )


def _digest(read: Mapping[str, bytes]) -> str:
    return hashlib.sha256(repr(sorted(read.items())).encode()).hexdigest()
