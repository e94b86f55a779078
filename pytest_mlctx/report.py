"""The lines that a session writes to the terminal: made here, written by the hooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pytest_mlctx.session import Session

_FIXTURES = {
    "mlflow_service": {"mlflow_service", "mlflow_sandbox", "mlflow_run"},
    "logger_service": {"logger_service"},
    "alerts_service": {"alerts_service", "alerts_outbox"},
}
# Shown where they were given; what they say is of interest to nobody else.
_MODES = ("isolation", "remote", "requirements", "leaks")


def wanted(config: pytest.Config) -> bool:
    """Whether the line is wanted after collection: pytest itself keeps its header back under ``-q``."""
    option = config.option
    return option.verbose >= 0 and not option.no_header and not option.collectonly


def header(session: Session, items: Iterable[pytest.Item] | None = None) -> list[str]:
    """One line: where each service leads, what was chosen, what ambient variable is not followed.

    Args:
        session: whose settings are told.
        items: the tests; given these, only the services are told that they use.
    """
    settings = session.settings
    lines = {
        "mlflow_service": _tracking(session),
        "logger_service": f"{session.log_sink or 'temporary file'}, {settings.log_level}",
        "alerts_service": settings.alerts,
    }
    if items is not None:
        used = {name for item in items for name in getattr(item, "fixturenames", ())}
        lines = {name: line for name, line in lines.items() if used & _FIXTURES[name]}
    parts = [f"{name}: {line}" for name, line in lines.items()]
    parts += [f"{name}: {getattr(settings, name)}" for name in _MODES if settings.origins[name] != "default"]
    if settings.autouse:
        parts.append(f"autouse: {' '.join(settings.autouse)}")
    from_ini = [name for name, origin in settings.origins.items() if origin == "ini"]
    if from_ini:
        parts.append(f"from ini: {' '.join(from_ini)}")
    return ["mlctx: " + "; ".join(parts)]


def _tracking(session: Session) -> str:
    from pytest_mlctx.services.secrets import redact

    settings = session.settings
    store = redact(settings.tracking_uri) if settings.tracking_uri else "temporary store"
    if settings.registry_uri:
        store += f", registry {redact(settings.registry_uri)}"
    ambient = [
        f"{name}={redact(uri)}"
        for name, uri in session.hermetic.ambient.items()
        if uri and uri not in (settings.tracking_uri, settings.registry_uri)
    ]
    aside = f" ({', '.join(ambient)} not followed)" if ambient else ""
    return f"{store}, experiment {settings.experiment!r}{aside}"


def leaks(mode: str, reports: Iterable[Any]) -> list[str]:
    """What the guard found, as the reports of the tests tell it: each finding, or one line with the count."""
    found = [report.mlctx_leaks for report in reports if hasattr(report, "mlctx_leaks")]
    if mode in ("warn", "error"):
        return [leak for of_a_test in found for leak in of_a_test]
    if not found:
        return []
    tests = "1 test" if len(found) == 1 else f"{len(found)} tests"
    return [f"mlctx: {tests} left the global context changed: --mlctx-leaks=warn tells what"]


def unclosed(reports: Iterable[Any], of_an_interrupted_test: Iterable[str]) -> list[str]:
    """Why runs of tests stay open in their store."""
    told = [why for report in reports for why in getattr(report, "mlctx_unclosed", ())]
    return [f"mlctx: {why}" for why in (*told, *of_an_interrupted_test)]


def models(reports: Iterable[Any]) -> list[str]:
    """What became of the requirements of models, where inferring them took more than a second."""
    told = [report.mlctx_models for report in reports if hasattr(report, "mlctx_models")]
    seconds = sum(of_a_test["seconds"] for of_a_test in told)
    if seconds <= 1:
        return []
    reused, inferred = (sum(of_a_test[what] for of_a_test in told) for what in ("reused", "inferred"))
    kinds = "1 kind" if inferred == 1 else f"{inferred} kinds"
    lines = [f"mlctx: requirements of {kinds} of model inferred in {seconds:.1f} s, {reused} reused"]
    return lines + [f"mlctx: {why}" for why in sorted({one["refused"] for one in told if one["refused"]})]
