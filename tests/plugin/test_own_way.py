"""A suite that goes its own way passes with the plugin in force as it does without."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

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
SUITE = Path(__file__).with_name("own_way.py")
LIMITS = Path(__file__).parents[2] / "docs" / "limits.md"


class Limit(NamedTuple):
    """What passes without the plugin and not with it."""

    service: str
    sentence: str
    """Why, in the words of docs/limits.md."""
    options: str = ""
    """With which it passes."""


SHORT_LIST = {
    "test_an_application_counts_its_handlers": Limit("logger", "who counts loguru's handlers finds one more"),
    "test_2_reads": Limit(
        "mlflow", "reads what another logged wants `--mlctx-isolation=session`", "--mlctx-isolation=session"
    ),
    "test_the_experiment_is_the_default_one": Limit(
        "mlflow", "`--mlctx-experiment=Default` is MLflow's own", "--mlctx-experiment=Default"
    ),
    "test_a_server_that_is_mocked": Limit(
        "mlflow", "whose mocks answer for a server takes `--mlctx-remote=allow`", "--mlctx-remote=allow"
    ),
    "test_code_asks_whether_the_variable_is_set": Limit(
        "mlflow", "is set is told yes", "-p without_variable"
    ),
    "test_dotenv_names_the_store": Limit("mlflow", "`load_dotenv` leaves alone", "-p without_variable"),
    "test_a_child_process_has_the_store_of_its_folder": Limit(
        "mlflow", "reads `./mlruns` or `mlflow.db` of its own folder", "-p without_variable"
    ),
    "test_the_working_folder_has_the_store": Limit("mlflow", "looks for `mlflow.db` or `mlruns`"),
}
# These leave behind what they set up: a judge of leaks names them, and no other.
LEFT = {
    "test_a_level_of_loguru_of_ones_own",
    "test_a_level_of_ones_own",
    "test_an_application_counts_its_handlers",
    "test_an_application_sets_up_logging",
    "test_an_application_sets_up_logging_twice",
    "test_logging_goes_to_loguru_once",
    "test_logging_is_configured_by_a_dictionary",
    "test_logging_is_configured_by_a_file",
    "test_loguru_is_configured",
    "test_the_default_handler_is_removed_by_its_number",
    "test_the_file_descriptor_has_what_loguru_writes",
}
# The remedy of docs/limits.md.
WITHOUT_VARIABLE = """
    import pytest

    @pytest.fixture(autouse=True)
    def without_variable(monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
"""
REVERSED = "def pytest_collection_modifyitems(items): items.reverse()"


@pytest.fixture
def session(pytester: pytest.Pytester, no_other_plugin: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    return pytester


def failures(session: pytest.Pytester, *args: str) -> set[str]:
    """The names of the tests that do not pass, of the suite as it is run with these arguments."""
    session.makepyfile(test_it=SUITE.read_text())
    result = session.runpytest_subprocess(
        "--strict-markers", "-o", "markers=dear", "--junitxml=it.xml", *args
    )
    assert result.ret in (0, 1)
    cases = [*ElementTree.parse("it.xml").iter("testcase")]
    assert len(cases) > 90 or "-k" in args
    return {case.attrib["name"] for case in cases if {child.tag for child in case} & {"failure", "error"}}


@pytest.mark.parametrize(
    ("services", "order", "args"),
    [
        pytest.param("", "", "-p no:mlctx", marks=pytest.mark.slow, id="without"),
        pytest.param("", "", "", marks=pytest.mark.slow, id="unused"),
        pytest.param("logger", "", "--mlctx-stores=template", marks=pytest.mark.slow, id="logger"),
        pytest.param("alerts", "", "--mlctx-stores=template", marks=pytest.mark.slow, id="alerts"),
        pytest.param("mlflow", "", "", marks=pytest.mark.slow, id="mlflow"),
        pytest.param("logger alerts mlflow", "", "", marks=pytest.mark.slow, id="all"),
        pytest.param("logger alerts mlflow", REVERSED, "", marks=pytest.mark.slow, id="reversed"),
        pytest.param("logger alerts mlflow", "", "-p xdist -n2", marks=pytest.mark.slow, id="workers"),
        pytest.param(
            "logger alerts mlflow",
            REVERSED,
            "--mlctx-leaks=error -m not_dear",
            marks=pytest.mark.slow,
            id="judged",
        ),
        pytest.param("logger alerts mlflow", "", "-m not_dear", id="sample"),
    ],
)
def test_what_passes_without_passes_with(
    session: pytest.Pytester, services: str, order: str, args: str
) -> None:
    session.makeini(f"[pytest]\nmlctx_autouse = {services}\n" if services else "[pytest]\n")
    session.makeconftest(order)
    known = {name for name, limit in SHORT_LIST.items() if limit.service in services.split()}
    if "not_dear" in args:
        known.discard("test_a_child_process_has_the_store_of_its_folder")
    if "leaks" in args:
        known |= LEFT
    assert failures(session, *(each.replace("_", " ") for each in args.split())) == known


@pytest.mark.parametrize("options", sorted({limit.options for limit in SHORT_LIST.values()} - {""}))
@pytest.mark.slow
def test_what_isolation_takes_away_an_option_gives_back(session: pytest.Pytester, options: str) -> None:
    session.makeini("[pytest]\nmlctx_autouse = logger alerts mlflow\n")
    session.makepyfile(without_variable=WITHOUT_VARIABLE)
    session.syspathinsert()
    given = [name for name, limit in SHORT_LIST.items() if limit.options == options]
    more = ["TestOneAfterTheOther"] if "test_2_reads" in given else given
    assert failures(session, *options.split(), "-k", " or ".join(more)) == set()


def test_a_store_that_a_module_sets_when_it_is_imported_is_set_aside(
    mlflow_imported: None, put_back: None, session: pytest.Pytester
) -> None:
    session.makeini("[pytest]\nmlctx_autouse = mlflow\n")
    session.makepyfile("""
        import mlflow
        import pytest
        mlflow.set_tracking_uri("sqlite:///own.db")

        def test_set_aside(mlflow_service):
            assert mlflow.get_tracking_uri() == mlflow_service.tracking_uri

        @pytest.fixture
        def own():
            mlflow.set_tracking_uri("sqlite:///own.db")

        def test_set_in_a_fixture(own):
            assert mlflow.get_tracking_uri() == "sqlite:///own.db"
    """)
    session.runpytest_inprocess().assert_outcomes(passed=2)
    assert "set aside when the service starts: set it in a fixture" in LIMITS.read_text()


def test_each_limit_has_its_sentence() -> None:
    text = " ".join(LIMITS.read_text().split())
    assert [limit.sentence for limit in SHORT_LIST.values() if limit.sentence not in text] == []


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
