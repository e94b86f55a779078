"""What all tests share: an environment without the outer run's traces, and pytester."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ("pytester",)

_OUTER = ("MLFLOW_", "_MLFLOW_", "OTEL_", "PYTEST_XDIST_", "MLCTX_")


@pytest.fixture(autouse=True, scope="session")
def _no_outer_environment() -> None:
    """Tests that start processes must not hand them what the outer run was given."""
    for name in [name for name in os.environ if name.startswith(_OUTER) and name != "MLCTX_CACHE_DIR"]:
        if not name.startswith("PYTEST_XDIST_"):
            del os.environ[name]
