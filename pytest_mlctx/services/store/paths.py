"""Paths of SQLite stores and their artifacts, to and from the URIs that SQLAlchemy and MLflow read."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

ARTIFACTS = "mlartifacts"
_SCHEME = "sqlite:///"
_PREFIX = "pytest-mlctx-"
_ABANDONED = 3 * 24 * 3600.0  # seconds, as pytest takes the lock on a temporary folder for dead


def expressible(path: Path) -> bool:
    """Whether a SQLite URL can carry the path: SQLAlchemy ends it at ``?``, and 2.1 decodes ``%41``."""
    return not {"?", "%"} & set(str(path))


def sqlite_uri(path: Path) -> str:
    """The URI of the database file ``path``, which must be absolute and expressible."""
    return f"{_SCHEME}{path.as_posix()}"


def database(uri: str) -> Path | None:
    """The absolute path of the file that a SQLite URI names; ``None`` for a database in memory."""
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    name = url.database
    if not name or name == ":memory:" or "uri" in url.query:
        return None
    return Path(name).absolute()


def artifacts_beside(path: Path) -> Path:
    """The folder for the artifacts of the store in the database file ``path``."""
    return path.parent / ARTIFACTS


def artifact_uri(folder: Path) -> str:
    """``folder`` as MLflow takes it for an artifact location.

    A plain path, as MLflow itself writes; a ``file:`` URI on Windows, as it does there, and where it would
    read a plain one wrong (its ``LocalArtifactRepository`` decodes ``%41``).
    """
    return folder.as_uri() if os.name == "nt" or {"%", "?", "#"} & set(str(folder)) else str(folder)


def temporary_folder() -> Path:
    """A new folder of ours whose path a SQLite URL can carry; the caller removes it.

    Raises:
        OSError: there is no place for one.
    """
    candidates = _candidates()
    error = OSError(f"no temporary folder without '?' and '%' in its path (tried {', '.join(candidates)})")
    for place in candidates:
        if expressible(Path(place).absolute()):
            try:
                return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place)).absolute()
            except OSError as reason:
                error = reason
    raise error


def sweep() -> None:
    """Remove the temporary folders that killed processes have left."""
    for place in dict.fromkeys(_candidates()):
        for folder in Path(place).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if _abandoned(folder):
                    shutil.rmtree(folder)


def _abandoned(folder: Path) -> bool:
    """Whether it is this user's, nothing in it has changed for long, and no link in it leads anywhere."""
    status = folder.lstat()
    ours = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if not ours or not stat.S_ISDIR(status.st_mode):
        return False
    latest = time.time() - _ABANDONED
    return all(
        path.lstat().st_mtime < latest and not (path.is_symlink() and path.exists())
        for path in (folder, *folder.rglob("*"))
    )


def _candidates() -> list[str]:
    return [tempfile.gettempdir(), "/tmp", "/var/tmp"]
