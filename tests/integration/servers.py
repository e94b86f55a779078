"""Servers for the tests: MLflow's own in one process, and some that no client wants."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_mlctx.services import store

_MLFLOW = """
import os, socket, sys
import mlflow
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
os.dup2(2, 1)  # nobody reads more, and a pipe that is full would stop the server
if int(mlflow.__version__.partition(".")[0]) >= 3:
    import uvicorn
    from mlflow.server.fastapi_app import app
    uvicorn.Server(uvicorn.Config(app)).run(sockets=[listening])
else:
    from mlflow.server import app
    from werkzeug.serving import make_server
    make_server("127.0.0.1", 0, app, threaded=True, fd=listening.fileno()).serve_forever()
"""


_FIRST_QUESTION = "api/2.0/mlflow/experiments/get?experiment_id=0"  # opens the store, which takes its time


@contextlib.contextmanager
def mlflow_server(folder: Path, uri: str | None = None) -> Iterator[str]:
    """A real MLflow server on loopback: its app in one process, its artifacts in the folder.

    Args:
        folder: for its files, its store too where none is named.
        uri: its store.
    """
    pytest.importorskip("flask", reason="mlflow-skinny has no server")
    if uri is None:
        store.fill(folder / "server.db")
    settings = {
        "FILE_STORE": uri or store_uri(folder),
        "ARTIFACT_ROOT": "mlflow-artifacts:/",
        "SERVE_ARTIFACTS": "true",
        "ARTIFACT_DESTINATION": str(folder / "served"),
    }
    environment = {f"_MLFLOW_SERVER_{name}": value for name, value in settings.items()}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _MLFLOW],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env={**os.environ, **environment, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    assert process.stdout is not None
    try:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        _await(url, process, folder / "server.log")
        yield url
    finally:
        process.kill()
        process.communicate()


def store_uri(folder: Path) -> str:
    """The URI of the server's own store."""
    return f"sqlite:///{folder}/server.db"


def _await(url: str, process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{url}/{_FIRST_QUESTION}", timeout=30).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server did not come up: {log.read_text()}")


class Listener:
    """A TCP server on loopback that does with each connection what it was told, and counts them."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._server.accept()[0]
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self.requests.append(connection.recv(65536))
            self._answer(connection)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            connection.close()


def answering(
    status: str, body: str, kind: str = "application/json", more: str = ""
) -> Callable[[socket.socket], None]:
    """An answer with this status line and body."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    )

    def answer(connection: socket.socket) -> None:
        connection.sendall(f"{head}{more}\r\n{body}".encode())
        connection.close()

    return answer


def hang(connection: socket.socket) -> None:
    """Never answer."""


def drip(connection: socket.socket) -> None:
    """Answer byte by byte, for minutes: no single read of the client's waits long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n")
    for _ in range(5000):
        connection.sendall(b" ")
        time.sleep(0.1)


def close(connection: socket.socket) -> None:
    """Hang up without an answer."""
    connection.close()


class Front(ThreadingHTTPServer):
    """Stands before a real server on loopback and forwards, until it is told by a request to do otherwise.

    ``/be/hanging`` and ``/be/failing`` (HTTP 500) hold until ``/be/well``; ``/be/dead`` is for good.
    ``/be/busy`` keeps one request waiting for some seconds.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.behind = behind
        self.mood = "well"
        self.closed = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        pass  # of a client that gave up

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.shutdown()
        self.server_close()


class _Forward(BaseHTTPRequestHandler):
    server: Front

    def do_GET(self) -> None:
        if self.path.startswith("/be/"):
            self.server.mood = self.path.removeprefix("/be/")
            if self.server.mood == "dead":
                self.server.shutdown()
                self.server.server_close()
            return self._answer(200, b"{}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.mood == "hanging":
            self.server.closed.wait()
        if self.server.mood == "busy":
            self.server.mood = "well"
            time.sleep(6)
        if self.server.mood == "failing":
            return self._answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "database is away"}')
        forwarded = urllib.request.Request(self.server.behind + self.path, body or None, method=self.command)
        forwarded.add_header("Content-Type", self.headers.get("Content-Type", "application/json"))
        try:
            with urllib.request.urlopen(forwarded, timeout=30) as answer:
                return self._answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            return self._answer(error.code, error.read())

    do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self, status: int, body: bytes) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
