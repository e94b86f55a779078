"""Many tests, workers and processes at one store: each test's record and runs are there, once, and closed."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from processes import Suite
from servers import mlflow_server, store_uri
from sharing import PROCESSES, RECORDS, RUNS, Logged, meet

pytestmark = pytest.mark.slow


def holds(path: Path, logged: Logged) -> None:
    """The store has all that was logged, once and closed, and the experiments once."""
    with closing(sqlite3.connect(path)) as store:
        assert sorted(store.execute(RECORDS)) == [(nodeid, "FINISHED") for nodeid in logged.records]
        assert sorted(store.execute(RUNS)) == [(*run, "FINISHED") for run in logged.runs]
        sessions = "SELECT count(*) FROM tags WHERE key = 'mlctx.record' AND value = 'session'"
        assert store.execute(sessions).fetchone() == (PROCESSES,)
        assert store.execute("SELECT count(*) FROM runs WHERE status <> 'FINISHED'").fetchone() == (0,)
        assert store.execute("SELECT name FROM experiments ORDER BY 1").fetchall() == [
            ("Default",),
            ("shared",),
        ]
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_eight_workers_record_two_thousand_tests(suite: Suite) -> None:
    result = suite(
        """
        import pytest

        @pytest.mark.parametrize("number", range(2000))
        def test(number): pass
        """,
        *("-p", "xdist", "-n", "8", "--mlctx-record=sqlite:///tests.db"),
        timeout=900,
    )
    assert "2000 passed" in result.stdout, result.stdout
    assert "mlctx: 2000 records, 0 failed" in result.stdout, result.stdout
    assert "locked" not in result.stdout
    with closing(sqlite3.connect(suite.folder / "tests.db")) as store:
        found = sorted(store.execute(RECORDS))
        assert found == sorted((f"test_it.py::test[{number}]", "FINISHED") for number in range(2000))
        assert store.execute("SELECT count(*) FROM runs").fetchone() == (2001,)  # and the session's
        assert store.execute("SELECT count(*) FROM runs WHERE status <> 'FINISHED'").fetchone() == (0,)
        workers = "SELECT count(DISTINCT value) FROM tags WHERE key = 'mlctx.worker'"
        assert store.execute(workers).fetchone() == (8,)


@pytest.mark.parametrize("turn", range(10))
def test_processes_with_workers_meet_at_one_empty_file(tmp_path: Path, turn: Any) -> None:
    path = tmp_path / "shared.db"
    if turn % 2:
        path.touch()
    holds(path, meet(tmp_path / "suite", f"sqlite:///{path}", 20))


def test_processes_with_workers_meet_at_one_server(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as url:
        logged = meet(tmp_path / "suite", url, 100)
    holds(Path(store_uri(tmp_path).removeprefix("sqlite:///")), logged)


@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux has them")
def test_ten_workers_that_are_killed_at_any_moment(suite: Suite) -> None:
    """Before, in and after a test, or while its record is written."""
    result = suite(
        """
        import os, random, signal, threading, time
        import mlflow, pytest

        @pytest.mark.parametrize("number", range(60))
        def test(mlflow_run, number):
            if number % 6 == 3:
                moment = random.uniform(0, 0.15)
                threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
            mlflow.set_tag("process", "the one")
            mlflow.log_metric("number", number)
            time.sleep(0.03)
        """,
        *("-p", "xdist", "-n", "2", "--max-worker-restart=20", "-rA", "--mlctx-experiment=shared"),
        *("--mlctx-record=sqlite:///shared.db", "--mlctx-tracking-uri=sqlite:///shared.db"),
        timeout=900,
    )
    called = set(re.findall(r"^PASSED (\S+)$", result.stdout, re.MULTILINE))
    crashed = set(re.findall(r"worker 'gw\d+' crashed while running '(\S+)'", result.stdout))
    assert result.stdout.count("node down: Not properly terminated") == 10, result.stdout
    assert len(called | crashed) == 60, result.stdout  # some crash when they have passed: in their teardown
    assert len(crashed) > 3, result.stdout
    passed = called - crashed
    with closing(sqlite3.connect(suite.folder / "shared.db")) as store:
        records = Counter(store.execute(RECORDS))
        own = Counter(number for _, number, _ in store.execute(RUNS))
        assert store.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone() == (0,)
    assert {nodeid for nodeid, status in records if status == "FINISHED"} >= passed
    assert {nodeid for nodeid, _ in records} == called | crashed
    assert set(records.values()) == {1}
    assert set(own) >= {float(re.findall(r"\d+", nodeid)[0]) for nodeid in called}
    assert set(own.values()) == {1}
