"""The template's tables in place of migrations, for SQLite files that code of the suite makes itself."""

from __future__ import annotations

import functools
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_mlctx.services import import_hooks, mlflow_internals
from pytest_mlctx.services.store import engines, initialization

_UTILS = "mlflow.store.db.utils"
_NAME, _HEAD = "_initialize_tables", "_get_latest_schema_revision"
# Of the modules that call it, the one that has a copy of the name (MLflow 3).
_COPY = "mlflow.store.model_registry.sqlalchemy_store"


@contextmanager
def from_template() -> Iterator[None]:
    """Within the block an empty SQLite file becomes a store by the template, whatever of MLflow opens it."""
    replaced: list[tuple[ModuleType, str, Any, Any]] = []

    def replace() -> None:
        utils = sys.modules[_UTILS]
        if not (mlflow_internals.known(_NAME) and mlflow_internals.known(_HEAD)):
            return
        original, head = getattr(utils, _NAME), getattr(utils, _HEAD)
        ours = _initializing(original)
        # MLflow reads all of its migration scripts to know the last one, for each store that it opens.
        replaced.append((utils, _HEAD, head, functools.cache(head)))
        callers = (utils, sys.modules.get(_COPY))
        replaced.extend((each, _NAME, original, ours) for each in callers if each and hasattr(each, _NAME))
        for module, name, _, own in replaced:
            setattr(module, name, own)

    with import_hooks.once_imported(_UTILS, replace):
        try:
            yield
        finally:
            copy = sys.modules.get(_COPY)
            for module, name, original, own in replaced:
                for owner in filter(None, (module, copy)):  # which may have been imported since
                    if getattr(owner, name, None) is own:
                        setattr(owner, name, original)


def _initializing(original: Callable[[Any], None]) -> Callable[[Any], None]:
    building = False

    @functools.wraps(original)
    def initialize(engine: Any) -> None:
        nonlocal building
        path = None if building else _file(engine)
        if path is not None:
            building = True  # the template itself is made by MLflow's migrations
            try:
                if initialization.put_tables(path) or engines.is_current(engine):
                    return
            except (OSError, sqlite3.Error):
                pass  # MLflow says what is wrong with the file
            finally:
                building = False
        original(engine)

    return initialize


def _file(engine: Any) -> Path | None:
    """The file of an engine's database; None for another database, or one in memory."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name)
