"""Experiments as rows: the one that a store begins with, and new ones under ids that never repeat."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pytest_mlctx.services.store import paths

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

_lock = threading.Lock()
_last_id = 0


def next_id(above: int) -> int:
    """An id that no experiment of any store of ours has had in this process, greater than ``above``."""
    global _last_id
    with _lock:
        _last_id = max(_last_id, above) + 1
        return _last_id


def highest_id(connection: sqlite3.Connection) -> int:
    """The greatest id in the store; 0 where there is only the experiment ``Default``."""
    highest: int = connection.execute("SELECT coalesce(max(experiment_id), 0) FROM experiments").fetchone()[0]
    return highest


def locate_default(connection: sqlite3.Connection, artifacts: Path, instead_of: Path | None = None) -> None:
    """Let new runs of the experiment ``Default`` keep their artifacts below ``artifacts``.

    Args:
        connection: to the store.
        artifacts: the folder.
        instead_of: the folder that they are kept below now; kept elsewhere, they stay there.
    """
    location = f"{paths.artifact_uri(artifacts)}/0"
    connection.execute(
        "UPDATE experiments SET artifact_location = :location WHERE experiment_id = 0"
        " AND (:before IS NULL OR artifact_location = :before)",
        {"location": location, "before": instead_of and f"{paths.artifact_uri(instead_of)}/0"},
    )


def date_default(connection: sqlite3.Connection) -> None:
    """Date the experiment ``Default`` now: that of a copy is the template's."""
    now = _milliseconds()
    connection.execute("UPDATE experiments SET creation_time = ?, last_update_time = ?", (now, now))


def get_or_create(connection: sqlite3.Connection, name: str, artifacts: Path, above: int) -> str:
    """The id of the experiment ``name``; where there is none, of a new one with an id ``above`` that."""
    found = connection.execute("SELECT experiment_id FROM experiments WHERE name = ?", (name,)).fetchone()
    if found is not None:
        return str(found[0])
    number, now = next_id(above), _milliseconds()
    connection.execute(
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time,"
        " last_update_time) VALUES (?, ?, ?, 'active', ?, ?)",
        (number, name, f"{paths.artifact_uri(artifacts)}/{number}", now, now),
    )
    return str(number)


def _milliseconds() -> int:
    return int(time.time() * 1000)
