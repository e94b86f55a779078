"""Tables for a missing or empty SQLite file of the user's, whichever process is first."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from pytest_mlctx.services.store import experiments, paths, template
from pytest_mlctx.services.store.savepoint import Savepoint, transaction

_TIMEOUT = 60.0  # seconds to wait for another process that fills the same file


def fill(path: Path, artifacts: Path | None = None) -> None:
    """Make a missing or empty SQLite file an empty MLflow store, in one transaction; leave any other alone.

    Its artifacts lie beside it where no folder is given. Right for several processes at once, and after one
    was killed: SQLite's own locks and journal see to it. Journal mode and fsync stay as the file has them.

    Raises:
        OSError: the folder can't be made.
        sqlite3.Error: the file can't be opened, is no database, or stays locked for 60 s.
    """
    if path.exists() and path.stat().st_size:
        with _connected(path) as connection:
            if not _empty(connection):
                return
    content = _content()  # before the file is made: there may be no MLflow that can
    path.parent.mkdir(parents=True, exist_ok=True)

    def place_default(connection: sqlite3.Connection) -> None:
        experiments.date_default(connection)
        experiments.locate_default(connection, artifacts or paths.artifacts_beside(path))

    _put(content, path, place_default)


def put_tables(path: Path) -> bool:
    """Put MLflow's tables into an empty SQLite file, in one transaction; whether it was empty.

    What MLflow's migrations would have made, to which MLflow then adds its default experiment.

    Raises:
        OSError: the template can't be made.
        sqlite3.Error: the file can't be written, or stays locked for 60 s.
    """
    return _put(_kept_content(), path, lambda connection: connection.execute("DELETE FROM experiments"))


def _put(content: Savepoint, path: Path, then: Callable[[sqlite3.Connection], object]) -> bool:
    with _connected(path) as connection, transaction(connection):
        empty = _empty(connection)
        if empty:
            content.put_back(connection)
            then(connection)
    return empty


def _connected(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, timeout=_TIMEOUT, isolation_level=None))


def _empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _content() -> Savepoint:
    folder = paths.temporary_folder()
    try:
        path = folder / "template.db"
        path.write_bytes(template.image())
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return Savepoint.take(connection)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_kept_content = functools.cache(_content)
"""The same, for many files."""
