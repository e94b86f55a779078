from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import plyer
import plyer.utils
import pytest
from desktop_bus import Bus, Shown, session_bus

import pytest_mlctx
from pytest_mlctx.services import desktop as desktop_module
from pytest_mlctx.services.alerts import AlertsService
from pytest_mlctx.services.errors import ServiceError

UNSUPPORTED = "Notifications are not supported on this system.\n"
CONSOLE = UNSUPPORTED + "[pytest-mlctx] title: message\n"
NO_BUS = ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY")


@pytest.fixture(scope="session")
def bus_with_daemon() -> Iterator[Bus]:
    with session_bus(daemon=True) as bus:
        yield bus


@pytest.fixture
def desktop(bus_with_daemon: Bus, no_bus: None, monkeypatch: pytest.MonkeyPatch) -> Bus:
    """A desktop where nothing was shown yet."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus_with_daemon.address)
    bus_with_daemon.shown()
    return bus_with_daemon


@pytest.fixture
def no_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux is told by notify-send")
    for name in NO_BUS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def first_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def script(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(lines)}\n")
    path.chmod(0o755)


def run_python(code: str, *options: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, where our package is found as it is here."""
    return subprocess.run(
        [*before, sys.executable, *options, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(Path(pytest_mlctx.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.criterion("alerts are sent with correct formatting")
def test_an_alert_arrives_on_the_desktop_and_the_console_has_nothing(
    desktop: Bus, capfd: pytest.CaptureFixture[str]
) -> None:
    AlertsService(app_name="training").notify("Done", "accuracy 0.9")
    assert desktop.shown() == [Shown(app_name="training", title="Done", body="accuracy 0.9", expiry=-1)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.criterion("alerts can be toggled on or off")
def test_disabled_nothing_arrives(desktop: Bus, capfd: pytest.CaptureFixture[str]) -> None:
    AlertsService(enable=False).notify("title", "message")
    AlertsService(level="OFF").notify("title", "message", level="CRITICAL")
    with pytest.raises(ServiceError):
        AlertsService().notify("title", "message", level="LOUD")
    assert desktop.shown() == []
    assert capfd.readouterr() == ("[pytest-mlctx] title: message\n", "")


@pytest.mark.parametrize(
    "title",
    [
        "-t",
        "--version",
        "--help",
        "--",
        "-",
        "x" * 10_000,
        " ",
        "two\nlines",
        r"C:\new",
        "<b> & 'q' \"",
        "é 🎉",
    ],
    ids=lambda title: title[:8],
)
def test_a_title_arrives_as_it_is(title: str, desktop: Bus, capfd: pytest.CaptureFixture[str]) -> None:
    AlertsService().notify(title, "message")
    assert desktop.shown() == [Shown("pytest-mlctx", title, "message", -1)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("app_name", "title"), [("training", "training"), ("", " ")])
def test_an_empty_title_arrives_as_the_name_of_the_app(
    app_name: str, title: str, desktop: Bus, capfd: pytest.CaptureFixture[str]
) -> None:
    AlertsService(app_name=app_name).notify("", "message")
    assert desktop.shown() == [Shown(app_name, title, "message", -1)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "message",
    [
        "",
        "--version",
        "<b>bold</b> <a href='x'>link</a> <img src=\"x\"/>",
        "a < b & c > d &amp; &lt;",
        "one\ntwo\n\nthree\ttab",
        r"C:\new\table \\server \x41 \101 \"",
        "é 🎉 👩\u200d🔬",
        "x" * 10_000,
    ],
    ids=lambda message: message[:8],
)
def test_a_message_is_shown_literally(
    message: str, desktop: Bus, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")  # in which notify-send refuses what is not ASCII
    AlertsService(app_name="é 🎉").notify("title", message)
    (shown,) = desktop.shown()
    assert (shown.app_name, shown.title, shown.message) == ("é 🎉", "title", message)
    assert capfd.readouterr() == ("", "")


def test_what_no_argument_can_hold_arrives_as_escapes(
    desktop: Bus, capfd: pytest.CaptureFixture[str]
) -> None:
    AlertsService(app_name="app\0").notify("\ud83d title", "\0 message \udcff")
    assert [(shown.app_name, shown.title, shown.message) for shown in desktop.shown()] == [
        (r"app\x00", r"\ud83d title", r"\x00 message \udcff")
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("timeout", "expiry"), [(None, -1), (0, 0), (5, 5000), (10**12, 2**31 - 1)], ids=str)
def test_the_timeout_reaches_the_desktop(
    timeout: int | None, expiry: int, desktop: Bus, capfd: pytest.CaptureFixture[str]
) -> None:
    AlertsService(timeout=timeout).notify("title", "message")
    assert [shown.expiry for shown in desktop.shown()] == [expiry]
    assert capfd.readouterr() == ("", "")


def test_a_message_too_long_for_a_process_goes_to_the_console(
    desktop: Bus, capfd: pytest.CaptureFixture[str]
) -> None:
    AlertsService().notify("title", "x" * 5_000_000)
    assert desktop.shown() == []
    out, err = capfd.readouterr()
    assert out == UNSUPPORTED + f"[pytest-mlctx] title: {'x' * 5_000_000}\n"
    assert err == ""


def test_without_an_address_the_bus_of_the_user_is_found(
    desktop: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = re.search("unix:path=([^,]+)", desktop.address)
    assert path is not None
    (tmp_path / "bus").symlink_to(path[1])
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    AlertsService().notify("title", "message")
    assert [shown.title for shown in desktop.shown()] == ["title"]
    assert capfd.readouterr() == ("", "")


def test_the_first_alert_of_a_process_warns_of_nothing(desktop: Bus) -> None:
    result = run_python(
        """
        from pytest_mlctx.services import AlertsService

        AlertsService().notify("title", "message")
        """,
        "-W",
        "error",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert [shown.title for shown in desktop.shown()] == ["title"]


def test_beside_a_folder_app_which_plyer_takes_for_flatpak(desktop: Bus, tmp_path: Path) -> None:
    # A root folder for this process alone: the entries of the real one, bound, and /app.
    root = """
        set -e
        mount -t tmpfs tmpfs "$0"
        for entry in /*; do
            if [ -L "$entry" ]; then cp -P "$entry" "$0$entry"
            elif [ -d "$entry" ]; then mkdir "$0$entry"; mount --rbind "$entry" "$0$entry"
            fi
        done
        mkdir -p "$0/app"
        exec chroot "$0" "$@"
    """
    unshare = ("unshare", "--map-root-user", "--mount", "sh", "-c", root, str(tmp_path))
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root with util-linux gets a root folder of its own that the bus lets in")
    if subprocess.run([*unshare, "true"], capture_output=True, timeout=30).returncode:
        pytest.skip("no mount namespace can be made here")
    result = run_python(
        """
        from plyer.platforms.linux.notification import instance
        from pytest_mlctx.services import AlertsService

        AlertsService().notify("title", "message")
        print(type(instance()).__name__)
        """,
        before=unshare,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "NotifyDesktopPortals\n", "")
    assert [shown.title for shown in desktop.shown()] == ["title"]


def test_plyers_notify_put_back_by_assignment_is_no_replacement(
    desktop: Bus, capfd: pytest.CaptureFixture[str]
) -> None:
    notification: Any = plyer.notification
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="plyer")
        original = notification.notify
    notification.notify = mock.Mock()
    try:
        AlertsService().notify("replaced", "message")
        notification.notify.assert_called_once()
        assert desktop.shown() == []
        notification.notify = original
        AlertsService(timeout=5).notify("title", "<b>")  # plyer's own backend loses both
    finally:
        del notification.notify
    assert desktop.shown() == [Shown("pytest-mlctx", "title", "&lt;b&gt;", 5000)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_bus")
def test_no_bus_and_none_is_started(
    first_on_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script(first_on_path / "dbus-launch", f"touch {first_on_path}/launched")
    for display, address in [(None, None), (":77", None), (":77", "autolaunch:"), (":77", "")]:
        for name, value in (("DISPLAY", display), ("DBUS_SESSION_BUS_ADDRESS", address)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        AlertsService().notify("title", "message")
        assert capfd.readouterr() == (CONSOLE, "")
    assert not (first_on_path / "launched").exists()


@pytest.mark.usefixtures("no_bus")
def test_a_bus_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/gone")
    AlertsService().notify("title", "message")
    assert capfd.readouterr() == (CONSOLE, "")


@pytest.mark.usefixtures("no_bus")
def test_a_bus_and_no_daemon(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with session_bus(daemon=False) as bus:
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
        AlertsService().notify("title", "message")
    assert capfd.readouterr() == (CONSOLE, "")


def test_no_notify_send(
    desktop: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    AlertsService().notify("title", "message")
    assert capfd.readouterr() == (CONSOLE, "")
    assert desktop.shown() == []


@pytest.mark.parametrize("end", ["exit 1", "kill -KILL $$", "echo noise; echo noise >&2; exit 3"])
def test_a_notify_send_that_fails(
    end: str, desktop: Bus, first_on_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script(first_on_path / "notify-send", end)
    AlertsService().notify("title", "message")
    assert capfd.readouterr() == (CONSOLE, "")
    assert desktop.shown() == []


HANG = """
    trap '' TERM
    sleep 60 &
    echo "$$ $!" > {0}.new; mv {0}.new {0}
    wait
    sleep 60
"""


def gone(pids: Path) -> bool:
    """Whether the processes of a hanging notify-send have ended; they get a moment to."""
    numbers = [int(number) for number in pids.read_text().split()]
    assert len(numbers) == 2
    end = time.monotonic() + 5
    while any(map(alive, numbers)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_notify_send_that_hangs_is_killed_within_five_seconds(
    desktop: Bus, first_on_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pids = first_on_path / "pids"
    script(first_on_path / "notify-send", HANG.format(pids))
    start = time.monotonic()
    AlertsService().notify("title", "message")
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == (CONSOLE, "")
    assert gone(pids)
    assert desktop.shown() == []


def test_ctrl_c_beside_a_notify_send_that_hangs(desktop: Bus, first_on_path: Path) -> None:
    pids = first_on_path / "pids"
    script(first_on_path / "notify-send", HANG.format(pids))
    service = AlertsService()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            service.notify("title", "message")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert gone(pids)
    assert [alert.title for alert in service.sent] == ["title"]


@pytest.mark.usefixtures("no_bus")
def test_a_program_whose_stdout_is_closed_ends_well() -> None:
    result = run_python(
        """
        from pytest_mlctx.services import AlertsService

        AlertsService(enable=False).notify("title", "message")
        """,
        before=("sh", "-c", 'exec "$@" >&-', "sh"),
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "[pytest-mlctx] title: message\n")


@pytest.fixture
def other_platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    desktop_module._backend.cache_clear()
    yield monkeypatch
    desktop_module._backend.cache_clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there these backends may work")
@pytest.mark.parametrize("platform", ["macosx", "win", "unknown"])
def test_a_backend_of_plyers_that_cannot_be_imported(
    platform: str, other_platform: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    other_platform.setattr(plyer.utils, "platform", platform)
    AlertsService().notify("title", "message")
    assert capfd.readouterr() == (CONSOLE, "")


@pytest.mark.parametrize(("timeout", "linger"), [(None, 10), (0, 0), (5, 5), (3600, 10)], ids=str)
def test_plyers_own_backend_gets_a_timeout_that_delays_no_programs_end_for_long(
    timeout: int | None,
    linger: int,
    other_platform: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # Neither Windows nor macOS is here: the module stands for plyer's backend there.
    module = mock.Mock()
    other_platform.setitem(sys.modules, "plyer.platforms.win.notification", module)
    other_platform.setattr(plyer.utils, "platform", "win")
    AlertsService(timeout=timeout).notify("title", "message")
    AlertsService(timeout=timeout).notify("title", "message")
    assert module.mock_calls == [
        mock.call.instance(),
        *[
            mock.call.instance().notify(
                title="title", message="message", app_name="pytest-mlctx", timeout=linger
            )
        ]
        * 2,
    ]
    assert capfd.readouterr() == ("", "")
