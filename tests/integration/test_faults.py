"""What goes wrong around a session: it ends as pytest's do, says one sentence, loses nothing written."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Suite, command, environment

PASSWORD = "hunter2-pass-word"
linux = pytest.mark.skipif(sys.platform != "linux", reason="signals and mounts as Linux has them")


@pytest.fixture
def inner(mlflow_imported: None, no_other_plugin: None, pytester: pytest.Pytester) -> Any:
    """Runs a suite in this process."""

    def run(source: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=textwrap.dedent(source))
        return pytester.runpytest_inprocess(*args)

    return run


# What a session is stopped by.

STOPPING = """
    import os, pytest
    import mlflow
    RUNS = []

    @pytest.fixture(scope="module")
    def held(mlflow_service):
        with mlflow.start_run(run_name="held") as run: yield run

    def test_first(mlflow_service):
        with mlflow.start_run(): mlflow.log_metric("a", 1)

    def test_stopping(held, mlflow_run):
        mlflow.start_run(run_name="open", nested=True)
        RUNS.append(mlflow_run.info.run_id)
        os.environ["MLFLOW_X"] = "1"
        {stop}

    def test_after(mlflow_service): assert "MLFLOW_X" not in os.environ
"""


@pytest.mark.parametrize(
    ("stop", "args", "code"),
    [
        ("assert False", ("-x",), 1),
        pytest.param("assert False", ("--maxfail=1",), 1, marks=pytest.mark.slow),
        pytest.param("pytest.exit('enough')", (), 2, marks=pytest.mark.slow),
        ("pytest.exit('enough', returncode=7)", (), 7),
        ("raise KeyboardInterrupt", (), 2),
        ("pytest.fail('no')", ("-W", "error", "-W", "ignore:The ``noload``"), 1),
    ],
)
@pytest.mark.parametrize("leaks", ["auto", pytest.param("error", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")
def test_a_session_that_is_stopped_leaves_nothing(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str], stop: str, args: Any, code: int, leaks: str
) -> None:
    import mlflow

    before = (mlflow.get_tracking_uri(), dict(os.environ), mlflow.active_run())
    pytester.makepyfile(test_it=textwrap.dedent(STOPPING).format(stop=stop))
    recorder = pytester.inline_run(f"--mlctx-leaks={leaks}", *args, no_reraise_ctrlc=True)
    text = "".join(capsys.readouterr())
    assert recorder.ret == code, text
    assert "INTERNALERROR" not in text
    assert not re.search(r"^\S*pytest_mlctx\S*:\d+:", text, re.MULTILINE), text
    after = dict(os.environ)
    after.pop("PYTEST_CURRENT_TEST", None)
    before[1].pop("PYTEST_CURRENT_TEST", None)
    assert (mlflow.get_tracking_uri(), after, mlflow.active_run()) == before


@pytest.mark.parametrize(
    "option", ["--collect-only", "--setup-plan", "--setup-show", "--setup-only", "--fixtures"]
)
def test_sessions_that_only_look_start_nothing_or_all(
    inner: Any, pytester: pytest.Pytester, option: str
) -> None:
    result = inner(
        """
        import mlflow
        def test_run(mlflow_service):
            with mlflow.start_run(): pass
        """,
        option,
        "--mlctx-leaks=warn",
    )
    assert result.ret == 0
    assert "LeakWarning" not in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("leaks", ["auto", "warn"])
def test_a_conftest_that_cannot_be_imported(inner: Any, pytester: pytest.Pytester, leaks: str) -> None:
    pytester.makeconftest("raise RuntimeError('broken conftest')")
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow")
    before = dict(os.environ)
    result = inner("def test_one(): pass", f"--mlctx-leaks={leaks}")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*RuntimeError: broken conftest"])
    assert dict(os.environ) == before


def test_a_handler_of_the_users_that_raises(inner: Any) -> None:
    result = inner(
        """
        from loguru import logger
        def broken(message): raise RuntimeError("handler")
        def test_caught(logger_service):
            handler = logger.add(broken, catch=True)
            logger.info("one")
            logger.remove(handler)
        def test_raised(logger_service):
            logger.add(broken, catch=False)
            try:
                logger.info("two")
            except RuntimeError:
                pass
        def test_after(logger_service): logger.info("three")
        """,
        "--mlctx-leaks=warn",
    )
    result.assert_outcomes(passed=3, warnings=1)


def test_a_sink_on_a_closed_stream(inner: Any) -> None:
    result = inner("""
        import io, sys
        from loguru import logger
        def test_leaves_a_sink(logger_service, capsys): logger.add(sys.stderr, format="{message}")
        def test_after(logger_service, capsys):
            logger.info("hello")
            assert "closed file" not in capsys.readouterr().err
        def test_closes_its_own(logger_service, capsys):
            stream = io.StringIO()
            logger.add(stream)
            stream.close()
        def test_last(logger_service, capsys):
            logger.info("hello")
            assert "closed file" not in capsys.readouterr().err
    """)
    result.assert_outcomes(passed=4)


def test_a_thread_that_imports_while_a_service_starts(suite: Suite) -> None:
    """With MLflow's own locks each waits for the other."""
    result = suite("""
        import sys, threading
        import mlflow, pytest
        import sklearn.utils._testing
        from pytest_mlctx import MlflowService
        def imports():
            while True:
                try: import nothing_of_this_name
                except ImportError: pass
        threading.Thread(target=imports, daemon=True).start()
        @pytest.mark.parametrize("again", range(3))
        def test_starts(again, tmp_path):
            del sys.modules["sklearn.utils._testing"]  # which MLflow imports to know the estimators
            with MlflowService(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"): pass
            assert "sklearn.utils._testing" in sys.modules
    """)
    assert "3 passed" in result.stdout


