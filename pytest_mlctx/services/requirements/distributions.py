"""What is installed, by which Python would find it: a digest, and whose each module is."""

# Asked at each model: os is several times faster than pathlib.
# ruff: noqa: PTH100, PTH116, PTH118, PTH120, PTH208
from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_mlctx.services.requirements.dependencies import Trust

_TOP = re.compile(rb"^\"?([^/,\r\n\"]+)", re.MULTILINE)
_EDITABLE = re.compile(rb'"editable"\s*:\s*true')


@dataclass(frozen=True)
class Installed:
    """The distributions along ``sys.path`` at one moment."""

    digest: str
    sites: dict[str, list[str]]
    """By folder that holds distributions, the names in it that belong to one that is not editable."""
    standard: list[str]
    """The folders of the standard library."""
    trust: Trust

    def provides(self, module: str) -> bool:
        """Whether a top-level module is the standard library's or a distribution's that is not editable."""
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
            ).difference(found):
                found[stem] = f"{passed} {folder}"
            passed += bool(owned)
        return found


def installed() -> Installed:
    """What is installed now; read again only where a folder changed."""
    return _installed(
        tuple((folder, *_moment(folder)) for folder in dict.fromkeys(map(os.path.abspath, sys.path)))
    )


def _moment(folder: str) -> tuple[int, int, bool]:
    try:
        status = os.stat(folder)
    except OSError:
        return 0, 0, False
    return status.st_mtime_ns, status.st_size, stat.S_ISDIR(status.st_mode)


@functools.lru_cache(maxsize=8)
def _installed(path: tuple[tuple[str, int, int, bool], ...]) -> Installed:
    digest = hashlib.sha256()
    sites: dict[str, list[str]] = {}
    for folder, changed, size, is_folder in path:
        if is_folder:
            part, names = _read(folder, changed)
            digest.update(part)
            if names:
                sites[folder] = sorted(names)
        elif changed:  # a zip file or an egg
            digest.update(f"{folder}\0{changed}\0{size}\0".encode())
    standard = standard_folders()
    return Installed(digest.hexdigest(), sites, standard, Trust(standard, sites))


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
def _read(folder: str, changed: int) -> tuple[bytes, frozenset[str]]:
    digest = hashlib.sha256()
    names: set[str] = set()
    found = False
    for entry in sorted(os.listdir(folder)):
        path = Path(folder, entry)
        if entry.endswith(".dist-info"):
            record = _content(path / "RECORD")
            digest.update(f"{entry}\0".encode() + record + _content(path / "METADATA") * (not record))
            if not _EDITABLE.search(_content(path / "direct_url.json")):
                names.update(os.fsdecode(name) for name in _TOP.findall(record))
        elif entry.endswith((".egg-info", ".egg-link", ".pth")):
            files = [path / "PKG-INFO", path / "top_level.txt"] if path.is_dir() else [path]
            digest.update(b"\0".join([entry.encode(), *map(_content, files)]))
        else:
            continue
        found = True
    return digest.digest() if found else b"", frozenset(names - {".."})


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
