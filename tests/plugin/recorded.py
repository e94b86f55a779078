"""What a store of records holds, read past MLflow."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple


class Recorded(NamedTuple):
    """One run of a store of records."""

    id: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]

    @property
    def nodeid(self) -> str:
        return self.tags["mlctx.nodeid"]

    @property
    def outcome(self) -> str:
        return self.tags["mlctx.outcome"]


def records(path: Path, kind: str = "test") -> list[Recorded]:
    """The records of tests, or with ``session`` of sessions, in the order of their node ids."""
    with closing(sqlite3.connect(path)) as store:

        def pairs(table: str, run_id: str) -> dict[str, Any]:
            return dict(store.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", (run_id,)))

        runs = [
            Recorded(
                run_id,
                name,
                status,
                pairs("tags", run_id),
                pairs("params", run_id),
                pairs("latest_metrics", run_id),
            )
            for run_id, name, status in store.execute("SELECT run_uuid, name, status FROM runs")
        ]
    found = [run for run in runs if run.tags.get("mlctx.record") == kind]
    return sorted(found, key=lambda run: run.tags.get("mlctx.nodeid", ""))
