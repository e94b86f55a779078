from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")

FIXTURES = {
    "logger_service", "alerts_service", "mlflow_service", "logger_config", "alerts_config", "mlflow_config",
    "alerts_outbox", "mlflow_run", "mlflow_sandbox", "mlflow_sandbox_factory", "mlflow_baseline",
    "mlflow_traces", "mlflow_server", "mlflow_server_config",
}  # fmt: skip


def test_the_fixtures_are_listed_with_a_line_each(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--fixtures")
    _, _, ours = str(result.stdout).partition("fixtures defined from pytest_mlctx.fixtures")
    lines = dict(re.findall(r"^(\w+)(?: \[session scope\])? -- .*\n    (.+)$", ours, re.MULTILINE))
    assert set(lines) == FIXTURES
    for line in lines.values():
        assert line.endswith(".")
        assert 40 < len(line) < 112


@pytest.mark.criterion("the running service is accessible throughout the application")
@pytest.mark.criterion("stop cleans up without errors")
def test_services_run_for_the_session_and_end_with_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import mlflow
        from pytest_mlctx import AlertsService, LoggerService, MlflowService

        def test_one(logger_service, alerts_service, mlflow_service):
            global services
            services = logger_service, alerts_service, mlflow_service

        def test_they_are_the_current_ones(logger_service, alerts_service, mlflow_service):
            assert (LoggerService.current(), AlertsService.current(), MlflowService.current()) == services
            assert mlflow.get_tracking_uri() == mlflow_service.tracking_uri
            assert mlflow.get_registry_uri() == mlflow_service.registry_uri
            assert mlflow_service.experiment_name == "demo"
            assert not AlertsService.current().enable

        def test_they_stay_in_force_for_who_does_not_ask():
            assert all(service.running for service in services)
    """)
    import mlflow

    before = mlflow.get_tracking_uri()
    pytester.runpytest_inprocess("--mlctx-experiment=demo").assert_outcomes(passed=3)
    from pytest_mlctx import Service, ServiceError

    assert mlflow.get_tracking_uri() == before
    with pytest.raises(ServiceError, match="No Service is running"):
        Service.current()


def test_dynamic_requests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        def test_service(request):
            service = request.getfixturevalue("mlflow_service")
            import mlflow
            with mlflow.start_run():
                assert mlflow.get_tracking_uri() == service.tracking_uri

        @pytest.mark.parametrize("name", ["logger_service", "alerts_service", "mlflow_run", "alerts_outbox"])
        def test_names(request, name):
            request.getfixturevalue(name)

        @pytest.mark.usefixtures("mlflow_run")
        def test_marked():
            import mlflow
            assert mlflow.active_run().info.run_name == "test_marked"
    """)
    pytester.runpytest_inprocess().assert_outcomes(passed=6)