def test_a_thread_that_still_logs_at_the_end(suite: Suite) -> None:
    result = suite("""
        import threading, time
        import mlflow
        from loguru import logger
        def work():
            while True:
                logger.info("still here")
                time.sleep(0.001)
        def test_starts_it(logger_service):
            threading.Thread(target=work, daemon=True).start()
        def test_after(logger_service): time.sleep(0.05)
    """)
    assert result.returncode == 0, result.stdout
    session, end, _ = result.stdout.partition("2 passed")
    assert end
    assert "Traceback" not in session  # beyond it the interpreter ends, and the user's thread with it
    assert "Logging error" not in session


@linux
def test_a_forked_child(suite: Suite) -> None:
    result = suite(
        """
        import os, sys
        import mlflow
        from loguru import logger

        def test_fork(mlflow_service, logger_service):
            with mlflow.start_run() as parent:
                pid = os.fork()
                if not pid:
                    logger.info("in the child")
                    mlflow.start_run(nested=True)
                    sys.stdout.flush()
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
                assert mlflow.active_run().info.run_id == parent.info.run_id

        def test_forked_child_that_goes_on(mlflow_service):
            pid = os.fork()
            if not pid:
                try:
                    raise SystemExit(0)
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)

        def test_after(mlflow_service):
            with mlflow.start_run(): mlflow.log_metric("a", 1)
        """,
        "--mlctx-leaks=error",
    )
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout


# What the machine does.


OURS_IN_SIGHT = re.compile(r"INTERNALERROR|^E |pytest_mlctx/", re.MULTILINE)


def test_a_full_disk(suite: Suite, small_disk: Callable[[int], Path]) -> None:
    result = suite(
        """
        def test_before(): pass
        def test_run(mlflow_service): pass
        def test_sandbox(mlflow_sandbox): pass
        def test_after(): pass
        """,
        "--basetemp",
        str(small_disk(100) / "tmp"),
    )
    assert result.returncode == 1, result.stdout
    assert "2 passed, 2 errors" in result.stdout
    assert not OURS_IN_SIGHT.search(result.stdout), result.stdout
    told = re.findall(r"^The temporary store .* cannot be made .*--basetemp\.$", result.stdout, re.MULTILINE)
    assert len(told) == 1, result.stdout
    assert re.search(r"^as in .*::test_run$", result.stdout, re.MULTILINE), result.stdout


