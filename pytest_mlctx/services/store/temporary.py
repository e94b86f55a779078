"""A temporary store: a copy of the template without fsync, taken back to a savepoint in a millisecond."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pytest_mlctx.services.state import mlflow_stores
from pytest_mlctx.services.store import experiments, paths, template
from pytest_mlctx.services.store.pending import Pending
from pytest_mlctx.services.store.savepoint import Savepoint, transaction

_TIMEOUT = 10.0  # seconds to wait for a transaction that a test left open

_IDENTIFIED = {
    "experiments": "experiment_id",
    "runs": "run_uuid",
    "logged_models": "model_id",
    "trace_info": "request_id",
}

_stores: weakref.WeakValueDictionary[Path, Store] = weakref.WeakValueDictionary()
_promised: dict[Path, Callable[[], Store]] = {}


class Store:
    """An empty, migrated SQLite store in a new file.

    ``uri`` tells where it is: a path that a SQLite URL can't carry (``?``, ``%``) makes it lie in a
    temporary folder, which goes when the store is closed, or with the process.
    """

    path: Path
    uri: str

    def __init__(self, path: Path, *, fallback: Path | None = None) -> None:
        """Create the file ``path``; ``fallback`` keeps the template where the user's cache can't.

        Raises:
            FileExistsError: there is something at ``path``.
            OSError: it can't be written.
        """
        path = path.absolute()
        self._remove = None
        if not paths.expressible(path):
            folder = paths.temporary_folder()
            self._remove = weakref.finalize(self, _remove, folder, os.getpid())
            path = folder / path.name.translate({ord("?"): "_", ord("%"): "_"})
        self.path, self.uri = path, paths.sqlite_uri(path)
        self.opened: weakref.WeakSet[Any] = weakref.WeakSet()
        """MLflow's tracking stores on this file."""
        self.refuse: Callable[[], None] = lambda: None
        """Called in the thread that is about to commit for MLflow: what it raises keeps that thread out."""
        self.pending: Pending = Pending()
        self._artifacts = self._first_artifacts = paths.artifacts_beside(path)
        self._lock = threading.Lock()
        self._connected: sqlite3.Connection | None = None
        self._latest: Savepoint | None = None
        self._process = os.getpid()
        self._fallback = fallback
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._write()
        _stores[path] = self
        _promised.pop(path, None)

    def _write(self) -> None:
        image = template.image(self._fallback)
        with self.path.open("xb") as file:
            file.write(image)
        connection = self._connection()
        connection.execute("PRAGMA journal_mode = WAL")
        with transaction(connection):
            experiments.date_default(connection)
            experiments.locate_default(connection, self._first_artifacts)

    @property
    def artifacts(self) -> Path:
        """The folder for the artifacts of experiments that name no place themselves."""
        return self._artifacts

    @artifacts.setter
    def artifacts(self, folder: Path) -> None:
        self._artifacts = folder
        for store in self.opened:
            store.artifact_root_uri = paths.artifact_uri(folder)

    def savepoint(self) -> Savepoint:
        """What the store holds now."""
        self.pending.flush()
        with self._lock:
            self._latest = Savepoint.take(self._connection(), self._latest)
            return self._latest

    def data_version(self) -> int:
        """A number that changes when somebody else has written to the store (SQLite's ``data_version``)."""
        with self._lock:
            version: int = self._connection().execute("PRAGMA data_version").fetchone()[0]
            return version

    def back(self, savepoint: Savepoint, *, experiment: str, artifacts: Path) -> str:
        """Go back to a savepoint of this store, in one transaction, and give the id of ``experiment``.

        An experiment that the savepoint has not is new, with an id that none has had in this process:
        whoever still writes to the one before finds nothing. URI, engines and open stores stay valid.
        New experiments keep their artifacts below ``artifacts``, and so does ``Default`` if nobody had it.

        Raises:
            sqlite3.OperationalError: somebody's transaction stayed open for 10 s.
        """
        with self._lock:
            connection = self._connection()
            with transaction(connection):
                highest = experiments.highest_id(connection)
                savepoint.put_back(connection)
                experiments.locate_default(connection, artifacts, instead_of=self._first_artifacts)
                found = experiments.get_or_create(connection, experiment, artifacts, above=highest)
            self.artifacts = artifacts
            return found

    def ids(self) -> set[str]:
        """Of the experiments, runs, models and traces that the store holds."""
        found: set[str] = set()
        with self._lock:
            connection = self._connection()
            for table, column in _IDENTIFIED.items():
                with suppress(sqlite3.OperationalError):  # of a later MLflow
                    found.update(str(row[0]) for row in connection.execute(f"SELECT {column} FROM {table}"))
        return found

    def is_locked(self, seconds: float) -> bool:
        """Whether somebody's transaction stays open on the store for so long."""
        until = time.monotonic() + seconds
        with self._lock:
            connection = self._connection()
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                while not _is_free(connection):
                    if time.monotonic() > until:
                        return True
                    time.sleep(0.01)
                return False
            finally:
                connection.execute(f"PRAGMA busy_timeout = {int(_TIMEOUT * 1000)}")

    def replace(self) -> None:
        """Put a new file in the place of the one that somebody keeps locked; it is as empty as a new store.

        Raises:
            OSError: the file cannot be replaced, as on Windows while it is open.
        """
        self.pending.drop()
        with self._lock:
            if self._connected is not None:
                _close(self._connected, self._process)
            self._connected = self._latest = None
            for by_uri in mlflow_stores.engines().values():
                if (engine := by_uri.get(self.uri)) is not None:
                    engine.dispose()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self._write()

    def experiment_id(self, name: str) -> str | None:
        """The id of the active experiment of this name, if there is one: MLflow takes milliseconds for it."""
        query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
        with self._lock:
            found = self._connection().execute(query, (name,)).fetchall()
        return str(found[0][0]) if len(found) == 1 else None

    def close(self) -> None:
        """Let go of the file, and of the folder that was made for it; further use opens it again."""
        self.pending.flush()
        with self._lock:
            if self._connected is not None:
                _close(self._connected, self._process)
            self._connected = None
        if self._remove is not None:
            self._remove()

    def _connection(self) -> sqlite3.Connection:
        """Ours alone and kept open: to read the schema again costs more than going back."""
        if self._process != os.getpid():
            # SQLite's connections don't survive a fork; closing the parent's would be wrong as well.
            self._connected, self._process = None, os.getpid()
        if self._connected is None:
            self._connected = sqlite3.connect(
                self.path, timeout=_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            weakref.finalize(self, _close, self._connected, self._process)
            self._connected.execute("PRAGMA synchronous = OFF")
        return self._connected


@contextmanager
def promised(path: Path, make: Callable[[], Store]) -> Iterator[None]:
    """Within the block the store in this file is made when MLflow asks for it, unless it is there by then."""
    _promised[path] = make
    try:
        yield
    finally:
        _promised.pop(path, None)


def store_at(path: Path) -> Store | None:
    """The store of ours in this file, if it is one; made now if it was promised."""
    make = _promised.pop(path, None)
    return _stores.get(path) if make is None else make()


def admit(path: Path) -> None:
    """Let the calling thread commit to the store of ours in this file, unless it is refused."""
    store = _stores.get(path)
    # What waited was admitted when it began to: any thread that looks may write it.
    if store is not None and not store.pending.is_written_here():
        store.refuse()


def look(path: Path) -> None:
    """Write what waits to be written to the store of ours in this file: somebody is about to look."""
    store = _stores.get(path)
    if store is not None:
        store.pending.flush()


def store_of(uri: str) -> Store | None:
    """The store of ours that has this URI, if it is one."""
    return next((store for store in [*_stores.values()] if store.uri == uri), None)


def is_temporary(uri: str) -> bool:
    """Whether this is the URI of a store of ours."""
    return store_of(uri) is not None


def _is_free(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    connection.execute("ROLLBACK")
    return True


def _close(connection: sqlite3.Connection, process: int) -> None:
    if process == os.getpid():
        connection.close()


def _remove(folder: Path, process: int) -> None:
    if process == os.getpid():  # not in a forked child that ends
        shutil.rmtree(folder, ignore_errors=True)
