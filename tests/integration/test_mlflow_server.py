"""mlflow_server: a real server, started once, and gone when the session is, however it ends."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import Suite, command, environment

from pytest_mlctx.services import ServiceError, server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("flask") is None, reason="mlflow-skinny has no server"
)
DEADLINE = 10  # seconds
# Taken now: the suite's environment is without it when its tests run.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

SUITE = """
    import os, pathlib
    import mlflow, pytest

    @pytest.mark.parametrize("number", range(4))
    def test(mlflow_server, number, tmp_path_factory):
        shared = pathlib.Path(os.environ["TOLD"])
        (shared / f"{number}").write_text(mlflow_server)
        client = mlflow.MlflowClient(mlflow_server)
        run = client.create_run("0", run_name=str(number))
        client.log_metric(run.info.run_id, "number", number)
        assert client.get_run(run.info.run_id).data.metrics == {"number": number}
"""


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "told"
    folder.mkdir()
    yield folder
    for process in servers():  # of a test that failed
        process.kill()


def servers() -> list[psutil.Process]:
    """The servers of ours that run on this machine for this test."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "services/server/process.py" in line and WORKER in line:
            found.append(process)
    return found


def is_open(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


def is_gone(url: str) -> bool:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if not is_open(url) and not servers():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    "workers",
    [pytest.param((), marks=pytest.mark.slow), ("-p", "xdist", "-n", "2")],
    ids=["alone", "xdist"],
)
def test_one_server_for_the_session(suite: Suite, told: Path, workers: Any) -> None:
    result = suite(SUITE, *workers, env=environment(TOLD=str(told)))
    assert "4 passed" in result.stdout, result.stdout
    (url,) = {file.read_text() for file in told.iterdir()}
    assert url.startswith("http://127.0.0.1:")
    assert is_gone(url)


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "workers",
    [(), pytest.param(("-p", "xdist", "-n", "2"), marks=pytest.mark.slow)],
    ids=["alone", "xdist"],
)
def test_it_ends_with_a_session_that_is_killed(tmp_path: Path, told: Path, number: Any, workers: Any) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib, time\n"
        "def test(mlflow_server):\n"
        "    pathlib.Path(os.environ['TOLD'], 'url').write_text(mlflow_server)\n"
        "    time.sleep(60)\n"
    )
    session = subprocess.Popen(
        command(*workers, "--basetemp", str(tmp_path / "tmp"), "test_it.py"),
        cwd=tmp_path,
        env=environment(TOLD=str(told)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (told / "url").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.2)
    url = (told / "url").read_text()
    assert is_open(url)
    session.send_signal(number)
    assert is_gone(url)  # before the session is reaped, too
    session.wait(30)


def test_its_log_is_in_the_report_of_a_test_that_fails(suite: Suite, told: Path) -> None:
    result = suite(
        """
        import mlflow
        def test_before(mlflow_server):
            mlflow.MlflowClient(mlflow_server).get_experiment_by_name("before")
        def test_fails(mlflow_server):
            mlflow.MlflowClient(mlflow_server).get_experiment_by_name("in the test")
            assert 0
        """
    )
    sections = re.findall(r"-+ MLflow server -+\n(.*?)\n(?:=|-)", result.stdout, re.DOTALL)
    assert len(sections) == 1, result.stdout
    (section,) = sections
    assert "in+the+test" in section or "in%20the%20test" in section
    assert "before" not in section


@pytest.mark.slow
def test_a_redirecting_session_reaches_it(suite: Suite, told: Path) -> None:
    result = suite(
        """
        import mlflow
        def test(mlflow_service, mlflow_server):
            client = mlflow.MlflowClient(mlflow_server)
            client.create_experiment("on the server")
            assert mlflow.get_experiment_by_name("on the server") is None
            assert client.get_experiment_by_name("on the server") is not None
        """,
        "--mlctx-remote=redirect",
    )
    assert "1 passed" in result.stdout, result.stdout


def test_the_service_tracks_to_it_and_each_test_has_an_experiment_of_its_own(
    suite: Suite, told: Path
) -> None:
    (suite.folder).mkdir()
    (suite.folder / "conftest.py").write_text(
        "import pytest\n"
        "@pytest.fixture(scope='session')\n"
        "def mlflow_config(mlflow_config, mlflow_server):\n"
        "    return {**mlflow_config, 'tracking_uri': mlflow_server, 'registry_uri': None}\n"
    )
    result = suite(
        """
        import mlflow, pytest
        def test(mlflow_run, mlflow_server):
            assert mlflow.get_tracking_uri() == mlflow_server
            mlflow.log_text("x", "x.txt")
            assert mlflow.artifacts.load_text(mlflow_run.info.artifact_uri + "/x.txt") == "x"

        @pytest.mark.parametrize("number", range(2))
        def test_own(mlflow_service, number):
            with mlflow.start_run(): mlflow.log_metric("number", number)
            (run,) = mlflow.search_runs(output_format="list")
            assert run.data.metrics == {"number": number}
        """,
        "--mlctx-isolation=test",
        "--mlctx-leaks=error",
    )
    assert "3 passed" in result.stdout, result.stdout


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"app": "nope"}, "mlflow_server_config: 'nope' is no app of MLflow's, use one of basic-auth."),
        ({"ap": "x"}, "mlflow_server_config: 'ap' is not known, use app and environment."),
        ({"environment": {"PYTHONHOME": "/nope"}}, "The MLflow server ended with 1; the end of its log:"),
    ],
)
def test_a_start_that_fails_is_told(suite: Suite, told: Path, config: Any, sentence: str) -> None:
    (suite.folder).mkdir()
    (suite.folder / "conftest.py").write_text(
        f"import pytest\n@pytest.fixture(scope='session')\ndef mlflow_server_config(): return {config}\n"
    )
    result = suite("def test(mlflow_server): pass\ndef test_other(): pass")
    assert "1 passed, 1 error" in result.stdout, result.stdout
    assert sentence in result.stdout
    assert "pytest_mlctx/" not in result.stdout
    assert servers() == []