def test_a_disk_that_fills(suite: Suite, small_disk: Callable[[int], Path]) -> None:
    small = small_disk(8000)
    (small / "store").mkdir()
    result = suite(
        f"""
        import mlflow, pytest
        from loguru import logger

        def test_before(mlflow_run, logger_service):
            mlflow.log_metric("a", 1)
            logger.info("before")

        def test_fill():
            with open("{small}/filling", "wb", buffering=0) as file, pytest.raises(OSError):
                while True: file.write(bytes(1024))

        def test_full(mlflow_service, logger_service):
            with pytest.raises(mlflow.MlflowException), mlflow.start_run(): pass

        def test_full_run(mlflow_run): pass
        def test_after(logger_service): logger.info("after")
        """,
        "--basetemp",
        str(small / "tmp"),
        f"--mlctx-tracking-uri=sqlite:///{small}/store/user.db",
        f"--mlctx-log-sink={small}/run.log",
    )
    assert result.returncode == 1, result.stdout
    assert re.search(r"4 passed,( \d warnings?,)? 1 error", result.stdout), result.stdout
    assert not OURS_IN_SIGHT.search(result.stdout), result.stdout
    assert re.search(
        r"^No run can be opened for this test .*: see to its store\.$", result.stdout, re.MULTILINE
    )
    assert statuses(small / "store/user.db") == ["FINISHED"]
    assert "before" in (small / "run.log").read_text()


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_checkout(suite: Suite, tmp_path: Path) -> None:
    suite.folder.mkdir()
    (suite.folder / "test_it.py").write_text(
        textwrap.dedent("""
            import mlflow
            def test_run(mlflow_service, logger_service):
                with mlflow.start_run() as run: mlflow.log_dict({"a": 1}, "a.json")
                assert mlflow.artifacts.load_dict(run.info.artifact_uri + "/a.json") == {"a": 1}
        """)
    )
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    if subprocess.run(["mount", "--bind", str(suite.folder), str(mounted)], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(mounted)], check=True)
        args = command("--basetemp", str(tmp_path / "tmp"), "--mlctx-leaks=error", "test_it.py")
        result = subprocess.run(
            args,
            cwd=mounted,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout
        assert "1 passed" in result.stdout
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=False)


# Signals at any moment.

LONG = """
    import time
    import mlflow, pytest

    @pytest.fixture(scope="module")
    def held(mlflow_service):
        with mlflow.start_run(run_name="held") as run: yield run

    @pytest.mark.parametrize("n", range(400))
    def test_run(mlflow_service, n):
        with mlflow.start_run(run_name=f"run {n}"):
            mlflow.log_metric("n", n)
            mlflow.log_param("n", n)
        print("finished", flush=True)

    def test_last(held):
        print("waiting", flush=True)
        time.sleep(120)
"""


@pytest.fixture
def user_store(tmp_path: Path, mlflow_imported: None) -> Path:
    from pytest_mlctx.services import store

    made = store.Store(tmp_path / "user.db")
    made.close()
    return made.path


