from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import plyer
import pytest
from pydantic import BaseModel, ValidationError

from pytest_mlctx.services.alerts import Alert, AlertsService
from pytest_mlctx.services.errors import ServiceError

SEVERITIES = ["DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"]
UNSUPPORTED = "Notifications are not supported on this system.\n"


@pytest.fixture(autouse=True)
def no_desktop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No notify-send, so that no alert of these tests reaches the desktop of who runs them."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_fields_and_defaults() -> None:
    service = AlertsService()
    assert service.model_dump() == {
        "enable": True,
        "app_name": "pytest-mlctx",
        "timeout": None,
        "level": "INFO",
    }
    assert service.sent == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("level", "LOUD", ["LOUD", *SEVERITIES, "OFF"]),
        ("level", "info", ["info", *SEVERITIES, "OFF"]),
        ("timeout", -1, ["-1", "greater than or equal to 0"]),
        ("timeout", "5", ["5", "valid integer"]),
        ("enable", 1, ["1", "valid boolean"]),
        ("app_name", None, ["None", "valid string"]),
        ("colour", "red", ["red", "not permitted"]),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_what_it_may_be(
    field: str, value: object, words: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        AlertsService.model_validate({field: value})
    (error,) = caught.value.errors()
    assert error["loc"] == (field,)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.criterion("alerts are sent with correct formatting")
def test_disabled_an_alert_is_one_line_of_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    AlertsService(enable=False, app_name="training").notify("Done", "accuracy 0.9")
    assert capsys.readouterr() == ("[training] Done: accuracy 0.9\n", "")


def test_enabled_without_a_desktop_the_console_says_so_first(capsys: pytest.CaptureFixture[str]) -> None:
    AlertsService().notify("Done", "accuracy 0.9")
    assert capsys.readouterr() == (UNSUPPORTED + "[pytest-mlctx] Done: accuracy 0.9\n", "")


@pytest.mark.criterion("alerts can be toggled on or off")
@pytest.mark.parametrize("threshold", [*SEVERITIES, "OFF"])
def test_what_is_less_severe_than_the_level_is_kept_and_not_delivered(
    threshold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service = AlertsService(enable=False, level=threshold)
    for severity in SEVERITIES:
        service.notify("Severity", severity, level=severity)
    delivered = SEVERITIES[SEVERITIES.index(threshold) :] if threshold != "OFF" else []
    assert capsys.readouterr().out == "".join(f"[pytest-mlctx] Severity: {name}\n" for name in delivered)
    assert service.sent == [Alert("Severity", severity, severity) for severity in SEVERITIES]


def test_an_alert_is_of_level_info_unless_told() -> None:
    service = AlertsService(level="OFF")
    service.notify("title", "message")
    assert service.sent == [Alert(title="title", message="message", level="INFO")]


@pytest.mark.parametrize("level", ["LOUD", "OFF", "info", "TRACE", ""])
def test_a_bad_level_of_an_alert_is_one_sentence_and_no_alert(
    level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service = AlertsService(enable=False)
    with pytest.raises(ServiceError) as caught:
        service.notify("title", "message", level=level)
    assert str(caught.value) == (
        f"AlertsService.notify() got the level {level!r}: "
        "use DEBUG, INFO, SUCCESS, WARNING, ERROR or CRITICAL."
    )
    assert service.sent == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one\ntwo\r\nthree", r"one\ntwo\r\nthree"),
        ("a\x1b[2Jb\0c\x85d\u2028e", r"a\x1b[2Jb\x00c\x85d\u2028e"),
        ("lone \ud83d", r"lone \ud83d"),
        ("tab\tnbsp\xa0 👩\u200d🔬", "tab\tnbsp\xa0 👩\u200d🔬"),
    ],
)
def test_on_the_console_one_alert_stays_one_line(
    message: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    AlertsService(enable=False).notify("title", message)
    assert capsys.readouterr().out == f"[pytest-mlctx] title: {line}\n"


def test_a_console_that_lacks_the_characters_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    AlertsService(enable=False).notify("é", "🎉")
    assert written.getvalue().split() == [b"[pytest-mlctx]", rb"\xe9:", rb"\U0001f389"]


def test_stdout_is_looked_up_at_each_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    service = AlertsService(enable=False)
    streams = [io.StringIO(), io.StringIO()]
    for stream in streams:
        monkeypatch.setattr(sys, "stdout", stream)
        service.notify("title", "message")
    assert [stream.getvalue() for stream in streams] == ["[pytest-mlctx] title: message\n"] * 2


def test_a_stdout_that_only_writes_gets_the_alert_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append))
    AlertsService(enable=False).notify("title", "message")
    assert written == ["[pytest-mlctx] title: message\n"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stdout", ["closed", "none", "full"])
def test_where_stdout_is_of_no_use_the_alert_goes_to_another_stream(
    stdout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stdout == "closed":
        stream: Any = io.StringIO()
        stream.close()
    elif stdout == "full":
        stream = SimpleNamespace(write=mock.Mock(side_effect=OSError(28, "No space left on device")))
    else:
        stream = None
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "__stdout__", stream)
    monkeypatch.setattr(sys, "stderr", stderr)
    AlertsService(enable=False).notify("title", "message")
    assert stderr.getvalue() == "[pytest-mlctx] title: message\n"


def test_no_stream_at_all_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "__stdout__", "stderr"):
        monkeypatch.setattr(sys, name, None)
    service = AlertsService()
    service.notify("title", "message")
    assert service.sent == [Alert("title", "message", "INFO")]


