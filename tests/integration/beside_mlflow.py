"""A suite that is run twice, by MLflow alone and with this plugin: what each test can read is compared."""

from __future__ import annotations

FIXTURES = """
import json
import mlflow, pytest

PLAIN = PLAIN_MLFLOW
found = {}

@pytest.fixture(scope="session")
def own_store(tmp_path_factory):
    from pytest_mlctx.services.store import template
    path = tmp_path_factory.mktemp("plain") / "mlflow.db"
    path.write_bytes(template.image(None))  # as MLflow's migrations would have made it in seconds
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    yield
    mlflow.set_tracking_uri(before)

@pytest.fixture(autouse=True)
def compared(request):
    if PLAIN:
        request.getfixturevalue("own_store")
        mlflow.set_experiment(request.node.name)
    else:
        request.getfixturevalue("mlflow_service")
    yield
    if PLAIN:
        mlflow.flush_trace_async_logging()
    found[request.node.name] = look()
    with open("found.json", "w") as file:
        json.dump(found, file)
"""


def suite(tests: str, *, plain: bool) -> str:
    """The source of a test module: its function ``look`` gives what is compared, as JSON takes it."""
    return FIXTURES.replace("PLAIN_MLFLOW", str(plain)) + tests