def heed_ctrl_c() -> None:
    """A process that a shell starts behind `&` ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(
    suite: Suite, tmp_path: Path, seconds: float | None, number: int, *args: str
) -> tuple[int, str, int]:
    """Exit code, output and number of finished tests of a session that gets a signal.

    It comes that long after the first test, or else while a later one is known to run.
    """
    suite.folder.mkdir(exist_ok=True)
    (suite.folder / "test_it.py").write_text(textwrap.dedent(LONG))
    awaited, tests = "finished", ["test_it.py"]
    if seconds is None:
        awaited, tests = "waiting", ["test_it.py::test_run[0]", "test_it.py::test_last"]
    log = tmp_path / "output.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            command("-s", "--basetemp", str(tmp_path / "tmp"), "-q", *args, *tests),
            cwd=suite.folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )
        try:
            deadline = time.monotonic() + 60
            while awaited not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(seconds or 0)
            process.send_signal(number)
            process.wait(60)
        finally:
            process.kill()
    text = log.read_text()
    return process.returncode, text, text.count("finished")


def statuses(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [row[0] for row in connection.execute("SELECT status FROM runs")]


_random = random.Random(0)
MOMENTS = [
    pytest.param(None, id="in a test"),
    *(pytest.param(_random.uniform(0, 1.5), marks=pytest.mark.slow, id=str(n)) for n in range(20)),
]


@linux
@pytest.mark.parametrize("seconds", MOMENTS)
def test_a_session_that_is_killed_loses_nothing_that_was_finished(
    suite: Suite, tmp_path: Path, user_store: Path, seconds: Any
) -> None:
    uri = f"--mlctx-tracking-uri=sqlite:///{user_store}"
    code, _, finished = interrupted(suite, tmp_path, seconds, signal.SIGKILL, uri)
    assert code == -signal.SIGKILL
    assert statuses(user_store).count("FINISHED") >= finished > 0
    again = suite(
        """
        import mlflow
        def test_again(mlflow_service):
            with mlflow.start_run(): pass
        """,
        uri,
    )
    assert again.returncode == 0, again.stdout
    assert statuses(user_store).count("FINISHED") >= finished + 1


@linux
@pytest.mark.parametrize("seconds", MOMENTS)
def test_ctrl_c_closes_what_is_open(suite: Suite, tmp_path: Path, user_store: Path, seconds: Any) -> None:
    uri = f"--mlctx-tracking-uri=sqlite:///{user_store}"
    code, text, finished = interrupted(suite, tmp_path, seconds, signal.SIGINT, uri)
    # CPython loses a line number at some moments, and pytest stumbles over it while it tells of the Ctrl-C.
    assert code == 2 or "unsupported operand type(s) for -: 'NoneType' and 'int'" in text, text[-3000:]
    assert finished > 0
    assert "RUNNING" not in statuses(user_store)
    assert not re.search(r"^  File .*pytest_mlctx", text, re.MULTILINE), text[-3000:]
    assert "KeyboardInterrupt" in text
    shutil.rmtree(tmp_path / "tmp", ignore_errors=True)


# Servers.


def test_a_server_that_goes_away_and_the_password_in_its_uri(suite: Suite, tmp_path: Path) -> None:
    source = """
        import mlflow

        def test_before(logger_service): logger_service.logger().info("before")

        def test_away(mlflow_service): pass

        def test_set_in_the_test(logger_service):
            mlflow.set_tracking_uri("http://me:{password}@other.invalid/")
            mlflow.set_registry_uri("http://me:{password}@127.0.0.1:9/?token={password}")

        def test_after(): assert "other.invalid" not in mlflow.get_tracking_uri()
    """
    log = tmp_path / "run.log"
    result = suite(
        source.replace("{password}", PASSWORD),
        f"--mlctx-tracking-uri=http://me:{PASSWORD}@127.0.0.1:9/?token={PASSWORD}",
        f"--mlctx-log-sink={log}",
        "--mlctx-leaks=warn",
        f"--junitxml={tmp_path / 'report.xml'}",
        "-rA",
        "--tb=short",
        "--log-file",
        str(tmp_path / "pytest.log"),
    )
    assert result.returncode == 1, result.stdout
    assert "3 passed" in result.stdout
    assert "1 error" in result.stdout
    written = [
        result.stdout,
        *(
            path.read_text(errors="replace")
            for path in tmp_path.rglob("*")
            if path.is_file() and path.stem.partition(".")[0] != "test_it"  # nor what it is compiled to
        ),
    ]
    for text in written:
        cleaned = "\n".join(
            line for line in text.splitlines() if "mlflow.set_" not in line
        )  # the source itself
        assert PASSWORD not in cleaned
