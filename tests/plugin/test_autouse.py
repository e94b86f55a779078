from __future__ import annotations

import contextlib
import os
import sqlite3

import pytest

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")


def test_services_run_for_every_kind_of_test(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmlctx_autouse = logger alerts mlflow\nmlctx_experiment = all")
    pytester.makepyfile(
        test_it="""
        import asyncio, unittest
        import mlflow, pytest
        from pytest_mlctx import AlertsService, LoggerService, MlflowService

        def running():
            assert LoggerService.current().running
            assert AlertsService.current().running
            assert mlflow.get_tracking_uri() == MlflowService.current().tracking_uri
            with mlflow.start_run() as run:
                return mlflow.get_experiment(run.info.experiment_id).name

        def documented():
            '''
            >>> running()
            'all'
            '''

        def test_function():
            assert running() == "all"

        class TestClass:
            def setup_method(self):
                assert running() == "all"

            def test_method(self): pass

        class TestUnit(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.experiment = running()

            def setUp(self):
                self.assertEqual(running(), "all")

            def test_method(self):
                self.assertEqual(self.experiment, "all")

        class TestUnitAsync(unittest.IsolatedAsyncioTestCase):
            async def test_method(self):
                self.assertEqual(await asyncio.to_thread(running), "all")

        def setup_module():
            assert running() == "all"

        @pytest.fixture(scope="session", autouse=True)
        def another():
            assert running() == "all"

        @pytest.mark.parametrize("run", range(2))
        def test_values(run):
            assert running() == "all"

        @pytest.mark.asyncio
        async def test_async():
            assert running() == "all"
        """
    )
    result = pytester.runpytest_inprocess("-p", "asyncio", "--doctest-modules", "-W", "ignore")
    result.assert_outcomes(passed=8)


@pytest.mark.parametrize(
    "named", [[], ["--mlctx-tracking-uri=sqlite:///runs.db"]], ids=["temporary", "named"]
)
def test_the_environment_holds_from_before_the_first_conftest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, named: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow")
    pytester.makeconftest("""
        import os

        bound = os.environ["MLFLOW_TRACKING_URI"]  # as a default argument of a library is
    """)
    pytester.makepyfile("""
        import conftest, mlflow

        def test():
            assert mlflow.get_tracking_uri() == conftest.bound
            client = mlflow.MlflowClient(conftest.bound)
            run = client.create_run("0")
            assert mlflow.get_run(run.info.run_id).info.run_id == run.info.run_id
    """)
    pytester.runpytest_inprocess(*named).assert_outcomes(passed=1)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("uri", [None, "sqlite:///runs.db"])
def test_a_conftest_may_set_options(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, uri: str | None
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow")
    pytester.makeconftest(f"""
        import os

        bound = os.environ["MLFLOW_TRACKING_URI"]

        def pytest_configure(config):
            config.option.mlctx_experiment = "by the conftest"
            config.option.mlctx_tag = ["team=fraud"]
            config.option.mlctx_tracking_uri = {uri!r}
    """)
    pytester.makepyfile(f"""
        import conftest, mlflow, os

        uri = os.environ["MLFLOW_TRACKING_URI"]

        def test():
            assert mlflow.get_tracking_uri() == uri == os.environ["MLFLOW_REGISTRY_URI"]
            assert (uri == conftest.bound) is ({uri!r} is None)
            with mlflow.start_run() as run:
                pass
            assert mlflow.get_experiment(run.info.experiment_id).name == "by the conftest"
            assert mlflow.get_run(run.info.run_id).data.tags["team"] == "fraud"
    """)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        pytester.runpytest_inprocess(f"--basetemp={temporary}/base").assert_outcomes(passed=1)
    assert (pytester.path / "runs.db").exists() is (uri is not None)
    assert [path.name for path in temporary.iterdir()] == ["base"]


def test_a_bad_value_of_a_conftest_is_one_sentence(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow")
    pytester.makeconftest("def pytest_configure(config): config.option.mlctx_leaks = 'no'")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--mlctx-leaks: 'no' is not known, use one of*"])


def test_a_conftest_that_cannot_be_imported_leaves_the_process_as_it_was(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    pytester.makeini("[pytest]\nmlctx_autouse = logger alerts mlflow")
    pytester.makeconftest("import nothing_of_that_name")
    pytester.makepyfile("def test(): pass")
    before = dict(os.environ)
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "nothing_of_that_name" in str(result.stderr)
    assert {**os.environ, "PYTEST_VERSION": ""} == {**before, "PYTEST_VERSION": ""}
    assert list(temporary.iterdir()) == []


def test_help_leaves_nothing(pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        for ask in ("--help", "--version", "--fixtures", "--markers"):
            result = pytester.runpytest_inprocess(ask, "-o", "mlctx_autouse=mlflow")
            assert result.ret == pytest.ExitCode.OK
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_the_next_session_takes_away_what_a_killed_one_left_and_leaves_nothing(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, links: bool
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    killed = temporary / "pytest-mlctx-killed"
    killed.mkdir()
    os.utime(killed, (0, 0))
    pytester.makeini("[pytest]\nmlctx_autouse = mlflow\nmlctx_isolation = session")
    pytester.makepyfile("import mlflow\ndef test():\n    with mlflow.start_run(): pass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        if not links:
            patch.setattr("pathlib.Path.symlink_to", _refused)
        pytester.runpytest_inprocess(f"--basetemp={temporary}/base").assert_outcomes(passed=1)
    assert [path.name for path in temporary.iterdir()] == ["base"]
    with contextlib.closing(sqlite3.connect(temporary / "base" / "mlctx" / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def _refused(*_args: object, **_kwargs: object) -> None:
    raise OSError("A required privilege is not held by the client")


def test_fixtures_of_the_suites_own_under_the_names_of_ours_go_on_beside_them(
    pytester: pytest.Pytester, mlflow_imported: None, no_other_plugin: None
) -> None:
    pytester.makeini("[pytest]\nmlctx_autouse = logger alerts mlflow")
    pytester.makeconftest(
        """
        import mlflow, pytest

        @pytest.fixture(autouse=True)
        def mlflow_service(tmp_path):
            before = mlflow.get_tracking_uri()
            mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/own.db")
            yield "their own"
            mlflow.set_tracking_uri(before)

        @pytest.fixture(scope="session")
        def alerts_service():
            return "theirs too"
        """
    )
    pytester.makepyfile(
        """
        import mlflow
        from plyer import notification

        def test_it(mlflow_service, alerts_service, alerts_outbox, tmp_path):
            assert (mlflow_service, alerts_service) == ("their own", "theirs too")
            with mlflow.start_run():
                pass
            assert (tmp_path / "own.db").exists()
            notification.notify(title="told", message="it is")
            assert [alert.title for alert in alerts_outbox] == ["told"]
        """
    )
    pytester.runpytest_inprocess("--mlctx-leaks=error").assert_outcomes(passed=1)
