"""The builders of SQL stores that MLflow's registries use while a service of ours runs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_mlctx.services import mlflow_internals, registries
from pytest_mlctx.services.store import engines, initialization, paths, temporary

_named: set[Path] = set()
_FIRST_OPEN = 0x6D6C637478  # of PostgreSQL's advisory locks: "mlctx"


def install_builders(*named: str) -> None:
    """Build the SQL stores of MLflow's tracking and model registries from now on.

    SQLite: artifacts of new experiments lie in ``mlartifacts/`` beside the database file, or where MLflow has
    them if code that works in that folder opens it and it is not one of those ``named``; a missing or empty
    file is filled from the template, and every connection waits 60 s for a lock. A store of ours also forgoes
    fsync and the check of its schema. PostgreSQL: of processes that find an empty database one makes MLflow's
    tables. Undone by giving the registries their builders back.
    """
    _named.update(path for uri in named if uri.startswith("sqlite") and (path := paths.database(uri)))
    for registry in registries.both():
        for scheme, building in (("sqlite", _building_sqlite), ("postgresql", _building_postgresql)):
            build = registry._registry.get(scheme)
            if build is None or hasattr(build, "mlctx_builds"):
                continue
            registry.register(scheme, building(build))
            registries.forget()  # a store that was opened before would write its artifacts to ./mlruns still


def hear_of_readers() -> bool:
    """Whether stores of ours are told when MLflow is about to read them."""
    return bool(registries.both()) and mlflow_internals.known("create_sqlalchemy_engine")


def _building_sqlite(build: Callable[..., Any]) -> Callable[..., Any]:
    # MLflow asks the builder's signature what to pass, and its module whether the scheme is its own.
    @functools.wraps(build)
    def builder(store_uri: str, **arguments: Any) -> Any:
        path = paths.database(store_uri)
        own = None if path is None else temporary.store_at(path)
        if path is not None:
            root = own.artifacts if own else _artifacts(path)
            if own is None:
                initialization.fill(path, root)
            if arguments.get("artifact_uri", "not asked for") is None:
                arguments["artifact_uri"] = paths.artifact_uri(root)
        if own is None:
            settings = engines.settings()
        else:
            admit, look = (functools.partial(each, own.path) for each in (temporary.admit, temporary.look))
            settings = engines.settings("synchronous = OFF", admit=admit, look=look)
        with settings:
            engines.forget_foreign_engine(store_uri)
            store = build(store_uri=store_uri, **arguments)
        if own is not None and getattr(store, "artifact_root_uri", None) == paths.artifact_uri(own.artifacts):
            own.opened.add(store)
        return store

    builder.mlctx_builds = True  # type: ignore[attr-defined]
    return builder


def _artifacts(path: Path) -> Path:
    """Where those of new experiments lie: beside the file; where code works beside it MLflow says how."""
    if path.parent != Path.cwd() or path in _named:
        return paths.artifacts_beside(path)
    return path.parent / "mlruns"


def _building_postgresql(build: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def builder(store_uri: str, **arguments: Any) -> Any:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(Exception):  # what is wrong with the database MLflow tells
                stack.enter_context(_alone(store_uri))
            return build(store_uri=store_uri, **arguments)

    builder.mlctx_builds = True  # type: ignore[attr-defined]
    return builder


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Hold a lock of the database's, for which others wait 60 s."""
    import sqlalchemy

    connection = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool).connect()
    try:
        connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = '60s'"))
        # Of the transaction, not of the session: behind a pooler that would outlive us.
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_FIRST_OPEN})"))
        yield
    finally:
        with contextlib.suppress(Exception):  # the database may have ended it: it was idle
            connection.close()
