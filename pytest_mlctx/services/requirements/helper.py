"""A helper process that has MLflow's capture script loaded and forks for each model (Linux).

The fork does what a fresh Python would: it gets the request's environment, folder and arguments, and the
helper is replaced whenever something that it read while loading is no longer the same.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

from pytest_mlctx.services.requirements.child.dependencies import value_of
from pytest_mlctx.services.requirements.distributions import interpreter

_lock = threading.Lock()
_helper: _Helper | None = None


def run(
    python: str,
    child: str,
    script: str,
    arguments: list[str],
    timeout: float,
    environ: Mapping[str, str],
    plan: Mapping[str, Any],
    distributions: str,
) -> bool:
    """Run the capture script in a fork of the helper process; whether that was done and ended well.

    Args:
        python: the interpreter.
        child: our script that the helper runs.
        script: MLflow's.
        arguments: of MLflow's script.
        timeout: seconds.
        environ: of the process that infers.
        plan: what the observer in it needs to know.
        distributions: the digest of what is installed.
    """
    global _helper
    if sys.platform != "linux":
        return False
    deadline = time.monotonic() + timeout
    request = {**plan, "arguments": arguments, "environ": dict(environ), "folder": os.getcwd()}  # noqa: PTH109
    with _lock:
        identity = (python, child, script, distributions)
        try:
            if _helper is not None and not _helper.fits(identity, environ):
                _helper.stop()
                _helper = None
            if _helper is None:
                _helper = _Helper(identity, environ, plan, deadline)
            return _helper.ask(request, deadline)
        except BaseException as error:  # an answer that comes later would be taken for the next one
            if _helper is not None:
                _helper.stop()
                _helper = None
            if not isinstance(error, (OSError, ValueError)):
                raise
            return False


def stop() -> None:
    """End the helper process, where there is one."""
    global _helper
    with _lock:
        if _helper is not None:
            _helper.stop()
            _helper = None


class _Helper:
    """The process and what it read while it loaded MLflow.

    Raises:
        OSError: it did not start, or not before the deadline.
        ValueError: it did not say what it read.
    """

    def __init__(
        self, identity: tuple[str, ...], environ: Mapping[str, str], plan: Mapping[str, Any], deadline: float
    ) -> None:
        self._identity = identity
        self._environ = dict(environ)
        self._owner = os.getpid()
        self._received = b""
        python, child, script, _ = identity
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(plan, file)
            file.flush()
            self._process = subprocess.Popen(
                [python, child, "--serve", file.name, script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environ,
            )
            atexit.register(self.stop)
            try:
                report = json.loads(self._line(deadline))
                self._seen = [(kind, name, value) for kind, name, value in report["seen"]]
                if report["doubts"]:
                    raise ValueError(report["doubts"])
            except BaseException:
                self.stop()
                raise

    def fits(self, identity: tuple[str, ...], environ: Mapping[str, str]) -> bool:
        """Whether a process started now for the same would load the same."""
        return (
            self._owner == os.getpid()
            and self._identity == identity
            and self._process.poll() is None
            and all(
                value_of(kind, name, environ) == (value or value_of(kind, name, self._environ))
                for kind, name, value in self._seen
            )
            and interpreter(environ) == interpreter(self._environ)
        )

    def ask(self, request: Mapping[str, Any], deadline: float) -> bool:
        """Have one request done; whether the fork ended well. It is killed at the deadline.

        Raises:
            OSError: the helper is gone.
            ValueError: it says what it should not.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        fork = int(self._line(deadline))
        try:
            return int(self._line(deadline)) == 0
        except BaseException:
            with contextlib.suppress(OSError):
                os.kill(fork, signal.SIGKILL)
            raise

    def stop(self) -> None:
        """End the process; in a fork of the owner, only forget it."""
        atexit.unregister(self.stop)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._owner == os.getpid():
            self._process.kill()
            self._process.wait()

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._received:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self._process.stdout], [], [], remaining)[0]:
                raise TimeoutError("the helper process does not answer")
            received = os.read(self._process.stdout.fileno(), 1 << 16)
            if not received:
                raise OSError("the helper process ended")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line
