"""Sessions of pytest that meet at one store in the same moment, with several workers each."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from processes import command, environment

PROCESSES, WORKERS = 4, 2

# Each worker imports MLflow, and waits for the others before its first test.
CONFTEST = f"""
import os, pathlib, time
import pytest

@pytest.fixture(autouse=True, scope="session")
def together(worker_id):
    import mlflow.store.tracking.sqlalchemy_store
    meeting = pathlib.Path(os.environ["MEETING"])
    (meeting / f"{{os.environ['PROCESS']}} {{worker_id}}").touch()
    deadline = time.monotonic() + 240
    while len(list(meeting.iterdir())) < {PROCESSES * WORKERS} and time.monotonic() < deadline:
        time.sleep(0.005)
"""

SUITE = """
import mlflow, os, pytest

@pytest.mark.parametrize("number", range({count}))
def test(mlflow_run, number):
    mlflow.log_metric("number", number)
    mlflow.set_tag("process", os.environ["PROCESS"])
"""

# Of a store that holds them, for any database: each test's record, and the runs of the tests above.
RECORDS = """
    SELECT node.value, status FROM runs
    JOIN tags AS kind USING (run_uuid) JOIN tags AS node USING (run_uuid)
    WHERE kind.key = 'mlctx.record' AND kind.value = 'test' AND node.key = 'mlctx.nodeid'
"""
RUNS = """
    SELECT tags.value, metrics.value, status FROM runs
    JOIN tags USING (run_uuid) JOIN metrics USING (run_uuid)
    WHERE tags.key = 'process' AND metrics.key = 'number'
"""


class Logged(NamedTuple):
    """What the store is to hold after it, each once: the records by node id, and the tests' own runs."""

    records: list[str]
    runs: list[tuple[str, float]]


def meet(folder: Path, uri: str, count: int) -> Logged:
    """Let them run so many tests each, on a store for records and runs; all pass and none complains."""
    folder.mkdir()
    meeting = folder / "meeting"
    meeting.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(SUITE.format(count=count))
    options = [f"--mlctx-record={uri}", f"--mlctx-tracking-uri={uri}", "--mlctx-experiment=shared"]
    sessions = [
        subprocess.Popen(
            command("-p", "xdist", f"-n{WORKERS}", f"--basetemp=tmp{process}", *options, "test_it.py"),
            cwd=folder,
            env=environment(MEETING=str(meeting), PROCESS=str(process)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(PROCESSES)
    ]
    try:
        outputs = [session.communicate(timeout=600)[0] for session in sessions]
    finally:
        for session in sessions:
            session.kill()
    assert [session.returncode for session in sessions] == [0] * PROCESSES, "\n".join(outputs)
    for output in outputs:
        assert f"{count} passed" in output, output
        assert f"mlctx: {count} records, 0 failed" in output, output
        assert "locked" not in output, output
        assert "not recorded" not in output, output
        assert "could not be closed" not in output, output
    assert len(list(meeting.iterdir())) == PROCESSES * WORKERS
    return Logged(
        sorted(f"test_it.py::test[{number}]" for number in range(count) for _ in range(PROCESSES)),
        sorted((str(process), float(number)) for number in range(count) for process in range(PROCESSES)),
    )
