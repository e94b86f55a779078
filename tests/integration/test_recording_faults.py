"""Records where something goes wrong: the tests keep their outcomes, and what is missing is told once."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from desktop_bus import session_bus
from processes import Suite, command, environment
from servers import Front, mlflow_server

linux = pytest.mark.skipif(sys.platform != "linux", reason="signals and mounts as Linux has them")

TEN = """
    import os, pathlib, subprocess
    import pytest

    @pytest.mark.parametrize("number", range(10))
    def test(number):
        if number == 5:
            exec(os.environ.get("IN_THE_MIDDLE", ""))
        assert number != 7
"""


# Tells at the end what was asked of servers.
ASKED = """
import requests
asked, original = [], requests.Session.request
def request(self, method, url, **more):
    asked.append((method, url))
    return original(self, method, url, **more)
requests.Session.request = request
def pytest_unconfigure():
    for method, url in asked: print('ASKED', method, url)
"""


def statuses(store: Path) -> Counter[tuple[str, str]]:
    """What kind of record has which status, how often."""
    with closing(sqlite3.connect(store)) as connection:
        return Counter(
            connection.execute(
                "SELECT value, status FROM runs JOIN tags USING (run_uuid) WHERE key = 'mlctx.record'"
            )
        )


def told(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert "INTERNALERROR" not in result.stdout, result.stdout
    assert "1 failed, 9 passed" in result.stdout, result.stdout
    return [line for line in result.stdout.splitlines() if line.startswith("mlctx: ")][1:]


def test_a_server_that_is_away(suite: Suite) -> None:
    began = time.monotonic()
    result = suite(TEN, "--mlctx-record=http://127.0.0.1:9")
    (line,) = told(result)
    assert re.match(r"mlctx: 10 tests were not recorded: .*'http://127.0.0.1:9' cannot be reached", line)
    assert time.monotonic() - began < 40, "not MLflow's minutes"


def test_records_on_a_server(suite: Suite, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = suite(TEN, f"--mlctx-record={server_url}", "--mlctx-experiment=records", "--junitxml=junit.xml")
    (line,) = told(result)
    address = rf"{server_url}/#/experiments/\d+/runs/[0-9a-f]{{32}}"
    assert re.fullmatch(rf"mlctx: 10 records, 1 failed, in experiment 'records': {address}", line)
    assert re.search(rf"^{address}$", result.stdout, re.MULTILINE), "of the failed test's record"
    assert re.search(rf'name="mlctx.address" value="{address}"', (suite.folder / "junit.xml").read_text())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_url)  # MLflow 2 finds a server's artifacts by it alone
    import mlflow

    client = mlflow.MlflowClient(server_url)
    experiment = client.get_experiment_by_name("records")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`mlctx.record` = 'test'")
    assert Counter(run.info.status for run in found) == {"FINISHED": 9, "FAILED": 1}
    (failed,) = [run for run in found if run.info.status == "FAILED"]
    assert [each.path for each in client.list_artifacts(failed.info.run_id)] == ["failure.txt"]


@pytest.mark.slow
def test_few_requests_a_test(suite: Suite, server_url: str) -> None:
    suite.folder.mkdir()
    (suite.folder / "conftest.py").write_text(ASKED)
    result = suite(TEN, f"--mlctx-record={server_url}", "--mlctx-experiment=requests")
    asked = re.findall(r"ASKED (?:POST|PUT) \S*/(runs/\S+|mlflow-artifacts)", result.stdout)
    # Ten tests, one of them with failure.txt; the session's run, and the search for abandoned ones.
    assert 30 <= len(asked) <= 10 * 3 + 1 + 3 + 1, asked


@pytest.mark.slow
def test_gates_on_a_server_are_read_in_few_requests(suite: Suite, server_url: str) -> None:
    suite.folder.mkdir()
    (suite.folder / "conftest.py").write_text(ASKED)
    gates = """
        import os, pytest

        @pytest.mark.parametrize("number", range(20))
        def test(mlflow_baseline, number):
            assert number + float(os.environ["LESS"]) >= mlflow_baseline("m", abs=0.5)
    """
    args = (f"--mlctx-record={server_url}", "--mlctx-experiment=gates")
    first = suite(gates, *args, "--mlctx-baseline=record", env=environment(LESS="0"))
    assert "mlctx: gates: 20 recorded" in first.stdout, first.stdout
    held = suite(gates, *args, env=environment(LESS="-0.4"))
    assert "mlctx: gates: 20 held" in held.stdout, held.stdout
    searches = re.findall(r"ASKED POST \S*/runs/search", held.stdout)
    assert len(searches) <= 4, "abandoned sessions, one page of records, the pinned session"
    fallen = suite(gates, *args, env=environment(LESS="-0.9"))
    assert "mlctx: gates: 20 fallen" in fallen.stdout, fallen.stdout
    assert "median of 2" in fallen.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("mood", "missing"), [("busy", 0), ("hanging", 5)])
def test_a_server_that_is_busy_for_a_while_or_hangs(
    suite: Suite, server_url: str, mood: str, missing: int
) -> None:
    """One that has answered before is waited for; one that hangs keeps the session waiting once."""
    with Front(server_url) as front:
        be = f"__import__('urllib.request').request.urlopen('{front.url}/be/{mood}')"
        began = time.monotonic()
        options = (f"--mlctx-record={front.url}", f"--mlctx-experiment={mood}")
        lines = told(suite(TEN, *options, env=environment(IN_THE_MIDDLE=be)))
    assert lines[0].startswith(f"mlctx: {10 - missing} records, ")
    assert ([f"mlctx: {missing} tests were not recorded: gave up after 20 s"] if missing else []) == lines[1:]
    assert time.monotonic() - began < 60


def test_a_server_that_dies_in_the_middle(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as url:
        pids = subprocess.run(["pgrep", "-f", "fastapi_app|make_server"], stdout=subprocess.PIPE, text=True)
        (server,) = [pid for pid in pids.stdout.split() if _works_in(pid, tmp_path / "server")]
        kill = f"os.kill({server}, 9)"
        result = suite(TEN, f"--mlctx-record={url}", env=environment(IN_THE_MIDDLE=kill))
    recorded, missing, *_ = told(result)
    assert recorded.startswith("mlctx: 5 records, ")
    assert missing.startswith("mlctx: 5 tests were not recorded: ")
    assert statuses(tmp_path / "server" / "server.db")["test", "FINISHED"] == 5


def _works_in(pid: str, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)  # noqa: PTH115
    except OSError:
        return False


@pytest.mark.slow
@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
def test_a_store_that_is_read_only(suite: Suite, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(20_000)
    told(suite(TEN, f"--mlctx-record=sqlite:///{disk}/tests.db"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    (missing,) = told(suite(TEN, f"--mlctx-record=sqlite:///{disk}/tests.db"))
    assert re.match(
        r"mlctx: 10 tests were not recorded: --mlctx-record 'sqlite:.* may not be written", missing
    )


@pytest.mark.slow
def test_a_store_that_is_taken_away_in_the_middle(suite: Suite, tmp_path: Path) -> None:
    """SQLite then calls its file a readonly database."""
    (tmp_path / "here").mkdir()
    move = f"pathlib.Path({str(tmp_path / 'here')!r}).rename({str(tmp_path / 'there')!r})"
    result = suite(
        TEN, f"--mlctx-record=sqlite:///{tmp_path}/here/tests.db", env=environment(IN_THE_MIDDLE=move)
    )
    recorded, missing = told(result)
    assert recorded.startswith("mlctx: 5 records, ")
    assert re.match("mlctx: 5 tests were not recorded: .*readonly database", missing)
    assert statuses(tmp_path / "there" / "tests.db")["test", "FINISHED"] == 5


@pytest.mark.slow
@linux
def test_a_disk_that_fills(suite: Suite, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(5_000)
    fill = f"""
