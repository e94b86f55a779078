"""A real MLflow server on loopback: its app in one process of ours, on a store that is ready."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pytest_mlctx.services.errors import ServiceError

_PATIENCE = 120.0  # seconds for the app to be imported: 10 on a machine that is not busy
_QUESTION = "api/2.0/mlflow/experiments/get?experiment_id=0"  # opens the store, which takes its time
_LAST_LINES = 15
# What leads a server elsewhere, where it stands in the environment of who starts it.
_FOREIGN = ("MLFLOW_", "_MLFLOW_", "OTEL_")


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        url: its base URL.
        pid: of its process.
        log: the file that it writes to.
    """

    url: str
    pid: int
    log: str


def start(
    folder: Path, *, app: str = "", environment: Mapping[str, str] | None = None, until: int | None = None
) -> Server:
    """Start a server and wait until it answers.

    Args:
        folder: an empty one, for its store, artifacts and log.
        app: of MLflow's apps another one, such as ``basic-auth`` (MLflow's documentation, "Authentication").
        environment: variables of MLflow's server.
        until: the id of the process with which it ends, killed or not; this one by default.

    Raises:
        ServiceError: it does not come up; one sentence with the end of its log.
    """
    import psutil

    from pytest_mlctx.services import store

    known = sorted({point.name for point in entry_points(group="mlflow.app")})
    if app and app not in known:
        choices = ", ".join(known)
        raise ServiceError(f"mlflow_server_config: {app!r} is no app of MLflow's, use one of {choices}.")
    folder.mkdir(parents=True, exist_ok=True)
    store.fill(folder / "mlflow.db")
    owner = psutil.Process(until or os.getpid())
    port_file, log = folder / "port", folder / "server.log"
    port_file.unlink(missing_ok=True)  # of a start that failed: somebody else may have that port
    script = Path(__file__).with_name("process.py")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(script), app, str(port_file), str(owner.pid), str(owner.create_time())],
            cwd=folder,  # where basic-auth keeps its users
            env={**_environment(folder, app), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is its owner's
        )
    try:
        return Server(_await(process, port_file, log), process.pid, str(log))
    except BaseException:
        process.kill()
        process.wait()
        raise


def _environment(folder: Path, app: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    settings = {
        "FILE_STORE": f"sqlite:///{(folder / 'mlflow.db').as_posix()}",
        "ARTIFACT_ROOT": "mlflow-artifacts:/",
        "SERVE_ARTIFACTS": "true",
        "ARTIFACT_DESTINATION": str(folder / "mlartifacts"),
    }
    ours = {f"_MLFLOW_SERVER_{name}": value for name, value in settings.items()}
    ours |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if app == "basic-auth":
        ours["MLFLOW_FLASK_SERVER_SECRET_KEY"] = os.urandom(16).hex()
    return {**inherited, **ours}


def _await(process: subprocess.Popen[bytes], port_file: Path, log: Path) -> str:
    deadline, why = time.monotonic() + _PATIENCE, f"gave no answer in {_PATIENCE:g} s"
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
        if not port_file.exists():
            continue
        url = f"http://127.0.0.1:{port_file.read_text()}"
        try:
            urllib.request.urlopen(f"{url}/{_QUESTION}", timeout=_PATIENCE).close()
        except urllib.error.HTTPError as answer:
            if answer.code < 500:  # it wants credentials
                return url
            why = f"answers HTTP {answer.code}"
            break
        except (urllib.error.URLError, OSError):
            continue
        return url
    if process.poll() is not None:
        why = f"ended with {process.poll()}"
    last = log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:]
    raise ServiceError("\n".join([f"The MLflow server {why}; the end of its log:", *last]))


def stop(server: Server) -> None:
    """End a server that this process has started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(server.pid)
        process.kill()
        process.wait(10)


def shared(folder: Path, until: int, **how: Any) -> Server:
    """A server that the first of several processes starts; it ends with the process ``until``.

    Args:
        folder: the same for all of them.
        until: the id of the process with which it ends.
        how: as for `start`.

    Raises:
        ServiceError: it does not come up.
    """
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "server.json"
    with FileLock(folder / "server.lock"):
        if not told.exists():
            told.write_text(json.dumps(asdict(start(folder / "server", until=until, **how))))
    return Server(**json.loads(told.read_text()))
