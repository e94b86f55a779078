"""What runs in the process of a server: MLflow's app on a socket of its own, until who started it has ended.

A script: it is started by its path, and imports nothing of ours.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
import time
from importlib.metadata import entry_points
from typing import Any

_LOOK = 0.3  # seconds between two looks at who started the server


def _watch(pid: int, created: float) -> None:
    """End this process when that one has; nothing is inherited for it, which a fork could keep open."""
    import psutil

    def is_there() -> bool:
        try:
            owner = psutil.Process(pid)
            same = abs(owner.create_time() - created) < 1
            return same and owner.status() != psutil.STATUS_ZOMBIE  # which nobody may reap in a container
        except psutil.Error:
            return False

    while is_there():
        time.sleep(_LOOK)
    os._exit(0)


def _app(name: str) -> Any:
    """The app of MLflow's default, or of one of its plugins such as ``basic-auth``."""
    if not name:
        import mlflow

        newer = int(mlflow.__version__.partition(".")[0]) >= 3
        return importlib.import_module("mlflow.server.fastapi_app" if newer else "mlflow.server").app
    point, *_ = entry_points(group="mlflow.app", name=name)
    app = point.load()
    return app() if point.attr.startswith("create") else app


def main(name: str, port_file: str, pid: int, created: float) -> None:
    """Serve, and tell the port in a file that appears whole."""
    threading.Thread(target=_watch, args=(pid, created), daemon=True).start()
    listening = socket.create_server(("127.0.0.1", 0))
    with open(f"{port_file}.new", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(str(listening.getsockname()[1]))
    os.replace(f"{port_file}.new", port_file)  # noqa: PTH105
    app = _app(name)
    if hasattr(app, "wsgi_app"):  # Flask's, of MLflow 2
        from werkzeug.serving import make_server

        make_server("127.0.0.1", 0, app, threaded=True, fd=listening.fileno()).serve_forever()
    else:
        import uvicorn

        uvicorn.Server(uvicorn.Config(app)).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
