"""Whole processes: the first store, models of many kinds, suites with and without the plugin."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

FIRST_STORE = """
import mlflow, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
began = time.perf_counter()
{work}
mlflow.set_experiment("bench")
print(time.perf_counter() - began)
"""
BY_HAND = 'mlflow.set_tracking_uri(f"sqlite:///{path}")'
OURS = """
from pytest_mlctx.services import store
store.install_builders()
mlflow.set_tracking_uri(store.Store(path).uri)
"""

NEW_FILES = """
import sys, time
from contextlib import nullcontext
import mlflow
from pytest_mlctx.services.store import new_files
with {block}:
    began = time.perf_counter()
    for number in range(60):
        mlflow.set_tracking_uri(f"sqlite:///{{sys.argv[1]}}/{{number}}.db")
        mlflow.set_experiment("own")
    print(time.perf_counter() - began)
"""
OWN_STORE = """
import mlflow, pytest

@pytest.mark.parametrize("number", range(200))
def test_own_store({fixture}, number):
    {setup}
    with mlflow.start_run():
        mlflow.log_metric("accuracy", number)
    assert len(mlflow.search_runs()) == 1
"""
SANDBOXES = """
import mlflow, pytest

@pytest.mark.parametrize("number", range(200))
def test_sandbox(mlflow_sandbox, number):
    with mlflow.start_run():
        mlflow.log_metric("accuracy", number)
    assert len(mlflow.search_runs(output_format="list")) == 1
"""
GUARDED = """
import time
from pathlib import Path
import mlflow, pytest

{clean_up}

began = []

@pytest.mark.parametrize("number", range(1000))
def test_trivial({fixture}, number):
    began.append(time.perf_counter())

def test_last():
    Path("seconds").write_text(str(began[-1] - began[0]))
"""
CLEAN_UP = """
@pytest.fixture(autouse=True)
def clean_up():
    before = mlflow.get_tracking_uri()
    yield
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
    mlflow.autolog(disable=True)
"""
UNUSED = """
import pytest

@pytest.mark.parametrize("number", range(500))
def test_nothing(number):
    assert number >= 0
"""


def python(*arguments: object, folder: Path | None = None, **environment: str) -> str:
    """The last line that a Python process prints; what it writes about itself goes to its log."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],  # with its bytecode cached, as where pip has installed
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("way", ["by hand", "ours"])
@pytest.mark.parametrize("turn", range(7))
def bench_first_store(measure: Any, tmp_path: Path, turn: int, way: str) -> None:
    code = FIRST_STORE.format(work=OURS if way == "ours" else BY_HAND)
    measure(
        "the first store of a process, after import mlflow",
        way,
        lambda: float(python("-c", code, tmp_path / "mlflow.db")),
    )


@pytest.mark.parametrize("way", ["MLflow's own way", "ours, cache empty", "ours, cache warm"])
@pytest.mark.parametrize("turn", range(2))
def bench_models(
    measure: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, turn: int, way: str
) -> None:
    cache = tmp_path_factory.getbasetemp() / f"cache{turn}"  # filled by the run before the warm one
    script = Path(__file__).with_name("models.py")
    measure(
        "18 models of 9 kinds",
        way,
        lambda: float(
            python(
                script,
                "reuse" if way.startswith("ours") else "own",
                tmp_path / "mlflow.db",
                MLCTX_CACHE_DIR=str(cache),
            )
        ),
    )


