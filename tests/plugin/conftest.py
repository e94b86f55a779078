from __future__ import annotations

from collections.abc import Iterator

import pytest
from listening import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback that tells who has come."""
    server = Server()
    yield server
    server.close()
