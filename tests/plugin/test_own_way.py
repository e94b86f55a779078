"""A suite that goes its own way passes with the plugin in force as it does without."""

from __future__ import annotations

import re

import pytest

SUITE = """
    import os
    import subprocess
    import sys

    import mlflow
    import pytest


    @pytest.fixture
    def own(tmp_path):
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/own.db")
        yield mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(None)
        mlflow.tracking.fluent._active_experiment_id = None
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


    def experiment_of(run):
        return mlflow.get_experiment(run.info.experiment_id).name


    def test_a_store_of_the_tests_own_has_the_default_experiment(own):
        with mlflow.start_run() as run: pass
        assert experiment_of(run) == "Default"
        assert mlflow.search_runs(output_format="list")[0].info.run_id == run.info.run_id


    def test_experiments_of_a_store_of_the_tests_own_are_not_hit_by_number(own):
        client = mlflow.MlflowClient()
        for name in ("one", "two", "three"):
            client.create_experiment(name)
        with mlflow.start_run() as run: pass
        assert experiment_of(run) == "Default"


    def test_the_registry_follows_the_tracking_store(own):
        assert mlflow.get_registry_uri() == own
        mlflow.MlflowClient().create_registered_model("mine")
        assert [model.name for model in mlflow.MlflowClient(own).search_registered_models()] == ["mine"]


    def test_an_experiment_that_the_test_sets_is_the_one(own):
        mlflow.set_experiment("mine")
        with mlflow.start_run() as run: pass
        assert experiment_of(run) == "mine"


    def test_a_child_process_finds_the_default_experiment_too(own, tmp_path):
        code = "import mlflow; print(mlflow.start_run().info.experiment_id)"
        child = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert mlflow.get_experiment(child.stdout.split()[-1]).name == "Default"


    @pytest.fixture
    def caplog(caplog):
        "The recipe of loguru's documentation, from a thread."
        from loguru import logger

        key = logger.add(caplog.handler, format="{message}", level=0, enqueue=True)
        yield caplog
        try:
            logger.remove(key)
        except ValueError:
            pass  # the code under test has removed all


    def test_each_record_is_there_once(caplog):
        from loguru import logger

        logger.info("once")
        logger.complete()
        assert caplog.messages == ["once"]


    def test_an_application_that_sets_up_logging(capsys):
        from loguru import logger

        logger.remove()
        key = logger.add(lambda message: print(message, end=""), format="{message}")
        logger.info("started")
        logger.remove(key)
        assert capsys.readouterr().out == "started\\n"
        logger.add(sys.stderr)


    def test_a_mock_of_plyer(monkeypatch):
        from plyer import notification

        told = []
        monkeypatch.setattr("plyer.notification.notify", lambda **fields: told.append(fields))
        notification.notify(title="title", message="message")
        assert told == [{"title": "title", "message": "message"}]


    def test_the_store_is_named_by_a_variable(tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
        with mlflow.start_run() as run: pass
        assert experiment_of(run) == "Default"
        assert mlflow.get_tracking_uri().endswith("named.db")


    def test_the_experiment_is_named_by_a_variable(tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by-name")
        with mlflow.start_run() as run: pass
        assert experiment_of(run) == "by-name"


    def test_the_experiment_is_named_by_its_id(tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mlflow.create_experiment("by-id"))
        with mlflow.start_run() as run: pass
        assert experiment_of(run) == "by-id"


    def test_a_run_of_another_experiment_is_resumed_by_a_variable(monkeypatch, tmp_path):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
        client = mlflow.MlflowClient()
        begun = client.create_run(client.create_experiment("other"))
        monkeypatch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
        with mlflow.start_run() as run: pass
        assert run.info.run_id == begun.info.run_id
"""
# Where no store is named these go to the service's own; without it they would write to the working folder.
ON_THE_SERVICES_STORE = """
    import mlflow
    import pytest


    def test_the_experiment_is_named_by_a_variable(mlflow_service, monkeypatch):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by-name")
        with mlflow.start_run() as run: pass
        assert mlflow.get_experiment(run.info.experiment_id).name == "by-name"
        monkeypatch.undo()
        with mlflow.start_run() as run: pass
        assert mlflow.get_experiment(run.info.experiment_id).name == mlflow_service.experiment_name


    def test_the_experiment_is_named_by_its_id(mlflow_service, monkeypatch):
        made = mlflow.MlflowClient().create_experiment("by-id")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", made)
        with mlflow.start_run() as run: pass
        assert run.info.experiment_id == made


    def test_a_run_of_another_experiment_is_resumed_by_a_variable(mlflow_service, monkeypatch):
        client = mlflow.MlflowClient()
        begun = client.create_run(client.create_experiment("other"))
        monkeypatch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
        with mlflow.start_run() as run: pass
        assert run.info.run_id == begun.info.run_id


    def test_back_on_the_services_store_its_experiment_holds(mlflow_service, tmp_path):
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/own.db")
        with mlflow.start_run() as run: pass
        assert mlflow.get_experiment(run.info.experiment_id).name == "Default"
        mlflow.set_tracking_uri(mlflow_service.tracking_uri)
        assert mlflow.get_registry_uri() == mlflow_service.registry_uri
        with mlflow.start_run() as run: pass
        assert mlflow.get_experiment(run.info.experiment_id).name == mlflow_service.experiment_name


    def test_code_finds_no_variable_and_mlflow_tracks_to_the_services_store(mlflow_service, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        assert mlflow.get_tracking_uri() == mlflow_service.tracking_uri
        with mlflow.start_run() as run: pass
        assert mlflow_service.client().get_run(run.info.run_id)


    def test_tags_are_those_that_the_code_has_set(mlflow_service):
        with mlflow.start_run(tags={"mine": "1"}) as run: pass
        tags = mlflow.get_run(run.info.run_id).data.tags
        assert {name: tags[name] for name in tags if not name.startswith("mlflow.")} == {"mine": "1"}


    def test_no_store_is_the_services_store(mlflow_service):
        mlflow.set_tracking_uri(None)
        assert mlflow.get_tracking_uri() == mlflow_service.tracking_uri
"""
REVERSED = "def pytest_collection_modifyitems(items): items.reverse()"
AUTOUSE = "mlctx_autouse = logger alerts mlflow"