@pytest.mark.skipif(importlib.util.find_spec("flask_wtf") is None, reason="basic-auth wants Flask-WTF")
def test_basic_auth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own app; who has no credentials is told so in seconds, not after minutes."""
    from pytest_mlctx import MlflowService

    users = tmp_path / "auth.ini"
    users.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n"
        "admin_username = admin\nadmin_password = a-long-password-1\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environ = {"MLFLOW_AUTH_CONFIG_PATH": str(users)}
    running = server.start(tmp_path / "server", app="basic-auth", environment=environ)
    try:
        began = time.monotonic()
        with pytest.raises(ServiceError, match="answers 401, not authorised: set MLFLOW_TRACKING_USERNAME"):
            MlflowService(tracking_uri=running.url).start()
        assert time.monotonic() - began < 20
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-long-password-1")
        with MlflowService(tracking_uri=running.url) as service:
            assert service.client().search_experiments()
    finally:
        server.stop(running)
    assert is_gone(running.url)


@pytest.mark.parametrize("turns", [pytest.param(20, marks=pytest.mark.slow)], ids=["twenty times"])
def test_nothing_is_left_of_many(tmp_path: Path, turns: int) -> None:
    for turn in range(turns):
        running = server.start(tmp_path / str(turn))
        assert is_open(running.url)
        server.stop(running)
        assert not is_open(running.url)
        assert not psutil.pid_exists(running.pid)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_nothing_is_left_of_many_sessions_that_are_interrupted(tmp_path: Path, told: Path) -> None:
    """At any moment of the server's start and life, and where its start fails."""
    (tmp_path / "conftest.py").write_text(
        "import os, pytest\n"
        "@pytest.fixture(scope='session')\n"
        "def mlflow_server_config():\n"
        "    return {'environment': {'PYTHONHOME': '/nope'}} if os.environ['FAILS'] else {}\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib, time\n"
        "def test_before(): pathlib.Path(os.environ['TOLD'], 'begun').touch()\n"
        "def test(mlflow_server): time.sleep(60)\n"
    )
    signals = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
    for turn in range(20):
        workers = ("-p", "xdist", "-n", "2") if turn % 4 == 3 else ()
        (told / "begun").unlink(missing_ok=True)
        session = subprocess.Popen(
            command(*workers, "--basetemp", str(tmp_path / "tmp"), "test_it.py"),
            cwd=tmp_path,
            env=environment(TOLD=str(told), FAILS="yes" * (turn % 10 == 0)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not (told / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(random.uniform(0, 12))  # it comes up in 6 s or more
        session.send_signal(signals[turn % 3])
        session.wait(30)
        deadline = time.monotonic() + DEADLINE
        while at_work(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert at_work(tmp_path) == [], f"turn {turn}"


def at_work(folder: Path) -> list[str]:
    """The processes that work in this folder: those of a session, and its server; each holds its port."""
    found = psutil.process_iter(["cwd", "cmdline"])
    return [str(each) for each in found if Path(each.info["cwd"] or "/").is_relative_to(folder)]
