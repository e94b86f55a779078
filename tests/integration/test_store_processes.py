"""Several processes at one cache or one file, and processes that are killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services import cache, store
from pytest_mlctx.services.store import template

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="children come from a fork server"
)

# Imports MLflow once for all children, which then start in the same moment.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [f"mlflow.store.{kind}.sqlalchemy_store" for kind in ("tracking", "model_registry")]
    + ["pytest", "pytest_mlctx.services.store"]
)


def child(cache_folder: Path, barrier: Any, work: Callable[..., None], *arguments: Any) -> None:
    os.environ["MLCTX_CACHE_DIR"] = str(cache_folder)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    barrier.wait(60)
    work(*arguments)


def together(number: int, cache_folder: Path, work: Callable[..., None], *arguments: Any) -> None:
    """The work in so many processes at the same moment; each succeeds."""
    barrier = PROCESSES.Barrier(number)
    processes = [
        PROCESSES.Process(target=child, args=(cache_folder, barrier, work, *arguments, index))
        for index in range(number)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * number
    finally:
        for process in processes:
            process.kill()


def intact(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("SELECT experiment_id, name FROM experiments").fetchone() == (0, "Default")
    connection.close()


def create(folder: Path, index: int) -> None:
    build = template._build

    def noted() -> bytes:
        (folder / f"built by {index}").touch()
        return build()

    template._build = noted
    made = store.Store(folder / f"{index}.db")
    assert made.back(made.savepoint(), experiment="mine", artifacts=folder)


def test_eight_with_an_empty_cache_make_one_template_once(tmp_path: Path) -> None:
    together(8, tmp_path / "cache", create, tmp_path)
    assert len(list(tmp_path.glob("built by *"))) == 1
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == [
        template._name(),
        f"{template._name()}.lock",
    ]
    for index in range(8):
        intact(tmp_path / f"{index}.db")


def log(path: Path, runs: int, index: int) -> None:
    import mlflow

    store.install_builders()
    client = mlflow.MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}")
    for number in range(runs):
        run = client.create_run("0", run_name=f"{index}-{number}")
        client.log_metric(run.info.run_id, "m", number)
        client.set_terminated(run.info.run_id)


@pytest.mark.parametrize(
    ("there", "runs"),
    [
        pytest.param(True, 4, id="empty, 32 runs"),
        pytest.param(False, 250, id="missing, 2000 runs", marks=pytest.mark.slow),
    ],
)
def test_eight_on_one_file_of_the_user_lose_no_run(tmp_path: Path, there: bool, runs: int) -> None:
    path = tmp_path / "user" / "mlflow.db"
    if there:
        path.parent.mkdir()
        path.touch()
    together(8, tmp_path / "cache", log, path, runs)
    intact(path)
    connection = sqlite3.connect(path)
    finished = connection.execute(
        "SELECT name, value FROM runs JOIN metrics USING (run_uuid) WHERE status = 'FINISHED'"
    ).fetchall()
    assert sorted(finished) == sorted((f"{index}-{n}", n) for index in range(8) for n in range(runs))
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def build(_index: int) -> None:
    template.image()


def fill(path: Path, _index: int) -> None:
    store.fill(path)


def killed(work: Callable[..., None], cache_folder: Path, *arguments: Any, within: float) -> bool:
    """Start it and kill it at a random moment; whether it was still at work."""
    barrier = PROCESSES.Barrier(2)
    process = PROCESSES.Process(target=child, args=(cache_folder, barrier, work, *arguments, 0))
    process.start()
    barrier.wait(60)
    time.sleep(random.uniform(0, within))
    process.kill()
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


KILLS = [4, pytest.param(40, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kills", KILLS)
def test_who_is_killed_while_building_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    at_work = 0
    for kill in range(40):
        if kill >= kills and at_work:
            break  # a moment that hits nobody at work shows nothing
        at_work += killed(build, tmp_path / "cache", within=1.0)
        (tmp_path / "cache" / template._name()).unlink(missing_ok=True)
    assert at_work
    with cache.user().lock(template._name(), timeout=1) as held:
        assert held
    together(1, tmp_path / "cache", create, tmp_path)
    intact(tmp_path / "0.db")


@pytest.mark.parametrize("kills", KILLS)
def test_who_is_killed_while_filling_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(tmp_path / "cache"))
    together(1, tmp_path / "cache", build)
    at_work = 0
    for kill in range(40):
        if kill >= kills and at_work:
            break
        path = tmp_path / str(kill) / "mlflow.db"
        at_work += killed(fill, tmp_path / "cache", path, within=0.15)
        store.fill(path)
        intact(path)
    assert at_work
