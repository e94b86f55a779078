"""--mlctx-stores=template: the stores that a suite makes by itself are ready at once, its code unchanged."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin", "put_back")

SUITE = """
    import mlflow, pytest
    from mlflow.store.db import utils

    migrated, original = [], utils._upgrade_db

    @pytest.fixture(autouse=True, scope="module")
    def _seen():
        utils._upgrade_db = lambda engine: (migrated.append(engine.url.database), original(engine))
        before = mlflow.get_tracking_uri()
        yield
        mlflow.set_tracking_uri(before)
        utils._upgrade_db = original

    @pytest.fixture
    def store(tmp_path):
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
        mlflow.set_experiment("own")
        return tmp_path / "mlflow.db"

    @pytest.mark.parametrize("number", range(3))
    def test_run(store, number):
        with mlflow.start_run():
            mlflow.log_metric("number", number)
        mlflow.MlflowClient().create_registered_model("model")
        (run,) = mlflow.search_runs(output_format="list")
        assert run.data.metrics["number"] == number
        assert (str(store) in migrated) is EXPECTED
"""


@pytest.mark.parametrize(("args", "migrates"), [((), True), (("--mlctx-stores=template",), False)])
def test_a_suite_with_stores_of_its_own(
    pytester: pytest.Pytester, args: tuple[str, ...], migrates: bool
) -> None:
    pytester.makepyfile(test_it=SUITE.replace("EXPECTED", str(migrates)))
    pytester.runpytest_inprocess(*args, "--mlctx-leaks=off").assert_outcomes(passed=3)


def test_nothing_is_left_of_it(pytester: pytest.Pytester) -> None:
    from mlflow.store.db import utils

    before = utils._initialize_tables, utils._get_latest_schema_revision
    pytester.makepyfile("def test(): pass")
    pytester.runpytest_inprocess("--mlctx-stores=template").assert_outcomes(passed=1)
    assert (utils._initialize_tables, utils._get_latest_schema_revision) == before