@pytest.mark.criterion("alerts have a title and a message")
def test_the_outbox_holds_what_this_test_sent(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        from pytest_mlctx import Alert

        @pytest.fixture(scope="module", autouse=True)
        def shared(alerts_service):
            alerts_service.notify("of the module", "m")

        def test_one(alerts_service, alerts_outbox, capsys):
            alerts_service.notify("title", "message")
            alerts_service.notify("low", "message", level="DEBUG")
            assert alerts_outbox == [Alert("title", "message", "INFO"), Alert("low", "message", "DEBUG")]
            assert capsys.readouterr().out == "[pytest-mlctx] title: message\\n"

        def test_two(alerts_service, alerts_outbox):
            assert alerts_outbox == []
            assert [alert.title for alert in alerts_service.sent] == ["of the module", "title", "low"]
    """)
    pytester.runpytest_inprocess().assert_outcomes(passed=2)
    result = pytester.runpytest_inprocess("--mlctx-alerts=off", "-rP")
    result.assert_outcomes(passed=1, failed=1)  # nothing is printed
    result.stdout.no_fnmatch_line("[[]pytest-mlctx*")


@pytest.mark.criterion("sink, level and format can be customized before the start")
@pytest.mark.criterion("tracking URI and experiment are set on start")
def test_what_code_tells_plyer_itself_is_an_alert_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import plyer
        from plyer import notification
        from pytest_mlctx import Alert

        def test_recorded(alerts_outbox, capsys):
            notification.notify(title="title", message="message", app_name="theirs")
            plyer.notification.notify("positional", "message")
            assert alerts_outbox == [
                Alert("title", "message", "INFO"), Alert("positional", "message", "INFO")
            ]
            assert capsys.readouterr().out == (
                "[theirs] title: message\\n[pytest-mlctx] positional: message\\n"
            )

        def test_a_mock_wins(alerts_service, alerts_outbox, monkeypatch):
            seen = []
            monkeypatch.setattr("plyer.notification.notify", lambda **fields: seen.append(fields["title"]))
            notification.notify(title="title", message="message")
            assert seen == ["title"] and alerts_outbox == []

        def test_recorded_again(alerts_outbox):
            notification.notify(title="again", message="message")
            assert [alert.title for alert in alerts_outbox] == ["again"]
    """)
    pytester.makeconftest("""
        import plyer

        def pytest_unconfigure():
            backend = object.__getattribute__(plyer.notification, "_obj")
            assert type(backend).__module__ != "pytest_mlctx.services.alerts"
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_a_conftest_overrides_one_field(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def logger_config(logger_config, tmp_path_factory):
            return {**logger_config, "format": "<<{level}>> {message}",
                    "sink": str(tmp_path_factory.mktemp("x") / "own.log")}

        @pytest.fixture(scope="session")
        def alerts_config(alerts_config):
            return {**alerts_config, "app_name": "mine"}

        @pytest.fixture(scope="session")
        def mlflow_config(mlflow_config):
            return {**mlflow_config, "experiment_name": "of the conftest", "registry_name": "models"}
    """)
    pytester.makepyfile("""
        from pathlib import Path

        def test(logger_service, alerts_service, mlflow_service, capsys):
            import mlflow
            logger_service.logger().warning("hello")
            assert "<<WARNING>> hello" in Path(logger_service.sink).read_text()
            alerts_service.notify("a", "b")
            assert capsys.readouterr().out == "[mine] a: b\\n"
            with mlflow.start_run() as run:
                assert mlflow.get_experiment(run.info.experiment_id).name == "of the conftest"
            assert mlflow_service.registry_name == "models"
    """)
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["", "--mlctx-registry-uri=sqlite:///models.db"])
def test_another_tracking_uri_takes_the_registry_along_unless_that_was_asked_for(
    pytester: pytest.Pytester, option: str
) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def mlflow_config(mlflow_config):
            return {**mlflow_config, "tracking_uri": "sqlite:///own.db"}
    """)
    pytester.makepyfile(f"""
        def test(mlflow_service):
            import mlflow
            assert mlflow.get_registry_uri() == mlflow_service.registry_uri
            assert mlflow.get_registry_uri().endswith("models.db" if {option!r} else "sqlite:///own.db")
            assert mlflow.get_tracking_uri() == "sqlite:///own.db"
    """)
    pytester.runpytest_inprocess(*[option][: bool(option)]).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("fixture", "fields", "sentence"),
    [
        ("mlflow_config", {"trackin_uri": "x"}, "'trackin_uri' is not a field of MlflowService, did you"),
        ("logger_config", {"colour": True}, "'colour' is not a field of LoggerService, "),
        ("logger_config", {"level": "LOUD"}, "'level' of LoggerService: 'LOUD' is not a level of loguru's"),
        ("alerts_config", {"timeout": -1}, "'timeout' of AlertsService: Input should be greater than"),
        ("alerts_config", {"enable": "yes"}, "'enable' of AlertsService: Input should be a valid boolean"),
    ],
)  # fmt: skip
def test_a_bad_field_is_one_sentence_and_an_error_of_each_test_that_asked(
    pytester: pytest.Pytester, fixture: str, fields: dict[str, object], sentence: str
) -> None:
    pytester.makeconftest(f"""
        import pytest

        @pytest.fixture(scope="session")
        def {fixture}({fixture}):
            return {{**{fixture}, **{fields!r}}}
    """)
    service = fixture.replace("config", "service")
    pytester.makepyfile(f"""
        def test_before(): pass
        def test_asks({service}): pass
        def test_between(): pass
        def test_asks_too({service}): pass
        def test_after(): pass
    """)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=3, errors=2)
    said = [line for line in result.outlines if line.startswith(f"{fixture}: ")]
    assert len(said) == 1
    assert sentence in said[0]
    result.stdout.fnmatch_lines("as in *::test_asks")
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*fixtures.py:*")


@pytest.mark.parametrize("uri", ["sqlite:///{folder}", "http://me:geheim@127.0.0.1:9"])
def test_what_only_a_start_can_show_is_one_sentence_and_an_error_of_each_test_that_asked(
    pytester: pytest.Pytester, uri: str
) -> None:
    pytester.makepyfile("""
        def test_before(): pass
        def test_asks(mlflow_service): pass
        def test_between(alerts_service): pass
        def test_asks_too(mlflow_run): pass
    """)
    result = pytester.runpytest_inprocess(f"--mlctx-tracking-uri={uri.format(folder=pytester.path)}")
    result.assert_outcomes(passed=2, errors=2)
    said = [line for line in result.outlines if line.startswith("MlflowService.tracking_uri")]
    assert len(said) == 1
    result.stdout.fnmatch_lines("as in *::test_asks")
    output = str(result.stdout)
    assert "Traceback" not in output
    assert "geheim" not in output


def test_setup_plan_starts_nothing_and_setup_show_shows_all(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(logger_service, alerts_outbox, mlflow_run): pass")
    plan = ["*SETUP    S logger_service*", "*SETUP    S _mlctx_alerts*", "*SETUP    F mlflow_run*"]
    result = pytester.runpytest_inprocess("--setup-plan", "--mlctx-log-sink=run.log")
    assert result.ret == 0
    result.stdout.fnmatch_lines(plan)
    assert not (pytester.path / "run.log").exists()
    result = pytester.runpytest_inprocess("--setup-show", "--mlctx-log-sink=run.log")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([*plan[:2], "*SETUP    S mlflow_service*", plan[2]])
    assert (pytester.path / "run.log").exists()
