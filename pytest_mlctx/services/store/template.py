"""The migrated store that others are copied from: built once for an MLflow on this machine, then read."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import logging
import logging.config
import shutil
import sqlite3
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mlctx.services import cache, mlflow_internals
from pytest_mlctx.services.store import engines, paths

if TYPE_CHECKING:
    from collections.abc import Iterator


def image(fallback: Path | None = None) -> bytes:
    """The bytes of an empty, migrated store of the installed MLflow: a SQLite database file.

    From the cache where it lies there and is whole, else built (0.3 to 1 s) and kept there. Where the
    user's cache can't keep it, the folder ``fallback`` does.
    """
    name = _name()
    caches = [cache.user()]
    if fallback is not None and not caches[0].writable:
        caches.append(cache.at(fallback))
    for candidate in caches:
        if found := candidate.read(name):
            return found
    with caches[-1].lock(name):
        # Another process may have built it while this one waited.
        found = caches[-1].read(name)
        if not found:
            found = _build()
            caches[-1].publish(name, found)
    return found


def _name() -> str:
    """Names the template by all that decides its content, without importing any of it."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
    package = Path(spec.submodule_search_locations[0])
    migrations = (package / "store" / "db_migrations" / "versions").glob("*.py")
    facts = [
        (package / "version.py").read_text(encoding="utf-8"),
        *sorted(f"{file.name} {file.stat().st_size}" for file in migrations),
        *(f"{name} {importlib.metadata.version(name)}" for name in ("sqlalchemy", "alembic")),
        f"sqlite {sqlite3.sqlite_version}",
    ]
    return f"store-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:20]}.db"


def _build() -> bytes:
    """Let MLflow make a store as it always does, without the waits for the disk."""
    folder = paths.temporary_folder()
    try:
        path = folder / "template.db"
        with _undisturbed(), engines.settings("synchronous = OFF", "journal_mode = MEMORY"):
            engines.migrate(paths.sqlite_uri(path), str(folder / paths.ARTIFACTS))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("VACUUM")
        return path.read_bytes()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the process as it is during the migrations.

    Those of MLflow 2 call ``logging.config.fileConfig``, which closes the handlers of the root logger and
    puts its own in their place; alembic, MLflow and its migrations log every step; some steps warn.
    """
    thread = threading.get_ident()

    def only_warnings(hand_on: Any) -> Any:
        def hand_on_warnings(logger: logging.Logger, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING or threading.get_ident() != thread:
                hand_on(logger, record)

        return hand_on_warnings

    with (
        warnings.catch_warnings(),
        mlflow_internals.around(logging.config, "fileConfig", lambda _file: lambda *_args, **_kwargs: None),
        mlflow_internals.around(logging.Logger, "callHandlers", only_warnings),
    ):
        warnings.simplefilter("ignore")
        yield