@pytest.fixture
def session(pytester: pytest.Pytester, no_other_plugin: None, monkeypatch: pytest.MonkeyPatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    return pytester


@pytest.mark.parametrize(
    ("ini", "conftest", "args"),
    [
        pytest.param("", "", ["-p", "no:mlctx"], marks=pytest.mark.slow),
        pytest.param("", "", [], marks=pytest.mark.slow),
        (AUTOUSE, "", []),
        pytest.param(
            AUTOUSE + "\nmlctx_leaks = error",
            REVERSED,
            ["-k", "not application"],  # that one leaves handlers
            marks=pytest.mark.slow,
        ),
        (AUTOUSE, "", ["-p", "xdist", "-n2"]),
    ],
    ids=["without", "unused", "in force", "reversed and judged", "workers"],
)
def test_what_passes_without_passes_with(
    session: pytest.Pytester, ini: str, conftest: str, args: list[str]
) -> None:
    session.makeini(f"[pytest]\n{ini}\n")
    session.makepyfile(SUITE)
    session.makeconftest(conftest)
    tests = len(re.findall("def test_", SUITE)) - ("-k" in args)
    session.runpytest_subprocess(*args).assert_outcomes(passed=tests, deselected="-k" in args)


def test_what_a_test_sets_itself_is_followed_on_the_services_store(
    mlflow_imported: None, session: pytest.Pytester
) -> None:
    session.makepyfile(ON_THE_SERVICES_STORE)
    result = session.runpytest_inprocess("--mlctx-leaks=warn")
    result.assert_outcomes(passed=7)


def test_tracing_that_a_conftest_switched_off_stays_off(session: pytest.Pytester) -> None:
    session.makeconftest("import mlflow\nmlflow.tracing.disable()")
    session.makepyfile("""
        import mlflow

        @mlflow.trace
        def traced(): return 1

        def test_off(mlflow_service):
            assert traced() == 1
            assert mlflow.search_traces(return_type="list") == []
            mlflow.set_tracking_uri(mlflow_service.tracking_uri)

        def test_off_in_a_sandbox(mlflow_sandbox):
            assert traced() == 1
            assert mlflow.search_traces(return_type="list") == []
    """)
    session.runpytest_subprocess().assert_outcomes(passed=2)
