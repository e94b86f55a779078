"""Files restored to what they were: changes are found by size and time, originals are copied once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

_Look = tuple[int, int, int, int]
"""Size, times of change of content and entry in nanoseconds, inode: another look means another content."""


@dataclass
class _File:
    copy: Path
    look: _Look


@dataclass
class Version:
    """What lay in a folder at one moment. Versions share what did not change between them."""

    folder: Path
    files: dict[str, _File] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()


def look(folder: Path) -> dict[str, _Look]:
    """How each file in the folder looks, by its path in it; folders end in a slash and look like nothing."""
    return dict(_walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, _Look]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield f"{name}/", (0, 0, 0, 0)
            yield from _walk(Path(entry.path), f"{name}/")
        else:
            status = entry.stat(follow_symlinks=False)
            yield name, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def keep(earlier: Version, before: dict[str, _Look], copies: Path) -> Version:
    """The version with what has changed in its folder since ``before``; that is copied below ``copies``."""
    now = look(earlier.folder)
    files = {name: file for name, file in earlier.files.items() if name in now}
    for name, seen in now.items():
        if not name.endswith("/") and before.get(name) != seen:
            copy = copies / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(earlier.folder / name, copy, follow_symlinks=False)
            files[name] = _File(copy, seen)
    added = {name for name in now if name.endswith("/") and name not in before}
    folders = (earlier.folders & now.keys()) | added
    around = {f"{parent.as_posix()}/" for name in (*files, *folders) for parent in PurePath(name).parents}
    return Version(earlier.folder, files, folders | (around - {"./"}))


def put_back(version: Version, aside: Path) -> None:
    """Make the folder hold what it held; what is new or changed goes to the same place below ``aside``."""
    now = look(version.folder)
    for name, seen in now.items():
        kept = version.files.get(name)
        if not name.endswith("/") and (kept is None or kept.look != seen):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(version.folder / name, aside / name)
    for name, file in version.files.items():
        if now.get(name) != file.look:
            path = version.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file.copy, path, follow_symlinks=False)
            file.look = look(path.parent)[path.name]
    for name in sorted((name for name in now if name.endswith("/")), reverse=True):  # the innermost first
        if name not in version.folders:
            (version.folder / name).rmdir()
    for name in version.folders - now.keys():
        (version.folder / name).mkdir(parents=True, exist_ok=True)
