"""Files kept between sessions: a folder of the user's, written whole and verified before use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER_VARIABLE = "MLCTX_CACHE_DIR"
LOCK_TIMEOUT = 60.0  # seconds; whoever waited longer does the work without the lock
_DIGEST_SIZE = hashlib.sha256().digest_size
_UNFINISHED = ".unfinished-"
_UNFINISHED_AGE = 3600.0  # seconds after which a killed writer's temporary file is litter
_POSIX = os.name == "posix"


@dataclass(frozen=True)
class Cache:
    """A folder of files that outlive the process, or, with ``path=None``, the lack of one.

    Without a folder every read finds nothing and every publication is dropped, so callers need no branch.
    """

    path: Path | None
    refusal: str | None = None
    """Why the folder is not used, in one sentence for the user."""

    @property
    def writable(self) -> bool:
        """Whether a file can be published here."""
        return self.path is not None and os.access(self.path, os.W_OK | os.X_OK)

    def read(self, name: str) -> bytes | None:
        """The bytes last published under this very name; ``None`` where there are none to be trusted.

        Trusted is a regular file, no link, that nobody but us or root can write, whole, and of this name.
        """
        if self.path is None:
            return None
        file = self.path / name
        try:
            if file.is_symlink():
                return None
            # Without O_NONBLOCK, opening a FIFO that somebody put here would wait for ever.
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
            flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            with open(os.open(file, flags), "rb") as stream:  # noqa: PTH123
                status = os.fstat(stream.fileno())
                if not stat.S_ISREG(status.st_mode) or _others_write(status):
                    return None
                digest, data = stream.read(_DIGEST_SIZE), stream.read()
        except (OSError, ValueError):
            return None
        return data if digest == _digest(name, data) else None

    def publish(self, name: str, data: bytes) -> bool:
        """Put ``data`` under ``name``, whole or not at all; whether it worked (no space, read-only: no)."""
        if self.path is None:
            return False
        unfinished: str | None = None
        try:
            self._sweep()
            handle, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=self.path)
            with open(handle, "wb") as stream:  # noqa: PTH123
                stream.write(_digest(name, data))
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, self.path / name)  # noqa: PTH105
        except OSError:
            if unfinished is not None:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished)  # noqa: PTH108
            return False
        return True

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float = LOCK_TIMEOUT) -> Iterator[bool]:
        """Hold the lock ``name`` among all processes; yields whether it is held.

        It saves doing work twice and guards nothing: where it can't be had within ``timeout`` seconds, or
        the file system knows no locks, the work is done without it.
        """
        if not self.writable:
            yield False
            return
        from filelock import FileLock

        assert self.path is not None
        lock = FileLock(self.path / f"{name}.lock", timeout=timeout)
        try:
            lock.acquire()
        except (OSError, NotImplementedError):  # filelock.Timeout is an OSError
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def folder(self, name: str) -> Cache:
        """The folder ``name`` in this one, made where it is missing, under the same conditions."""
        return self if self.path is None else at(self.path / name)

    def _sweep(self) -> None:
        assert self.path is not None
        for file in self.path.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _UNFINISHED_AGE:
                    file.unlink()


def user() -> Cache:
    """The user's own cache: ``MLCTX_CACHE_DIR``, else the platform's cache folder for this user."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return at(Path(os.path.expanduser(named)).absolute())  # noqa: PTH111  # as it is, without such a user
    from platformdirs import user_cache_path

    try:
        path = user_cache_path("pytest-mlctx", appauthor=False)
    except RuntimeError:  # no HOME, and no entry in the password database
        path = Path()
    if not path.is_absolute():  # the same, in an older platformdirs
        return Cache(None, f"no cache is kept: this user has no home folder; set {FOLDER_VARIABLE}")
    return at(path)


def at(path: Path) -> Cache:
    """The cache in the folder ``path``, made where it is missing; none where others could write there.

    POSIX asks owner and mode bits; on Windows a user's folders are the user's own.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        return Cache(None, _refusal(path, f"cannot be made ({error.strerror or error})"))
    if _others_write(status):
        return Cache(None, _refusal(path, "can be written by other users"))
    return Cache(path)


def _refusal(path: Path, reason: str) -> str:
    return f"no cache is kept: the folder {path} {reason}; set {FOLDER_VARIABLE} to a folder of your own"


def _others_write(status: os.stat_result) -> bool:
    if not _POSIX:
        return False
    foreign = status.st_uid not in (os.geteuid(), 0)
    return foreign or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _digest(name: str, data: bytes) -> bytes:
    """Binds the content to its name, so that a file renamed from another is none."""
    return hashlib.sha256(name.encode() + b"\0" + data).digest()
