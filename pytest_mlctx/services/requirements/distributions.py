"""The distributions on `sys.path`: a digest of them, and the owner of each module."""

# Asked at each model: os is several times faster than pathlib.
# ruff: noqa: PTH100, PTH116, PTH118, PTH120, PTH208
from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.machinery
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mlctx.services.requirements.child.dependencies import Trust

_TOP = re.compile(rb"^\"?([^/,\r\n\"]+)", re.MULTILINE)
_REQUIRES = re.compile(rb"^Requires-Dist: *([\w.\-]+)(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Installed:
    """The distributions along ``sys.path`` at one moment."""

    digest: str
    sites: dict[str, list[str]]
    """By folder that holds distributions, the names in it that belong to a library."""
    standard: list[str]
    """The folders of the standard library."""
    trust: Trust

    def provides(self, module: str) -> bool:
        """Whether a top-level module is the standard library's or a library's."""
        if module in sys.builtin_module_names:
            return True
        try:
            spec = importlib.machinery.PathFinder.find_spec(module)
        except (ImportError, ValueError):
            return False
        if spec is None:
            return False
        if spec.origin == "frozen":
            return True
        places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
        return bool(places) and all(
            place is not None and os.path.abspath(place) in self.trust for place in places
        )

    def resolution(self, names: frozenset[str]) -> dict[str, str]:
        """Where those of these top-level modules come from that no distribution gives, along ``sys.path``.

        A module that begins to hide another, or that comes where none was, changes it.
        """
        found: dict[str, str] = {}
        passed = 0  # folders of distributions before
        for folder in dict.fromkeys(map(os.path.abspath, sys.path)):
            owned = self.sites.get(folder, ())
            try:
                entries = os.listdir(folder) if os.path.join(folder, "") not in self.trust else ()
            except OSError:
                continue
            for stem in names.intersection(
                entry.partition(".")[0] for entry in set(entries).difference(owned)
            ):  # each folder, since a package without __init__ lies in all of them
                found[stem] = f"{found.get(stem, '')}{passed} {folder}\n"
            passed += bool(owned)
        return found


def installed() -> Installed:
    """What is installed now; read again only where a folder changed."""
    folders = tuple((folder, *_moment(folder)) for folder in dict.fromkeys(map(os.path.abspath, sys.path)))
    return _installed(folders, "mlflow" in sys.modules)


def _moment(folder: str) -> tuple[int, int, bool]:
    try:
        status = os.stat(folder)
    except OSError:
        return 0, 0, False
    return status.st_mtime_ns, status.st_size, stat.S_ISDIR(status.st_mode)


@functools.lru_cache(maxsize=8)
def _installed(path: tuple[tuple[str, int, int, bool], ...], with_mlflow: bool) -> Installed:
    digest = hashlib.sha256()
    distributions: dict[str, list[_Distribution]] = {}
    for folder, changed, size, is_folder in path:
        if is_folder:
            part, distributions[folder] = _read(folder, changed)
            digest.update(part)
        elif changed:  # a zip file or an egg
            digest.update(f"{folder}\0{changed}\0{size}\0".encode())
    everything = [one for folder in distributions.values() for one in folder]
    libraries = _libraries(everything, _flavors() if with_mlflow else [])
    sites = {
        folder: sorted({name for one in there if one.name in libraries for name in one.entries})
        for folder, there in distributions.items()
        if there
    }
    standard = standard_folders()
    return Installed(digest.hexdigest(), sites, standard, Trust(standard, sites))


@dataclass(frozen=True)
class _Distribution:
    name: str
    entries: frozenset[str]  # of its folder that belong to it
    requires: frozenset[str]
    local: bool  # installed from a path or a repository


def _libraries(distributions: list[_Distribution], flavors: list[str]) -> set[str]:
    """The names of those whose code is no user code: MLflow, the packages of its flavors, what they require.

    A project that is installed is the user's like one that is not, and so is what MLflow does not know:
    values, files and variables that it acts on count. It costs a look at more of a model, and more kinds.
    """
    known = {one.name: one for one in distributions if not one.local}
    wanted = [name for name in flavors if name in known] or list(known)
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in known and name not in found:
            found.add(name)
            wanted += known[name].requires
    return found


# MLflow itself, and what it uses without requiring it.
_BESIDE = ("mlflow", "mlflow-skinny", "psutil", "tqdm")


def _flavors() -> list[str]:
    """The packages that MLflow has flavors for (``mlflow/ml-package-versions.yml``), and MLflow itself."""
    try:
        module = importlib.import_module("mlflow.ml_package_versions")
        versions: dict[str, Any] = module._ML_PACKAGE_VERSIONS
        packages = [versions[flavor]["package_info"]["pip_release"] for flavor in versions]
    except (ImportError, AttributeError, KeyError, TypeError):
        return []
    return [*_BESIDE, *map(_normalized, packages)]


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def interpreter(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables that Python reads when it starts, as far as they can decide what is imported."""
    return sorted(
        item for item in environ.items() if item[0].startswith("PYTHON") and item[0] != "PYTHONHASHSEED"
    )


@functools.cache
def standard_folders() -> list[str]:
    """The folders of the standard library, as paths and as what links lead to."""
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)]
    return list(dict.fromkeys(path for given in paths if given for path in (given, os.path.realpath(given))))


@functools.lru_cache(maxsize=64)
def _read(folder: str, changed: int) -> tuple[bytes, list[_Distribution]]:
    digest = hashlib.sha256()
    found: list[_Distribution] = []
    for entry in sorted(os.listdir(folder)):
        path = Path(folder, entry)
        name = _normalized(entry.partition("-")[0].removesuffix(".egg"))
        if entry.endswith(".dist-info"):
            record, metadata = _content(path / "RECORD"), _content(path / "METADATA")
            digest.update(f"{entry}\0".encode() + record + metadata)
            entries = frozenset(os.fsdecode(top) for top in _TOP.findall(record)) - {".."}
            requires = {
                _normalized(required.decode())
                for required, condition in _REQUIRES.findall(metadata)
                if b"extra ==" not in condition
            }
            local = (path / "direct_url.json").exists()
            found.append(_Distribution(name, entries, frozenset(requires), local))
        elif entry.endswith((".egg-info", ".egg-link", ".pth")):
            files = sorted(path.iterdir()) if path.is_dir() else [path]  # requires.txt too
            digest.update(b"\0".join([entry.encode(), *map(_content, files)]))
            found.append(_Distribution(name, frozenset(), frozenset(), local=True))
    return digest.digest() if found else b"", found


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