try:
    with open({str(disk / "filler")!r}, 'wb') as file:
        while True: file.write(bytes(1024))
except OSError: pass
"""
    result = suite(TEN, f"--mlctx-record=sqlite:///{disk}/tests.db", env=environment(IN_THE_MIDDLE=fill))
    *_, missing = told(result)
    assert re.match(r"mlctx: \d+ tests were not recorded: .*(full|disk I/O)", missing), missing


@linux
def test_a_worker_that_is_killed(suite: Suite) -> None:
    result = suite(
        """
        import os, signal
        import pytest

        @pytest.mark.parametrize("number", range(12))
        def test(number):
            if number in (3, 7):
                os.kill(os.getpid(), signal.SIGKILL)
        """,
        *("-p", "xdist", "-n", "2", "--mlctx-record=sqlite:///tests.db"),
    )
    assert "2 failed, 10 passed" in result.stdout, result.stdout
    assert statuses(suite.folder / "tests.db") == {
        ("test", "FINISHED"): 10,
        ("test", "FAILED"): 2,
        ("session", "FAILED"): 1,
    }
    with closing(sqlite3.connect(suite.folder / "tests.db")) as store:
        reasons = "SELECT value FROM tags WHERE key = 'mlctx.reason'"
        crashes = [reason for (reason,) in store.execute(reasons)]
    assert all(
        re.match(r"worker 'gw\d' crashed while running 'test_it.py::test\[[37]\]'", one) for one in crashes
    )
    assert len(crashes) == 2


@pytest.mark.slow
@linux
def test_the_runs_of_a_worker_that_is_killed_are_closed(suite: Suite) -> None:
    """On the store that was named; they are children of the record of their test where it keeps records."""
    result = suite(
        """
        import os, signal
        import mlflow, pytest

        @pytest.mark.parametrize("number", range(8))
        def test(number, mlflow_run):
            mlflow.log_metric("number", number)
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        """,
        *("-p", "xdist", "-n", "2", "--mlctx-tracking-uri=sqlite:///runs.db"),
    )
    assert "1 failed, 7 passed" in result.stdout, result.stdout
    with closing(sqlite3.connect(suite.folder / "runs.db")) as store:
        found = Counter(store.execute("SELECT name, status FROM runs"))
    finished = {(f"test[{number}]", "FINISHED"): 1 for number in range(8) if number != 3}
    assert found == {**finished, ("test[3]", "KILLED"): 1}


@linux
def test_a_session_that_is_killed_is_closed_by_the_next(suite: Suite) -> None:
    kill = environment(IN_THE_MIDDLE="os.kill(os.getpid(), 9)")
    first = suite(TEN, "--mlctx-record=sqlite:///tests.db", env=kill)
    assert first.returncode == -signal.SIGKILL
    store = suite.folder / "tests.db"
    assert statuses(store) == {("test", "FINISHED"): 5, ("session", "RUNNING"): 1}
    told(suite(TEN, "--mlctx-record=sqlite:///tests.db"))
    assert statuses(store) == {
        ("test", "FINISHED"): 14,
        ("test", "FAILED"): 1,
        ("session", "KILLED"): 1,
        ("session", "FAILED"): 1,
    }


@pytest.mark.slow
@linux
def test_ctrl_c_in_a_test(suite: Suite) -> None:
    result = suite(
        TEN,
        "--mlctx-record=sqlite:///tests.db",
        env=environment(IN_THE_MIDDLE="os.kill(os.getpid(), 2); __import__('time').sleep(5)"),
    )
    assert "KeyboardInterrupt" in result.stdout
    assert statuses(suite.folder / "tests.db") == {
        ("test", "FINISHED"): 5,
        ("test", "KILLED"): 1,
        ("session", "KILLED"): 1,
    }


@pytest.mark.slow
def test_two_sessions_at_once_on_one_empty_file(suite: Suite) -> None:
    suite.folder.mkdir()
    (suite.folder / "test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('n', range(30))\ndef test(n): pass\n"
    )
    sessions = [
        subprocess.Popen(
            command(f"--basetemp=tmp{number}", "--mlctx-record=sqlite:///tests.db", "-q", "test_it.py"),
            cwd=suite.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(3)
    ]
    outputs = [session.communicate(timeout=120)[0] for session in sessions]
    assert [session.returncode for session in sessions] == [0, 0, 0], outputs
    assert "not recorded" not in "".join(outputs)
    assert statuses(suite.folder / "tests.db") == {("test", "FINISHED"): 90, ("session", "FINISHED"): 3}
    with closing(sqlite3.connect(suite.folder / "tests.db")) as store:
        assert store.execute("SELECT count(*) FROM experiments").fetchone() == (2,)  # and Default


@pytest.mark.parametrize(
    ("mode", "source", "expected"),
    [
        ("always", "def test(): pass", ("Tests passed", "1 passed")),
        ("failure", "def test(): assert 0", ("Tests failed", "1 failed")),
        ("failure", "def test(): pass", None),
        ("never", "def test(): assert 0", None),
    ],
)
def test_the_alert_at_the_end_on_a_desktop(suite: Suite, mode: str, source: str, expected: Any) -> None:
    with session_bus(daemon=True) as bus:
        bus.shown()
        result = suite(
            source,
            *("-p", "xdist", "-n", "1", f"--mlctx-notify={mode}", "--mlctx-alerts=desktop"),
            "--mlctx-experiment=ours",
            env=environment(DBUS_SESSION_BUS_ADDRESS=bus.address),
        )
        assert "INTERNALERROR" not in result.stdout
        shown = bus.shown()
    if expected is None:
        assert shown == []
        return
    (alert,) = shown
    assert (alert.app_name, alert.title) == ("pytest-mlctx", expected[0])
    assert re.fullmatch(rf"{expected[1]} in \d+\.\d s, experiment ours", alert.message)
