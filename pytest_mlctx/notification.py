"""An alert when the session ends, as ``--mlctx-notify`` asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_mlctx.settings import Settings

_COUNTED = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")


def send(
    settings: Settings, terminalreporter: pytest.TerminalReporter, exitstatus: int, seconds: float
) -> None:
    """Say how the session went, where ``--mlctx-alerts`` says that alerts go."""
    good = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if good and settings.notify == "failure":
        return
    from pytest_mlctx.logs import load_loguru

    load_loguru()
    from pytest_mlctx.services import AlertsService

    stats = terminalreporter.stats
    counts = [f"{len(stats[what])} {what}" for what in _COUNTED if stats.get(what)]
    ended = "interrupted" if exitstatus == pytest.ExitCode.INTERRUPTED else "passed" if good else "failed"
    AlertsService(
        enable=settings.alerts == "desktop", level="OFF" if settings.alerts == "off" else "INFO"
    ).notify(
        f"Tests {ended}",
        f"{', '.join(counts) or 'no tests'} in {seconds:.1f} s, experiment {settings.experiment}",
        level="SUCCESS" if good else "ERROR",
    )
