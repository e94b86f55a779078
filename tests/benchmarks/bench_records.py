"""Records and gates: whole sessions beside a bare run for each test, and a gate on a long history."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

TRIVIAL = """
import pytest

@pytest.mark.parametrize("number", range(300))
def test_trivial(number):
    pass
"""
BARE = """
import mlflow, pytest

@pytest.fixture(scope="session", autouse=True)
def store():
    mlflow.set_tracking_uri("sqlite:///bare.db")

@pytest.mark.parametrize("number", range(300))
def test_trivial(number):
    with mlflow.start_run():
        pass
"""


def session(folder: Path, source: str, *args: str) -> float:
    """Seconds that a whole session takes."""
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mlctx", "-p", "no:cacheprovider", *args]
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - began


@pytest.mark.parametrize("way", ["a bare start_run in each", "ours"])
@pytest.mark.parametrize("turn", range(3))
def bench_300_recorded_tests(measure: Any, tmp_path: Path, turn: int, way: str) -> None:
    source, args = (TRIVIAL, ["--mlctx-record=sqlite:///tests.db"]) if way == "ours" else (BARE, [])
    measure("300 trivial tests, a run for each, whole process", way, lambda: session(tmp_path, source, *args))


@pytest.mark.parametrize("way", ["all of them read", "ours"])
def bench_a_gate_on_10_000_records(measure: Any, tmp_path: Path, way: str) -> None:
    from pytest_mlctx.services import history
    from pytest_mlctx.services.records import Record, Records

    records = Records(f"sqlite:///{tmp_path}/tests.db", "bench")
    now = time.time()
    tags = {"mlctx.outcome": "passed", "mlctx.file": "f", "mlflow.source.git.commit": "c"}
    first = Record("t", "test", "s", now, now, "FINISHED", tags, {}, {"accuracy": 0.9})
    multiply(tmp_path / "tests.db", records.write(first), sessions=20, tests=500)

    def gate() -> None:
        assert len(records.history.of(history.name_of("test-7"), "now", None, 5)) == 5

    def every() -> None:
        import mlflow

        client, token, found = mlflow.MlflowClient(records.uri), None, 0
        while token != "":
            page = client.search_runs([records.experiment_id], max_results=1000, page_token=token)
            found, token = found + len(page), page.token or ""
        assert found > 10_000

    measure("a gate on a history of 10,000 records", way, gate if way == "ours" else every, rounds=5)


def multiply(path: Path, run_id: str, sessions: int, tests: int) -> None:
    """Copy one record for so many tests in so many sessions, as rows."""
    from pytest_mlctx.services import history

    with closing(sqlite3.connect(path)) as store, store:
        for table in ("runs", "tags", "metrics", "latest_metrics"):
            store.execute(
                f"CREATE TEMP TABLE one_{table} AS SELECT * FROM {table} WHERE run_uuid = ?", (run_id,)
            )
        for session_number in range(sessions):
            for test in range(tests):
                copy = uuid.uuid4().hex
                for table in ("runs", "tags", "metrics", "latest_metrics"):
                    store.execute(f"UPDATE one_{table} SET run_uuid = ?", (copy,))
                store.execute("UPDATE one_runs SET start_time = start_time + 1")
                for key, value in (
                    ("mlctx.history", history.name_of(f"test-{test}")),
                    ("mlctx.session", f"session-{session_number}"),
                ):
                    store.execute("UPDATE one_tags SET value = ? WHERE key = ?", (value, key))
                for table in ("runs", "tags", "metrics", "latest_metrics"):
                    store.execute(f"INSERT INTO {table} SELECT * FROM one_{table}")
