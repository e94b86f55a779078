"""A session bus with a notification daemon on it, for tests that look at what arrives on a desktop."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree

import pytest

DEADLINE = 20  # seconds
PYTHON = "/usr/bin/python3"  # dbusmock and dbus are packages of the system's

_WAIT_AND_TELL = """
import json, sys, time
import dbus

bus = dbus.SessionBus()
end = time.monotonic() + float(sys.argv[1])
while not bus.name_has_owner("org.freedesktop.Notifications") and time.monotonic() < end:
    time.sleep(0.01)
daemon = bus.get_object("org.freedesktop.Notifications", "/org/freedesktop/Notifications")
mock = dbus.Interface(daemon, "org.freedesktop.DBus.Mock")
calls = mock.GetMethodCalls("Notify")
mock.ClearCalls()
print(json.dumps([arguments for _, arguments in calls]))
"""


@dataclass(frozen=True)
class Shown:
    """A notification as a daemon got it."""

    app_name: str
    title: str
    body: str
    expiry: int  # milliseconds; 0: never, -1: as the server decides

    @property
    def message(self) -> str:
        """The characters that a server which reads markup shows."""
        return "".join(ElementTree.fromstring(f"<body>{self.body}</body>").itertext())


class Bus:
    """A session bus."""

    def __init__(self, address: str) -> None:
        self.address = address

    def shown(self) -> list[Shown]:
        """What the notification daemon was told since the last look."""
        output = subprocess.run(
            [PYTHON, "-c", _WAIT_AND_TELL, str(DEADLINE / 2)],
            env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            timeout=DEADLINE,
            check=True,
        ).stdout
        # Notify(app_name, replaces_id, app_icon, summary, body, actions, hints, expire_timeout)
        return [Shown(call[0], call[3], call[4], call[7]) for call in json.loads(output)]


@contextmanager
def session_bus(*, daemon: bool) -> Iterator[Bus]:
    """A session bus of its own, with or without a notification daemon; skips where a program is missing."""
    if not sys.platform.startswith("linux"):
        pytest.skip("notify-send and session buses are Linux'")
    for program in ("dbus-run-session", "notify-send"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if daemon and subprocess.run([PYTHON, "-c", "import dbusmock"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("python3-dbusmock is not installed")
    start = f"{PYTHON} -m dbusmock --template notification_daemon >/dev/null &" if daemon else ""
    # The bus ends with cat, and cat with its stdin, which closes however this process ends.
    process = subprocess.Popen(
        [
            "dbus-run-session",
            "--",
            "sh",
            "-c",
            f'{start} echo "$DBUS_SESSION_BUS_ADDRESS"; exec cat >/dev/null',
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # where dbus-daemon grumbles that it may not raise its file limit
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], DEADLINE)
        assert ready, "the session bus did not start"
        yield Bus(process.stdout.readline().strip())
    finally:
        process.stdin.close()
        try:
            process.wait(DEADLINE)
        finally:
            process.kill()
            process.stdout.close()
