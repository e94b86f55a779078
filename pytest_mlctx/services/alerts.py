"""AlertsService: alerts on the desktop, or on the console where there is none."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr, field_validator

from pytest_mlctx.services.base import Service
from pytest_mlctx.services.errors import ServiceError

if TYPE_CHECKING:
    from typing_extensions import Self

# loguru's own, from its documentation, "The severity levels".
_SEVERITIES = {"DEBUG": 10, "INFO": 20, "SUCCESS": 25, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_UNSUPPORTED = "Notifications are not supported on this system."
# What would break one alert into several lines, or move the terminal's cursor.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Alert:
    """What was said, and how severe it is."""

    title: str
    message: str
    level: str
    """A severity of loguru's: ``DEBUG``, ``INFO``, ``SUCCESS``, ``WARNING``, ``ERROR`` or ``CRITICAL``."""


class AlertsService(Service):
    r"""Alerts on the desktop, or on the console where that is wanted or there is no desktop.

    On the console an alert is one line of stdout, ``[app_name] title: message``, its line breaks and other
    control characters written as escapes such as ``\n``. No alert is lost and none raises.
    """

    enable: bool = True
    """Whether alerts go to the desktop; to the console otherwise."""
    app_name: str = "pytest-mlctx"
    """Who alerts."""
    timeout: int | None = Field(default=None, ge=0)
    """Seconds that an alert stays on the desktop: 0, until it is dismissed; None, as the desktop decides."""
    level: str = "INFO"
    """The least severity that is delivered; ``OFF``: none is."""

    _sent: list[Alert] = PrivateAttr(default_factory=list)
    _outboxes: list[list[Alert]] = PrivateAttr(default_factory=list)

    @field_validator("level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level not in (*_SEVERITIES, "OFF"):
            raise ValueError(
                f"{level!r} is no level of alerts: use DEBUG, INFO, SUCCESS, WARNING, ERROR, CRITICAL or OFF"
            )
        return level

    @property
    def sent(self) -> list[Alert]:
        """Every alert of this service, delivered or not, oldest first, kept as long as the service is.

        It is the very list that ``notify`` adds to, in any thread.
        """
        return self._sent

    @contextmanager
    def recorded(self) -> Iterator[list[Alert]]:
        """The alerts sent within the block, delivered or not: a list that grows as they are sent."""
        outbox: list[Alert] = []
        self._outboxes.append(outbox)
        try:
            yield outbox
        finally:
            self._outboxes[:] = [other for other in self._outboxes if other is not outbox]

    def notify(self, title: str, message: str, level: str = "INFO") -> None:
        """Alert, before ``start()`` too. Takes 5 seconds at most.

        Raises:
            ServiceError: ``level`` is no severity.
        """
        if level not in _SEVERITIES:
            raise ServiceError(
                f"AlertsService.notify() got the level {level!r}: "
                "use DEBUG, INFO, SUCCESS, WARNING, ERROR or CRITICAL."
            )
        self._send(Alert(title, message, level), self.app_name, self.timeout)

    def _send(self, alert: Alert, app_name: str, timeout: int | None) -> None:
        for outbox in (self._sent, *self._outboxes):
            outbox.append(alert)
        if self.level == "OFF" or _SEVERITIES[alert.level] < _SEVERITIES[self.level]:
            return
        line = f"[{app_name}] {alert.title}: {alert.message}"
        if not self.enable:
            _print(line)
            return
        try:
            _show(title=alert.title, message=alert.message, app_name=app_name, timeout=timeout)
        except Exception:  # whatever a backend or a suite's mock raises, the alert is not lost
            _print(_UNSUPPORTED, line)

    @contextmanager
    def instead_of_plyer(self) -> Iterator[None]:
        """Within the block what code tells ``plyer.notification`` is an alert of this service, at ``INFO``.

        A mock that stands there, or is put there, wins.
        """
        try:
            import plyer
            from plyer.facades import Notification
        except Exception:  # not there, or a stub
            yield
            return
        notification: Any = plyer.notification
        if _replaced(notification):
            yield
            return
        service = self

        class Backend(Notification):  # type: ignore[misc]  # plyer has no types
            def _notify(self, **fields: Any) -> None:
                alert = Alert(str(fields["title"]), str(fields["message"]), "INFO")
                service._send(alert, fields["app_name"] or service.app_name, fields["timeout"])

        before = object.__getattribute__(notification, "_obj")  # past plyer's proxy
        object.__setattr__(notification, "_obj", Backend())
        try:
            yield
        finally:
            object.__setattr__(notification, "_obj", before)

    def _apply(self) -> None:
        """Nothing in the process has to change for an alert."""

    # What was sent is the service's alone: no copy shares it, and it makes no difference to equality.
    def __copy__(self) -> Self:
        return super().__copy__()._emptied()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super().__deepcopy__(memo)._emptied()

    def _emptied(self) -> Self:
        self._sent, self._outboxes = [], []
        return self

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)


def _show(*, title: str, message: str, app_name: str, timeout: int | None) -> None:
    """Tell the desktop, or whatever was put in the place of ``plyer.notification.notify``."""
    import plyer  # at each call, since a suite may replace the module too

    notification: Any = plyer.notification
    if _replaced(notification):
        notify = notification.notify
    else:
        from pytest_mlctx.services.desktop import notify
    notify(title=title, message=message, app_name=app_name, timeout=timeout)


def _replaced(notification: object) -> bool:
    """Whether ``notification.notify`` is another than plyer's."""
    try:
        # Past plyer's proxy, which at any other look makes plyer's backend, with warnings on the way.
        backend = object.__getattribute__(notification, "_obj")
    except AttributeError:
        return True
    if backend is None:
        return False
    from plyer.facades import Notification

    return getattr(backend.notify, "__func__", None) is not Notification.notify


def _print(*lines: str) -> None:
    """Print on the stdout of this moment, in one piece; where that is closed, on a stream that is not."""
    text = "".join(_CONTROL.sub(_escape, line) + "\n" for line in lines)
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        if stream is None:
            continue
        try:
            encoding = getattr(stream, "encoding", None) or "utf-8"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            if hasattr(stream, "flush"):
                stream.flush()
        except Exception:
            continue
        return


def _escape(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode()
