"""The lines of the terminal header and summary; the hooks write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pytest_mlctx import findings, fixture_registry

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pytest_mlctx.session import Session

# Shown where they were given; what they say is of interest to nobody else.
_MODES = ("isolation", "remote", "requirements", "stores", "leaks", "baseline", "notify")


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
        used = set[str]().union(*map(fixture_registry.services_of, items))
        lines = {name: line for name, line in lines.items() if name in used}
    parts = [f"{name}: {line}" for name, line in lines.items()]
    parts += [f"{name}: {getattr(settings, name)}" for name in _MODES if settings.origins[name] != "default"]
    if settings.record:
        from pytest_mlctx.services.credentials import redact

        parts.append(f"records: {redact(settings.record)}, experiment {settings.experiment!r}")
    if settings.autouse:
        parts.append(f"autouse: {' '.join(settings.autouse)}")
    from_ini = [name for name, origin in settings.origins.items() if origin == "ini"]
    if from_ini:
        parts.append(f"from ini: {' '.join(from_ini)}")
    return ["mlctx: " + "; ".join(parts)]


def _tracking(session: Session) -> str:
    from pytest_mlctx.services.credentials import redact

    settings = session.settings
    store = redact(settings.tracking_uri) if settings.tracking_uri else "temporary store"
    if settings.registry_uri:
        store += f", registry {redact(settings.registry_uri)}"
    ambient = [
        f"{name}={redact(uri)}"
        for name, uri in session.environment.ambient.items()
        if uri and uri not in (settings.tracking_uri, settings.registry_uri)
    ]
    aside = f" ({', '.join(ambient)} not followed)" if ambient else ""
    return f"{store}, experiment {settings.experiment!r}{aside}"


def summary(
    session: Session, reports: Iterable[Any], left: list[Path], *, quiet: bool, verbose: bool
) -> list[tuple[str, list[str]]]:
    """What stands at the end: for each part its title, or none, and its lines.

    Args:
        session: whose tests these were.
        reports: of the tests, of any kind: plugins have categories of their own.
        left: new files of MLflow's, in a session that used no service.
        quiet: whether what was used is not to be told.
        verbose: whether each gate is to be told.
    """
    parts = [("", [] if quiet else session.workers.header)]
    carried = list(reports)
    for kind in findings.KINDS:
        found = kind.attached(carried)
        if kind is findings.UnclosedRuns and session.active:
            found.append(session.tracking.unclosed)  # of a test that was interrupted, which gets no report
        if kind is findings.UnclosedRuns and session.workers.left_open:
            found.append(session.workers.left_open)
        if kind is findings.DefaultStoreUse and left:
            from pytest_mlctx import default_store

            found.append(default_store.writer(left, carried))
        if found:
            parts.append(kind.told(found, checks_every_test=session.checks_every_test))
    if session.recording is not None:
        parts.append(("", session.recording.lines(quiet=quiet, verbose=verbose)))
    return [(title, lines) for title, lines in parts if lines]
