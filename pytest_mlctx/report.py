"""The lines that a session writes to the terminal: made here, written by the hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from pytest_mlctx.session import Session


def header(session: Session) -> list[str]:
    """One line: each service, where it leads, the experiment, and what ambient variable is not followed."""
    settings = session.settings
    store = _shown(settings.tracking_uri) if settings.tracking_uri else "temporary SQLite"
    if settings.registry_uri:
        store += f", registry {_shown(settings.registry_uri)}"
    sink = session.log_sink or "temporary file"
    parts = [
        f"mlflow: {store}, experiment {settings.experiment!r}",
        f"log: {sink} at {settings.log_level}",
        f"alerts: {settings.alerts}",
    ]
    if settings.autouse:
        origin = " ".join(settings.autouse)
        parts.append(f"autouse: {origin}")
    parts += [f"{name}={_shown(uri)} is not followed" for name, uri in session.hermetic.ambient.items()]
    return ["mlctx: " + "; ".join(parts)]


def _shown(uri: str) -> str:
    from pytest_mlctx.services import secrets

    return secrets.redact(uri)
