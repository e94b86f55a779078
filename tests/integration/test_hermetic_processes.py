"""What only a process of its own can show: who is called, what child processes do, and warnings as errors."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from packaging.version import Version

from pytest_mlctx.services import store

MLFLOW = Version(importlib.metadata.version("mlflow-skinny"))

# Continuous integration is told by these, and MLflow's telemetry is silent there.
_TOLD = ("CI", "PYTEST_", "GITHUB_", "GITLAB_", "JENKINS_", "TF_BUILD", "BITBUCKET_", "CIRCLECI", "TRAVIS")

# Every look-up of a name and every connection but to loopback, from before anything is imported.
LISTENING = """
import os, sys

def hook(event, arguments):
    if event == "socket.getaddrinfo":
        seen(arguments[0])
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        seen(arguments[1][0])

def seen(host):
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host not in ("127.0.0.1", "::1", "localhost", "None", ""):
        with open(os.environ["SEEN"], "a") as file:
            file.write(host + chr(10))

sys.addaudithook(hook)
"""


def run(
    folder: Path, command: list[str], **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The command in that folder, without a trace of the outer test run; and the hosts that it asked for."""
    spy = folder / "spy"
    spy.mkdir(exist_ok=True)
    (spy / "sitecustomize.py").write_text(LISTENING)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_TOLD)}
    paths = os.pathsep.join(filter(None, [str(spy), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": paths, "SEEN": str(spy / "seen"), "HOME": str(spy), **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    seen = (spy / "seen").read_text().split() if (spy / "seen").exists() else []
    (spy / "seen").unlink(missing_ok=True)
    return done, seen


def pytest_in(folder: Path, test: str, *options: str, **environment: str) -> list[str]:
    """The tests pass; the hosts that they asked for."""
    (folder / "test_it.py").write_text(textwrap.dedent(test))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mlctx", "-p", "no:cacheprovider", *options]
    done, seen = run(folder, command, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return seen


TELEMETRY = """
    import mlflow

    with mlflow.start_run():
        mlflow.log_metric("loss", 0.5)
    mlflow.create_experiment("another")
"""


def test_no_telemetry_leaves_and_no_refused_host_is_looked_up(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    seen = pytest_in(
        work,
        """
        import os
        import pytest

        def test_telemetry(mlflow_service):
            import mlflow

            with mlflow.start_run():
                mlflow.log_metric("loss", 0.5)
            mlflow.create_experiment("another")
            with mlflow.start_span("span"):
                pass

        @pytest.mark.parametrize("uri", ["https://mlflow.example.org", "databricks", "postgresql://db.example.org/m"])
        def test_refused(mlflow_service, monkeypatch, uri):
            import mlflow
            from pytest_mlctx import ServiceError

            monkeypatch.setenv("DATABRICKS_HOST", "https://databricks.example.org")
            monkeypatch.setenv("DATABRICKS_TOKEN", "hunter2")
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            for work in (
                mlflow.start_run,
                lambda: mlflow.register_model("runs:/" + "0" * 32 + "/model", "m"),
                lambda: mlflow.MlflowClient(uri).search_experiments(),
                lambda: mlflow.MlflowClient(uri, uri).search_registered_models(),
                lambda: mlflow.sklearn.load_model("models:/m/1"),
            ):
                with pytest.raises(ServiceError, match="is remote and was not asked for"):
                    work()
            try:
                with mlflow.start_span("span"):
                    pass
            except ServiceError:
                pass
        """,
        "-W",
        "error",
    )
    assert seen == []


@pytest.mark.skipif(Version("3.2") > MLFLOW, reason="this MLflow has no telemetry")
def test_without_the_service_telemetry_would_be_seen(tmp_path: Path) -> None:
    store.fill(tmp_path / "mlflow.db")
    script = textwrap.dedent(TELEMETRY)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    done, seen = run(tmp_path, [sys.executable, "-c", script], MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    assert seen != []


@pytest.mark.skipif(
    Version("3.17") > MLFLOW, reason="this MLflow does not read where children keep artifacts"
)
@pytest.mark.parametrize(
    "kinds", ["forked subprocess", pytest.param("spawned forked subprocess", marks=pytest.mark.slow)]
)
def test_child_processes_track_to_the_store_in_force(tmp_path: Path, kinds: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "child.py").write_text(
        textwrap.dedent(
            """
            import sys
            import mlflow

            def track(name):
                mlflow.set_experiment(name)
                with mlflow.start_run(run_name=name):
                    mlflow.log_text(name, "note.txt")

            if __name__ == "__main__":
                track(sys.argv[1])
            """
        )
    )
    before = {path.name for path in work.iterdir()}
    pytest_in(
        work,
        """
        import multiprocessing, os, subprocess, sys
        import mlflow
        import child

        def test_children(mlflow_service):
            kinds = os.environ["KINDS"].split()
            processes = [
                multiprocessing.get_context(method).Process(target=child.track, args=(kind,))
                for kind, method in (("forked", "fork"), ("spawned", "spawn")) if kind in kinds
            ]
            for process in processes:
                process.start()
            subprocess.run([sys.executable, "child.py", "subprocess"], check=True)
            for process in processes:
                process.join(60)
                assert process.exitcode == 0
            runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
            assert {run.info.run_name for run in runs} == set(kinds)
            for run in runs:
                assert mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt") == run.info.run_name
        """,
        MLFLOW_DISABLE_TELEMETRY="true",
        KINDS=kinds,
    )
    assert {path.name for path in work.iterdir()} - {"__pycache__", "spy", "test_it.py"} == before


def test_with_autouse_a_conftest_that_imports_mlflow_tracks_to_the_store_of_the_tests(tmp_path: Path) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    (work / "conftest.py").write_text(
        textwrap.dedent(
            """
            import os
            import mlflow

            assert not os.path.exists(mlflow.get_tracking_uri().removeprefix("sqlite:///"))
            mlflow.set_experiment("of import")
            open_run = mlflow.start_run(run_name="imported")
            mlflow.log_text("text", "note.txt")
            """
        )
    )
    before = {path.name for path in work.iterdir()}
    pytest_in(
        work,
        """
        import mlflow

        def test_run():
            (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
            assert run.info.run_name == "imported"
            assert mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt") == "text"
        """,
        "-o",
        "mlctx_autouse=mlflow",
        f"--basetemp={tmp_path}/base",
        TMPDIR=str(temporary),
    )
    assert {path.name for path in work.iterdir()} - {"__pycache__", "spy", "test_it.py"} == before
    assert list(temporary.iterdir()) == []