Replacement = Callable[[mock.Mock], AbstractContextManager[object]]

REPLACEMENTS: dict[str, Replacement] = {
    "notify": lambda notify: mock.patch("plyer.notification.notify", notify),
    "notification": lambda notify: mock.patch("plyer.notification", SimpleNamespace(notify=notify)),
    "mocked-notification": lambda notify: mock.patch("plyer.notification", mock.MagicMock(notify=notify)),
    "module": lambda notify: mock.patch.dict(
        sys.modules, plyer=mock.MagicMock(notification=mock.MagicMock(notify=notify))
    ),
    "facade": lambda notify: mock.patch("plyer.facades.Notification.notify", notify),
    "facade-by-function": lambda notify: mock.patch(
        "plyer.facades.Notification.notify", lambda self, **fields: notify(**fields)
    ),
}


@pytest.fixture(params=["plyer unused", "plyer used"])
def plyers_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """plyer's proxy as it is before and after its first use, which makes its backend, with a warning."""
    before = object.__getattribute__(plyer.notification, "_obj")
    object.__setattr__(plyer.notification, "_obj", None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="plyer")
        if request.param == "plyer used":
            assert plyer.notification.notify is not None
        yield
    object.__setattr__(plyer.notification, "_obj", before)


@pytest.mark.usefixtures("plyers_backend")
@pytest.mark.parametrize("replacement", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
def test_a_replaced_notify_sees_one_call_and_the_console_nothing(
    replacement: Replacement, capfd: pytest.CaptureFixture[str]
) -> None:
    notify = mock.Mock()
    with replacement(notify):
        AlertsService(app_name="training").notify("--title", "<b>")
        AlertsService(timeout=5).notify("", "")
    assert notify.mock_calls == [
        mock.call(title="--title", message="<b>", app_name="training", timeout=None),
        mock.call(title="", message="", app_name="pytest-mlctx", timeout=5),
    ]
    assert capfd.readouterr() == ("", "")

    AlertsService().notify("title", "afterwards")
    assert notify.call_count == 2
    assert capfd.readouterr() == (UNSUPPORTED + "[pytest-mlctx] title: afterwards\n", "")


@pytest.mark.usefixtures("plyers_backend")
def test_what_monkeypatch_puts_back_is_no_replacement(capfd: pytest.CaptureFixture[str]) -> None:
    notify = mock.Mock()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("plyer.notification.notify", notify)
        AlertsService().notify("title", "message")
    notify.assert_called_once_with(title="title", message="message", app_name="pytest-mlctx", timeout=None)

    AlertsService().notify("title", "afterwards")
    assert notify.call_count == 1
    assert capfd.readouterr() == (UNSUPPORTED + "[pytest-mlctx] title: afterwards\n", "")


@pytest.mark.usefixtures("plyers_backend")
def test_a_replacement_with_plyers_own_signature_accepts_the_call() -> None:
    with mock.patch("plyer.notification.notify", autospec=True) as notify:
        AlertsService().notify("title", "message")
    notify.assert_called_once_with(title="title", message="message", app_name="pytest-mlctx", timeout=None)


@pytest.mark.usefixtures("plyers_backend")
def test_a_replaced_notify_is_not_called_for_what_is_not_delivered_to_the_desktop() -> None:
    with mock.patch("plyer.notification.notify") as notify:
        AlertsService(enable=False).notify("title", "message")
        AlertsService(level="OFF").notify("title", "message", level="CRITICAL")
        AlertsService().notify("title", "message", level="DEBUG")
    notify.assert_not_called()


@pytest.mark.usefixtures("plyers_backend")
def test_an_alert_that_a_replaced_notify_fails_on_goes_to_the_console(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mock.patch("plyer.notification.notify", side_effect=RuntimeError("no desktop")) as notify:
        AlertsService().notify("title", "message")
    notify.assert_called_once()
    assert capsys.readouterr() == (UNSUPPORTED + "[pytest-mlctx] title: message\n", "")


@pytest.mark.usefixtures("plyers_backend")
def test_ctrl_c_in_a_replaced_notify_is_not_swallowed() -> None:
    service = AlertsService()
    with (
        mock.patch("plyer.notification.notify", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        service.notify("title", "message")
    assert len(service.sent) == 1


def test_without_plyer_the_console_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plyer", None)
    AlertsService().notify("title", "message")
    assert capsys.readouterr() == (UNSUPPORTED + "[pytest-mlctx] title: message\n", "")


def test_sent_is_kept_from_start_to_start_and_by_each_service_alone() -> None:
    service, inner = AlertsService(level="OFF"), AlertsService(level="OFF")
    service.notify("1", "before start")
    with service:
        service.notify("2", "running")
        with inner:
            inner.notify("3", "nested")
            assert AlertsService.current() is inner
        with service:
            service.notify("4", "nested in itself")
        assert AlertsService.current() is service
    service.notify("5", "stopped")
    with service:
        assert [alert.title for alert in service.sent] == ["1", "2", "4", "5"]
    assert [alert.title for alert in inner.sent] == ["3"]


def test_recorded_grows_with_what_is_sent_within_its_block() -> None:
    service = AlertsService(level="OFF")
    service.notify("1", "before")
    with service.recorded() as outer:
        assert outer == []
        with service.recorded() as inner:  # equal to the outer one, and not to be taken for it
            pass
        service.notify("2", "within")
        service.model_copy().notify("3", "of a copy")
        assert (outer, inner) == ([Alert("2", "within", "INFO")], [])
    with pytest.raises(RuntimeError, match="in the block"), service.recorded() as failing:
        raise RuntimeError("in the block")
    service.notify("4", "after")
    assert [alert.title for alert in outer] == ["2"]
    assert failing == []
    assert [alert.title for alert in service.sent] == ["1", "2", "4"]


def test_a_copy_has_sent_nothing() -> None:
    service = AlertsService(level="OFF")
    service.notify("title", "message")
    copied = service.model_copy(update={"enable": False})
    assert copied.sent == copy.copy(service).sent == copy.deepcopy(service).sent == []
    assert service.model_copy(deep=True) == service == AlertsService(level="OFF") != copied
    assert hash(service) == hash(AlertsService(level="OFF"))
    copied.notify("title", "of the copy")
    assert [alert.message for alert in service.sent] == ["message"]


def test_a_service_goes_to_another_process_with_what_it_sent() -> None:
    service = AlertsService(level="OFF")
    service.notify("title", "message")
    assert pickle.loads(pickle.dumps(service)).sent == service.sent


def test_as_a_field_of_another_model_it_is_the_same_service() -> None:
    class Job(BaseModel):
        alerts: AlertsService

    service = AlertsService()
    assert Job(alerts=service).alerts is service
    read = Job.model_validate({"alerts": {"enable": False, "timeout": 0}}).alerts
    assert (read.enable, read.timeout) == (False, 0)


def test_alerts_of_many_threads_are_all_kept_each_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    service = AlertsService(enable=False)
    ready = threading.Barrier(8)

    def alert(thread: int) -> None:
        ready.wait(timeout=10)
        for number in range(50):
            service.notify(f"thread {thread}", f"number {number}")

    threads = [threading.Thread(target=alert, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    expected = {(f"thread {thread}", f"number {number}") for thread in range(8) for number in range(50)}
    assert len(service.sent) == len(expected)
    assert {(alert.title, alert.message) for alert in service.sent} == expected
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"[pytest-mlctx] {title}: {message}" for title, message in expected)
