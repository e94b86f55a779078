"""``--mlctx-remote``: what becomes of the remote stores that the code under test names itself."""

from __future__ import annotations

import mlflow
import pytest
from listening import Server

MLFLOW_3 = int(mlflow.__version__.partition(".")[0]) >= 3

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")


REFUSED = """
    import mlflow
    import pytest
    from pytest_mlctx import ServiceError

    URIS = [
        "https://ada:hunter2@mlflow.invalid",
        "http://10.255.255.1:5000",
        "postgresql://ada:hunter2@db.invalid/mlflow",
        "mysql+pymysql://db.invalid/mlflow",
        "databricks",
        "databricks://profile",
    ]

    def refused(uri, work):
        with pytest.raises(ServiceError, match="is remote and was not asked for: start") as caught:
            work()
        assert repr(uri.replace("ada:hunter2", "***")) in str(caught.value)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("uri", URIS)
    def test_runs(mlflow_service, uri):
        mlflow.set_tracking_uri(uri)
        refused(uri, mlflow.start_run)
        refused(uri, lambda: mlflow.set_experiment("x"))
        refused(uri, mlflow.search_experiments)

    @pytest.mark.parametrize("uri", URIS)
    def test_an_explicit_client(mlflow_service, uri):
        refused(uri, lambda: mlflow.MlflowClient(uri).get_run("0" * 32))
        refused(uri, lambda: mlflow.MlflowClient(uri).search_traces(["0"]))
        refused(uri, lambda: mlflow.MlflowClient(registry_uri=uri).create_registered_model("m"))

    @pytest.mark.parametrize("uri", [*URIS, "databricks-uc"])
    def test_the_registry(mlflow_service, uri):
        mlflow.set_registry_uri(uri)
        refused(uri, lambda: mlflow.MlflowClient().search_registered_models())
        refused(uri, lambda: mlflow.sklearn.load_model("models:/m/1"))

    def test_the_next_test_tracks_as_always(mlflow_service):
        with mlflow.start_run():
            pass
        assert len(mlflow.search_runs()) == 1
"""


def test_by_default_remote_stores_are_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(REFUSED)
    pytester.runpytest_inprocess().assert_outcomes(passed=20)


def test_loopback_is_not_refused(pytester: pytest.Pytester, server: Server) -> None:
    pytester.makepyfile(
        f"""
        import mlflow
        import pytest

        def test_run(mlflow_service):
            with pytest.raises(mlflow.MlflowException):  # it answers nothing that MLflow reads
                mlflow.MlflowClient("{server.url}").get_run("0" * 32)
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert len(server.requests) == 1


REDIRECTED = """
    import mlflow
    import pytest
    from sklearn.linear_model import LinearRegression

    @pytest.mark.parametrize("uri", [{url!r}, "https://ada:pw@mlflow.invalid", "databricks", "postgresql://db.invalid/m"])
    def test_everything(mlflow_service, uri):
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        assert mlflow.get_tracking_uri() == uri
        mlflow.set_experiment("/Users/ada/production")
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 0.5)
            mlflow.log_text("text", "note.txt")
            logged = mlflow.sklearn.log_model(
                LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0]),
                "model",
                pip_requirements=[],
                serialization_format="cloudpickle",
            )
        mlflow.register_model(logged.model_uri, "m")
        mlflow.MlflowClient().set_registered_model_alias("m", "production", "1")
        loaded = mlflow.sklearn.load_model("models:/m@production")
        assert loaded.predict([[3.0]]).round(6).tolist() == [6.0]
        assert mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt") == "text"
        with mlflow.start_span("span"):
            pass
        client, traces = mlflow_service.client(), 1
        if {mlflow_3} or uri != "databricks":  # MLflow 2 asks Databricks by calls that a SQL store has not
            span = mlflow.MlflowClient(uri).start_trace("by a client", experiment_id=run.info.experiment_id)
            mlflow.MlflowClient(uri).end_trace(span.request_id)
            traces = 2

        assert client.get_run(run.info.run_id).data.metrics == {{"loss": 0.5}}
        assert client.get_model_version_by_alias("m", "production").run_id == run.info.run_id
        assert len(client.search_traces([run.info.experiment_id])) == traces
        assert mlflow.MlflowClient(uri, uri).get_run(run.info.run_id).info.status == "FINISHED"
"""


def test_redirected_the_temporary_store_is_used_under_that_name(
    pytester: pytest.Pytester, server: Server
) -> None:
    pytester.makepyfile(REDIRECTED.format(url=server.url, mlflow_3=MLFLOW_3))
    before = {path.name for path in pytester.path.iterdir()}
    pytester.runpytest_inprocess("--mlctx-remote=redirect").assert_outcomes(passed=4)
    assert server.requests == []
    assert {path.name for path in pytester.path.iterdir()} - {"__pycache__"} == before


def test_redirected_the_run_of_a_test_asks_no_server(pytester: pytest.Pytester, server: Server) -> None:
    pytester.makepyfile(
        f"""
        import mlflow
        import pytest

        @pytest.fixture
        def production(mlflow_service):
            mlflow.set_tracking_uri("{server.url}")
            yield
            mlflow.set_tracking_uri(mlflow_service.tracking_uri)

        def test_run(production, mlflow_run, mlflow_service):
            assert mlflow_service.client().get_run(mlflow_run.info.run_id).info.status == "RUNNING"
        """
    )
    pytester.runpytest_inprocess("--mlctx-remote=redirect").assert_outcomes(passed=1)
    assert server.requests == []


def test_allowed_the_remote_store_is_reached(
    pytester: pytest.Pytester, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # MLflow's own take minutes
    pytester.makepyfile(
        f"""
        import mlflow
        import pytest

        def test_run(mlflow_service):
            for uri in ("{server.url}", "http://mlflow.invalid"):
                mlflow.set_tracking_uri(uri)
                with pytest.raises(mlflow.MlflowException) as caught:
                    mlflow.start_run()
            assert "mlflow.invalid" in str(caught.value)
        """
    )
    pytester.runpytest_inprocess("--mlctx-remote=allow").assert_outcomes(passed=1)
    assert len(server.requests) >= 1


@pytest.mark.parametrize("where", ["mlflow_config", "option"])
def test_a_registry_that_was_asked_for_is_reached(
    pytester: pytest.Pytester, server: Server, where: str
) -> None:
    pytester.makeconftest(
        f"""
        import pytest

        @pytest.fixture(scope="session")
        def mlflow_config(mlflow_config):
            return {{**mlflow_config, "registry_uri": {server.url!r}}}
        """
        if where == "mlflow_config"
        else ""
    )
    pytester.makepyfile(
        f"""
        import mlflow
        import pytest

        def test_run(mlflow_service):
            assert mlflow_service.registry_uri == "{server.url}"
            with mlflow.start_run():
                pass
            with pytest.raises(mlflow.MlflowException):  # it answers nothing that MLflow reads
                mlflow.MlflowClient().create_registered_model("m")
        """
    )
    option = [f"--mlctx-registry-uri={server.url}"] if where == "option" else []
    pytester.runpytest_inprocess("--mlctx-remote=redirect", *option).assert_outcomes(passed=1)
    assert any(b"registered-models/create" in request for request in server.requests)
