"""What inferred requirements depend on: the present value of each dependency, and files that never count.

It imports nothing of ours: the inferring process loads it before MLflow, the asking one checks with it later.
"""

# Nothing is imported here before MLflow that need not be.
# ruff: noqa: PTH118, PTH123
from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Mapping

# Differ from session to session; libraries use no more of these than this, nor does who copies all variables.
LOOSE = {
    "MLFLOW_TRACKING_URI": "scheme",
    "MLFLOW_REGISTRY_URI": "scheme",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "scheme",
    "MLFLOW_EXPERIMENT_ID": "set",
    "MLFLOW_EXPERIMENT_NAME": "set",
    "MLFLOW_RUN_ID": "set",
    "_MLFLOW_TELEMETRY_SESSION_ID": "set",
    "PYTEST_CURRENT_TEST": "set",
    "PYTEST_XDIST_TESTRUNUID": "set",
    "PYTEST_XDIST_WORKER": "set",
}
# How large the terminal is; libraries (not user code) import nothing by it.
DISPLAY = frozenset({"COLUMNS", "LINES"})
# The observer puts its own in their place.
_stat, _listdir, _getcwd, _readlink = os.stat, os.listdir, os.getcwd, os.readlink


def value_of(kind: str, name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The present value of one dependency, in short; a hash where it could hold a secret.

    Args:
        kind: ``content``, ``exists``, ``status`` (with its time) of a file, where a ``link`` leads,
            ``listing`` of a folder, the working ``folder``, ``environ``, ``scheme`` or ``set`` of a
            variable of the environment, or all whose names begin with a ``prefix``.
        name: the path, the variable or the prefix.
        environ: the environment to look into.
    """
    if kind == "folder":
        return _getcwd()
    if kind == "prefix":
        lasting = {
            key: value_of(LOOSE.get(key, "environ"), key, environ)
            for key in list(environ)
            if key.upper().startswith(name) and not (name and key in LOOSE)
        }
        return _digest(repr(sorted(lasting.items())).encode())
    if kind in ("environ", "scheme", "set"):
        value = environ.get(name)
        if value is None or kind == "set":
            return "absent" if value is None else "set"
        return _digest(os.fsencode(value)) if kind == "environ" else value.partition(":")[0][:12]
    try:
        if kind == "listing":
            return _digest(os.fsencode("\0".join(sorted(_listdir(name)))))
        if kind == "link":
            return _digest(os.fsencode(_readlink(name)))
        status = _stat(name)
        if not stat.S_ISREG(status.st_mode):
            return "folder" if stat.S_ISDIR(status.st_mode) else "special"
        if kind == "exists":
            return f"file of {status.st_size} bytes, {status.st_mode:o}"
        if kind == "status":
            return f"file of {status.st_size} bytes, {status.st_mode:o}, {status.st_mtime_ns}"
        with open(name, "rb") as file:
            return _digest(file.read())
    except OSError:
        return "absent"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


class Trust:
    """Whose files need no look: the standard library's and those of installed distributions."""

    def __init__(self, standard: list[str], sites: dict[str, list[str]]) -> None:
        """Take the standard library's folders and, by site folder, the names in it of distributions."""
        self._standard = tuple(os.path.join(folder, "") for folder in standard)
        self._sites = {os.path.join(site, ""): frozenset(names) for site, names in sites.items()}
        self._modules = {name.partition(".")[0] for names in sites.values() for name in names}

    def is_standard(self, path: str) -> bool:
        """Whether this file is the standard library's, which lies around the site folder in many a Python."""
        return path.startswith(self._standard) and not path.startswith(tuple(self._sites))

    def __contains__(self, path: str) -> bool:
        for site, names in self._sites.items():
            if path.startswith(site):
                return path[len(site) :].split(os.sep, 1)[0] in names
        return path.startswith(self._standard)

    def provides(self, module: str) -> bool:
        """Whether a module of this name is the standard library's or a distribution's."""
        top = module.partition(".")[0]
        return top in self._modules or top in sys.stdlib_module_names
