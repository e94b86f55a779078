from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest

from pytest_mlctx.services import store
from pytest_mlctx.services.store import temporary as room

from .conftest import content, descriptors, query

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, /dev/shm, fork")


FILLED = ["runs", "params", "metrics", "latest_metrics", "tags", "trace_info"]
FILLED += ["registered_models", "model_versions", "registered_model_aliases"]


def log_everything(folder: Path, name: str) -> str:
    """A row in as many tables as a test without models fills; gives the run's id."""
    import mlflow

    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params({"p": 1, "q": "two"})
        mlflow.log_metric("m", 0.5, step=1)
        mlflow.set_tag("t", "tag")
        mlflow.log_text("text", "text.txt")
        with mlflow.start_run(nested=True):
            mlflow.log_metric("inner", 1)
    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, source=run.info.artifact_uri, run_id=run.info.run_id)
    client.set_registered_model_alias(name, "champion", "1")
    with mlflow.start_span("span") as span:
        span.set_attribute("a", 1)
    return str(run.info.run_id)


def test_going_back_leaves_nothing_of_a_test(temporary: store.Store, tmp_path: Path) -> None:
    import mlflow

    savepoint = temporary.savepoint()
    before = content(temporary.path)
    for name in ("first", "second"):
        experiment = temporary.back(savepoint, experiment="mine", artifacts=tmp_path / name)
        mlflow.set_experiment(experiment_id=experiment)
        assert mlflow.search_runs().empty
        assert mlflow.MlflowClient().search_registered_models() == []
        log_everything(tmp_path, name)
        assert len(mlflow.search_runs()) == 2
        assert (tmp_path / name / experiment).is_dir()
        rows = content(temporary.path)[1]
        assert all(rows[table] for table in FILLED)
    temporary.back(savepoint, experiment="Default", artifacts=temporary.path.parent / "mlartifacts")
    assert content(temporary.path) == before
    assert query(temporary.path, "PRAGMA foreign_key_check") == []
    assert query(temporary.path, "PRAGMA integrity_check") == [("ok",)]


def test_a_new_experiment_is_one_that_mlflow_would_have_made(temporary: store.Store, tmp_path: Path) -> None:
    import mlflow

    experiment = temporary.back(temporary.savepoint(), experiment='é "%#?', artifacts=tmp_path / "artifacts")
    by_mlflow = mlflow.create_experiment("by MLflow")
    ours, theirs = (dict(mlflow.get_experiment(number)) for number in (experiment, by_mlflow))
    assert ours["name"] == 'é "%#?'
    assert ours["artifact_location"] == f"{tmp_path}/artifacts/{experiment}"
    assert 0 <= theirs["creation_time"] - ours["creation_time"] < 10_000
    differing = {"experiment_id", "name", "artifact_location", "creation_time", "last_update_time"}
    assert {k: v for k, v in ours.items() if k not in differing} == {
        k: v for k, v in theirs.items() if k not in differing
    }


def test_what_the_savepoint_holds_is_there_each_time(temporary: store.Store, tmp_path: Path) -> None:
    import mlflow

    mlflow.set_experiment("of a module")
    held = log_everything(tmp_path, "held")
    savepoint = temporary.savepoint()
    for name in ("first", "second"):
        found = temporary.back(savepoint, experiment="of a module", artifacts=tmp_path / name)
        assert found == mlflow.get_experiment_by_name("of a module").experiment_id
        assert mlflow.get_run(held).data.metrics == {"m": 0.5}
        mlflow.MlflowClient().set_tag(held, "changed by", name)
        mlflow.MlflowClient().delete_registered_model("held")
        mlflow.start_run(run_name=name)
        mlflow.end_run()
        assert len(mlflow.search_runs(found)) == 3


def test_savepoints_nest(temporary: store.Store, tmp_path: Path) -> None:
    import mlflow

    def experiments() -> set[str]:
        return {experiment.name for experiment in mlflow.search_experiments()}

    session = temporary.savepoint()
    mlflow.create_experiment("module")
    module = temporary.savepoint()
    mlflow.create_experiment("class")
    inner = temporary.savepoint()
    for savepoint, names in (
        (inner, {"module", "class"}),
        (module, {"module"}),
        (inner, {"module", "class"}),
    ):
        temporary.back(savepoint, experiment="test", artifacts=tmp_path)
        assert experiments() == {"Default", "test"} | names
    temporary.back(session, experiment="test", artifacts=tmp_path)
    assert experiments() == {"Default", "test"}


