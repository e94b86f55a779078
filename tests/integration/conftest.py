from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import mlflow_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server for all tests: it takes seconds to come up."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url
