"""The autouse fixture that starts the services named in ini; registered only where ini names some."""

from __future__ import annotations

import pytest

from pytest_mlctx.session import Session


@pytest.fixture(scope="session", autouse=True)
def _mlctx_autouse(request: pytest.FixtureRequest) -> None:
    """Start the services that the ini option mlctx_autouse names."""
    for service in Session.of(request.config).settings.autouse:
        request.getfixturevalue(f"_mlctx_{service}")