def test_ids_of_experiments_never_repeat(temporary: store.Store, tmp_path: Path) -> None:
    import mlflow

    other = store.Store(tmp_path / "other.db")
    empties = {temporary: temporary.savepoint(), other: other.savepoint()}
    ours: list[str] = []
    seen: dict[store.Store, list[str]] = {temporary: [], other: []}
    for _ in range(3):
        for one, empty in empties.items():
            mlflow.set_tracking_uri(one.uri)
            new = [one.back(empty, experiment="mine", artifacts=tmp_path)]
            new += [mlflow.create_experiment(f"by the test {number}") for number in range(2)]
            ours += new
            # SQLite's own choice: an experiment of a child process, say, that knows nothing of us.
            with sqlite3.connect(one.path) as connection:
                connection.execute(
                    "INSERT INTO experiments (name, lifecycle_stage) VALUES ('alien', 'active')"
                )
                alien = connection.execute("SELECT max(experiment_id) FROM experiments").fetchone()[0]
            connection.close()
            seen[one] += [*new, str(alien)]
    assert len(set(ours)) == len(ours) == 18
    assert all(len(set(ids)) == len(ids) == 12 for ids in seen.values())
    other.close()


def test_a_straggler_finds_no_experiment_and_no_run(temporary: store.Store, tmp_path: Path) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    empty = temporary.savepoint()
    client = mlflow.MlflowClient()
    old = temporary.back(empty, experiment="mine", artifacts=tmp_path / "first")
    run = client.create_run(old)
    attempts = {
        run.info.run_id: lambda: client.log_metric(run.info.run_id, "late", 1),
        f"Run with id={run.info.run_id}": lambda: client.set_terminated(run.info.run_id),
        f"id={old}": lambda: client.create_run(old),
    }
    next_test, told = threading.Event(), []

    def straggle() -> None:
        next_test.wait(30)
        for what, attempt in attempts.items():
            with pytest.raises(MlflowException, match=what):
                attempt()
            told.append(what)

    thread = threading.Thread(target=straggle)
    thread.start()
    new = temporary.back(empty, experiment="mine", artifacts=tmp_path / "second")
    next_test.set()
    thread.join()
    assert told == list(attempts)
    assert new != old
    for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
        assert query(temporary.path, f"SELECT * FROM {table}") == []


def test_beside_an_open_reader(temporary: store.Store, tmp_path: Path) -> None:
    empty = temporary.savepoint()
    temporary.back(empty, experiment="old", artifacts=tmp_path)
    reader = sqlite3.connect(temporary.path, isolation_level=None)
    reader.execute("BEGIN")
    names = "SELECT name FROM experiments ORDER BY experiment_id"
    assert reader.execute(names).fetchall() == [("Default",), ("old",)]
    temporary.back(empty, experiment="new", artifacts=tmp_path)
    assert reader.execute(names).fetchall() == [("Default",), ("old",)]
    reader.execute("COMMIT")
    assert reader.execute(names).fetchall() == [("Default",), ("new",)]
    reader.close()


