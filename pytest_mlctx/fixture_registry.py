"""The fixtures of this plugin: the service that each uses, and which of them a test requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_mlctx import pytest_internals

_SERVICES = {
    "logger_service": "logger_service",
    "alerts_service": "alerts_service",
    "alerts_outbox": "alerts_service",
    "mlflow_service": "mlflow_service",
    "mlflow_sandbox": "mlflow_service",
    "mlflow_sandbox_factory": "mlflow_service",
    "mlflow_run": "mlflow_service",
    "mlflow_traces": "mlflow_service",
}


def services_of(item: pytest.Item) -> set[str]:
    """The services that a test is known to use before it runs; a user's own `mlflow_run` is none of ours."""
    definitions = pytest_internals.definitions(item)
    requested = _SERVICES.keys() & definitions.keys()
    return {_SERVICES[name] for name in requested if _leads_to_ours(name, definitions[name])}


def uses_a_service(item: pytest.Item) -> bool:
    """Whether a test is known to use a service of ours."""
    return bool(services_of(item))


def _leads_to_ours(name: str, candidates: Sequence[pytest.FixtureDef[Any]]) -> bool:
    """Whether the fixture in force, the last one, is ours or asks for the one that it overrides."""
    for fixturedef in reversed(candidates):
        if fixturedef.func.__module__ == "pytest_mlctx.fixtures":
            return True
        if name not in fixturedef.argnames:
            return False
    return False
