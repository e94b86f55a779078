"""MlflowService on a real PostgreSQL, which several processes meet empty."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sharing import RECORDS, RUNS, meet

NOBODY = 65534
_PROGRAMS = ("initdb", "postgres")
_FOLDERS = (os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin")))
PROGRAMS = {name: shutil.which(name, path=os.pathsep.join(_FOLDERS)) for name in _PROGRAMS}

pytestmark = [
    pytest.mark.skipif(not all(PROGRAMS.values()), reason="needs PostgreSQL's server (apt: postgresql)"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg2") is None, reason="needs psycopg2"),
]

JOB = """
import sys, time
import mlflow
from pytest_mlctx import MlflowService, RunConfig

uri, name, moment = sys.argv[1:]
time.sleep(max(0, float(moment) - time.time()))
with MlflowService(tracking_uri=uri, experiment_name="shared", autolog_disable=True) as service:
    with service.run_context(RunConfig(name=name, log_system_metrics=False)):
        mlflow.log_metric("m", 1)
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """The URI of an empty database."""
    user = NOBODY if hasattr(os, "geteuid") and os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path("/tmp") / f"mlctx-postgresql-{os.getpid()}"  # nobody may not enter pytest's own
    folder.mkdir()
    if user is not None:
        os.chown(folder, user, user)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (tmp_path / "postgresql.log").open("w")
    options = {"cwd": folder, "stdout": log, "stderr": log, "user": user, "group": user}
    try:
        subprocess.run(
            [PROGRAMS["initdb"], "-D", folder / "data", "-U", "ada", "--auth=trust", "-N"],
            check=True,
            **options,
        )
        server = subprocess.Popen(
            [PROGRAMS["postgres"], "-D", folder / "data", "-p", str(port), "-h", "127.0.0.1", "-k", folder],
            **options,
        )
        try:
            _await(port)
            yield f"postgresql+psycopg2://ada@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # at once, whoever is connected
            server.wait(30)
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _await(port: int) -> None:
    import psycopg2

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(psycopg2.OperationalError):
            psycopg2.connect(host="127.0.0.1", port=port, user="ada", dbname="postgres").close()
            return
        time.sleep(0.1)
    raise TimeoutError("PostgreSQL did not come up")


def test_processes_that_meet_it_empty_share_it(database: str) -> None:
    import psycopg2

    moment = time.time() + 8  # when all have imported MLflow
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, database, f"job {number}", str(moment)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(3)
    ]
    told = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), "\n".join(told)
    with (
        contextlib.closing(psycopg2.connect(database.replace("+psycopg2", ""))) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT name FROM experiments ORDER BY experiment_id")
        assert cursor.fetchall() == [("Default",), ("shared",)]
        cursor.execute("SELECT name, status FROM runs ORDER BY name")
        assert cursor.fetchall() == [(f"job {number}", "FINISHED") for number in range(len(jobs))]
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone() == (0,)


GATED = """
import os, pytest

@pytest.mark.parametrize("number", range(100))
def test_gated(number, mlflow_baseline):
    accuracy = 0.9 - 0.1 * (os.environ.get("WORSE") == "yes" and number == 7)
    assert accuracy >= mlflow_baseline("accuracy", rel=0.02)
"""


@pytest.mark.slow
def test_gated_sessions_share_it_at_the_same_moment(database: str, tmp_path: Path) -> None:
    import psycopg2

    (tmp_path / "test_it.py").write_text(GATED)

    def started(mode: str, worse: str = "no") -> subprocess.Popen[str]:
        options = [f"--mlctx-record={database}", f"--mlctx-baseline={mode}", "--mlctx-experiment=gated"]
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-n2", "-p", "no:cacheprovider", *options],
            cwd=tmp_path,
            env={**os.environ, "WORSE": worse},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    for sessions, expected in (
        ([started("record"), started("record")], "100 passed"),
        ([started("check"), started("check")], "100 passed"),
        ([started("check", worse="yes")], "1 failed, 99 passed"),
    ):
        for session in sessions:
            told = session.communicate(timeout=240)[0]
            assert expected in told, told
    with (
        contextlib.closing(psycopg2.connect(database.replace("+psycopg2", ""))) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "SELECT value, count(*), count(DISTINCT runs.run_uuid) FROM runs JOIN tags USING (run_uuid) "
            "WHERE key = 'mlctx.record' AND status IN ('FINISHED', 'FAILED') GROUP BY value ORDER BY value"
        )
        assert cursor.fetchall() == [("session", 5, 5), ("test", 500, 500)]
        cursor.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'")
        assert cursor.fetchone() == (0,)
        cursor.execute("SELECT count(*) FROM experiments WHERE name = 'gated'")
        assert cursor.fetchone() == (1,)


@pytest.mark.slow
def test_processes_with_workers_record_and_track_to_it(database: str, tmp_path: Path) -> None:
    import psycopg2

    logged = meet(tmp_path / "suite", database, 100)
    with (
        contextlib.closing(psycopg2.connect(database.replace("+psycopg2", ""))) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(RECORDS)
        assert sorted(cursor.fetchall()) == [(nodeid, "FINISHED") for nodeid in logged.records]
        cursor.execute(RUNS)
        assert sorted(cursor.fetchall()) == [(*run, "FINISHED") for run in logged.runs]
        cursor.execute("SELECT count(*) FROM runs WHERE status <> 'FINISHED'")
        assert cursor.fetchone() == (0,)
        cursor.execute("SELECT name FROM experiments ORDER BY experiment_id")
        assert cursor.fetchall() == [("Default",), ("shared",)]