def test_beside_an_open_writer_the_wait_is_bounded(
    temporary: store.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = temporary.savepoint()
    temporary.close()
    monkeypatch.setattr(room, "_TIMEOUT", 0.2)
    writer = sqlite3.connect(temporary.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM experiments")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        temporary.back(empty, experiment="new", artifacts=tmp_path)
    writer.execute("ROLLBACK")
    writer.close()
    temporary.back(empty, experiment="new", artifacts=tmp_path)
    assert query(temporary.path, "SELECT name FROM experiments") == [("Default",), ("new",)]


def test_a_writer_that_ends_is_waited_for(temporary: store.Store, tmp_path: Path) -> None:
    empty = temporary.savepoint()
    writer = sqlite3.connect(temporary.path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, writer.execute, ["COMMIT"])
    timer.start()
    temporary.back(empty, experiment="new", artifacts=tmp_path)
    timer.join()
    writer.close()


def test_artifacts_of_the_tests_own_experiments_follow(temporary: store.Store, tmp_path: Path) -> None:
    import mlflow

    empty = temporary.savepoint()
    for name in ("first", "second"):
        temporary.back(empty, experiment="mine", artifacts=tmp_path / name)
        own = mlflow.create_experiment("own")
        for experiment in (own, "0"):
            with mlflow.start_run(experiment_id=experiment):
                mlflow.log_text("text", "file.txt")
            assert len(list((tmp_path / name / experiment).rglob("file.txt"))) == 1
    assert not (temporary.path.parent / "mlartifacts").exists()


@pytest.mark.parametrize(
    "name", ["a space", "a#b", "é ü 漢字 🚀", "a?b", "a%41b", "100%", "a;b&c=d", "a'b\"c"]
)
def test_any_folder_will_do(served: Path, tmp_path: Path, name: str) -> None:
    import mlflow

    folder = tmp_path / name
    folder.mkdir()
    made = store.Store(folder / "store.db")
    elsewhere = bool({"?", "%"} & set(name))
    assert (made.path.parent != folder) == elsewhere
    mlflow.set_tracking_uri(made.uri)
    mlflow.set_registry_uri(made.uri)
    new = made.back(made.savepoint(), experiment="mine", artifacts=folder / "tests")
    for experiment in (new, mlflow.create_experiment("own")):
        with mlflow.start_run(experiment_id=experiment) as run:
            mlflow.log_text("text", "sub folder/file.txt")
        assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/sub folder/file.txt") == "text"
        assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/sub folder/file.txt") == "text"
    assert len(list((folder / "tests").rglob("file.txt"))) == 2
    assert query(made.path, "SELECT count(*) FROM runs") == [(2,)]
    assert list(served.iterdir()) == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"work", name}
    made.close()
    assert made.path.exists() != elsewhere


@linux
def test_on_a_tmpfs(temporary: store.Store) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        made = store.Store(Path(folder) / "store.db")
        made.back(made.savepoint(), experiment="mine", artifacts=Path(folder))
        assert query(made.path, "SELECT name FROM experiments") == [("Default",), ("mine",)]
        made.close()


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious.db").write_text("data")
    with pytest.raises(FileExistsError):
        store.Store(tmp_path / "precious.db")
    assert (tmp_path / "precious.db").read_text() == "data"


def test_it_is_found_by_its_path_while_it_lives(tmp_path: Path) -> None:
    made = store.Store(tmp_path / "store.db")
    path = made.path
    assert store.store_at(path) is made
    made.close()
    del made
    gc.collect()
    assert store.store_at(path) is None


@linux
def test_a_forked_child_goes_back_too_and_harms_nothing(temporary: store.Store, tmp_path: Path) -> None:
    empty = temporary.savepoint()
    temporary.back(empty, experiment="parent", artifacts=tmp_path)

    def child() -> None:
        temporary.back(empty, experiment="child", artifacts=tmp_path)

    process = get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert query(temporary.path, "SELECT name FROM experiments") == [("Default",), ("child",)]
    temporary.back(empty, experiment="parent again", artifacts=tmp_path)
    assert query(temporary.path, "SELECT name FROM experiments") == [("Default",), ("parent again",)]


@linux
def test_neither_memory_nor_handles_grow(temporary: store.Store, tmp_path: Path) -> None:
    import mlflow
    import psutil

    empty = temporary.savepoint()
    seen: list[tuple[int, int]] = []
    for number in range(100):
        experiment = temporary.back(empty, experiment="mine", artifacts=tmp_path)
        with mlflow.start_run(experiment_id=experiment):
            mlflow.log_metric("m", number)
        if number in (30, 99):
            gc.collect()
            seen.append((descriptors(), threading.active_count()))
            memory = psutil.Process().memory_info().rss
            if number == 30:
                before = memory
    assert seen[0] == seen[1]
    assert memory - before < 8 * 2**20


def test_with_the_process_goes_what_lay_elsewhere(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from pytest_mlctx.services import store\n"
        "made = store.Store(pathlib.Path(sys.argv[1])); print(made.path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a?b" / "store.db")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    path = Path(done.stdout.strip())
    assert path.name == "store.db"
    assert not path.parent.exists()
