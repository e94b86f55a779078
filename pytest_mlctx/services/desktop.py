"""Desktop notifications by plyer's own backend; on Linux by notify-send, whose exit status is checked."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import cache
from html import escape
from importlib import import_module
from typing import Any

import plyer.utils
from plyer.facades import Notification

DEADLINE = 4.0
"""Seconds that notify-send may take: a notification daemon that hangs must not hang the program."""
_FOREVER = 2**31 - 1  # milliseconds; D-Bus carries the timeout as a signed 32-bit integer
_LINGER = 10  # seconds, plyer's own default


def notify(*, title: str, message: str, app_name: str, timeout: int | None) -> None:
    """Show a notification on this system's desktop.

    Args:
        title: one line of plain text.
        message: plain text; what looks like markup is shown as it is written.
        app_name: who notifies.
        timeout: seconds that it stays: 0, until it is dismissed; None, as the desktop decides.

    Raises:
        Exception: it was not shown, or nobody can tell; whatever the system's backend raises.
    """
    if plyer.utils.platform != "linux":
        # On Windows plyer sleeps that long in a thread which the end of the program waits for.
        timeout = _LINGER if timeout is None else min(timeout, _LINGER)
    _backend().notify(title=title, message=message, app_name=app_name, timeout=timeout)


@cache  # macOS calls the backend back after the notification
def _backend() -> Any:  # a plyer.facades.Notification: untyped
    # Made here and not by plyer.notification, which prints the traceback of a backend that cannot be imported
    # and, on Linux, warns, chooses D-Bus or, beside a folder /app, Flatpak.
    if plyer.utils.platform == "linux":
        return _NotifySend()
    return import_module(f"plyer.platforms.{plyer.utils.platform}.notification").instance()


class _NotifySend(Notification):  # type: ignore[misc]  # plyer has no types
    """plyer's facade over libnotify's ``notify-send``, with its exit status, a timeout and a deadline.

    What a summary, a body and an expiry time are is told by the Desktop Notifications Specification
    (https://specifications.freedesktop.org/notification-spec/latest/).
    """

    def _notify(self, **fields: Any) -> None:
        command = [
            b"notify-send",
            b"--app-name=" + _argument(fields["app_name"]),
            *_expiry(fields["timeout"]),
            b"--",  # a title that begins with a dash is no option
            _argument(fields["title"] or fields["app_name"] or " "),  # notify-send refuses an empty summary
            _body(fields["message"]),
        ]
        # Without DISPLAY, GLib starts no bus where there is none; the arguments are read in the locale.
        environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
        environment["LC_ALL"] = "C.UTF-8"
        _run(command, environment)


def _expiry(timeout: int | None) -> list[bytes]:
    """The option for a timeout in seconds; without it the server decides, and 0 never expires."""
    if timeout is None:
        return []
    return [b"--expire-time=%d" % min(timeout * 1000, _FOREVER)]


def _body(message: str) -> bytes:
    """The body that is shown as ``message``: servers read markup, and notify-send backslash escapes."""
    return _argument(escape(message, quote=False)).replace(b"\\", b"\\\\")


def _argument(text: str) -> bytes:
    """``text`` as an argument of a process: NUL and lone surrogates, which none can hold, as escapes."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")


def _run(command: list[bytes], environment: dict[str, str]) -> None:
    """Run a command to its end.

    Raises:
        OSError: it cannot be started.
        subprocess.SubprocessError: it failed, or it hung and was killed with all that it started.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = process.wait(DEADLINE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(1)
    if status != 0:
        raise subprocess.CalledProcessError(status, command)