@pytest.fixture(scope="session")
def installations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of packages: all that are installed here and no plugin of pytest, or ours alone."""
    folders = {"not installed": tmp_path_factory.mktemp("without"), "ours": tmp_path_factory.mktemp("with")}
    for way, folder in folders.items():
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            ours = entry.name.startswith("pytest_mlctx")
            wanted = way == "ours" if ours else not is_plugin(entry)
            if wanted:
                (folder / entry.name).symlink_to(entry)
        suite(tmp_path_factory.mktemp("first"), UNUSED, folder)  # its bytecode is cached from now on
    return folders


def is_plugin(distribution: Path) -> bool:
    """Whether pytest would load a plugin of this distribution by itself."""
    entry_points = distribution / "entry_points.txt"
    return entry_points.is_file() and "[pytest11]" in entry_points.read_text()


def suite(folder: Path, code: str, installed: Path) -> None:
    test = folder / "test_suite.py"
    test.write_text(code)
    # Without the module site, Python finds no packages but those of PYTHONPATH.
    python("-S", "-m", "pytest", "-q", "-p", "no:cacheprovider", test, PYTHONPATH=str(installed))


@pytest.mark.parametrize("way", ["a fresh SQLite store for each test", "ours"])
def bench_suite_with_stores(measure: Any, tmp_path: Path, installations: dict[str, Path], way: str) -> None:
    ours = way == "ours"
    code = OWN_STORE.format(
        fixture="mlflow_service" if ours else "tmp_path",
        setup="pass"
        if ours
        else 'mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db"); mlflow.set_experiment("bench")',
    )
    installed = installations["ours" if ours else "not installed"]
    measure(
        "200 tests, each with an empty store, whole process", way, lambda: suite(tmp_path, code, installed)
    )


@pytest.mark.parametrize("way", ["one process", "ours"])
@pytest.mark.parametrize("turn", range(3))
def bench_two_workers(measure: Any, tmp_path: Path, turn: int, way: str) -> None:
    test = tmp_path / "test_suite.py"
    test.write_text(SANDBOXES)
    workers = "2" if way == "ours" else "0"
    measure(
        "200 tests with a sandbox each, -n 2, whole process",
        way,
        lambda: python("-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider", test),
    )


@pytest.mark.parametrize("way", ["MLflow's migrations", "ours"])
@pytest.mark.parametrize("turn", range(2))
def bench_new_files(measure: Any, tmp_path: Path, turn: int, way: str) -> None:
    code = NEW_FILES.format(block="new_files.from_template()" if way == "ours" else "nullcontext()")
    measure("60 SQLite stores that a suite makes by itself", way, lambda: float(python("-c", code, tmp_path)))


@pytest.mark.parametrize("way", ["a fixture that cleans up after MLflow", "ours, auto", "ours, warn"])
@pytest.mark.parametrize("turn", range(3))
def bench_guard(measure: Any, tmp_path: Path, turn: int, way: str) -> None:
    leaks = way.partition(", ")[2]
    fixture, clean_up = ("mlflow_service", "") if leaks else ("tmp_path_factory", CLEAN_UP)
    (tmp_path / "test_suite.py").write_text(GUARDED.format(fixture=fixture, clean_up=clean_up))

    def seconds() -> float:
        options = [f"--mlctx-leaks={leaks}"] if leaks else ["-p", "no:mlctx"]
        python("-m", "pytest", "-q", "-p", "no:cacheprovider", *options, folder=tmp_path)
        return float((tmp_path / "seconds").read_text())

    measure("1,000 empty tests, each guarded", way, seconds)


@pytest.mark.parametrize("way", ["not installed", "ours"])
@pytest.mark.parametrize("turn", range(100))
def bench_unused(measure: Any, tmp_path: Path, installations: dict[str, Path], turn: int, way: str) -> None:
    measure(
        "500 tests that do not use it, whole process",
        way,
        lambda: suite(tmp_path, UNUSED, installations[way]),
    )


@pytest.mark.parametrize("way", ["mlflow server", "ours"])
@pytest.mark.parametrize("turn", range(2))
def bench_server(measure: Any, tmp_path: Path, turn: int, way: str) -> None:
    measure("a server until it answers", way, lambda: ready(tmp_path, by_hand=way == "mlflow server"))


def ready(folder: Path, *, by_hand: bool) -> float:
    """Seconds until a server answers a question of its store."""
    began = time.perf_counter()
    if not by_hand:
        from pytest_mlctx.services import server

        running = server.start(folder / "server")
        seconds = time.perf_counter() - began
        server.stop(running)
        return seconds
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{folder}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--backend-store-uri", store]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    question = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        while time.perf_counter() - began < 180:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(question, timeout=60).close()
                break
            time.sleep(0.05)
        return time.perf_counter() - began
    finally:
        os.killpg(process.pid, signal.SIGKILL)
