"""The guard's verdicts: who is named, what may stay, how it is told, what it costs."""

from __future__ import annotations

import logging
import os
import re
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HEAD = """
    import os, threading
    import mlflow, pytest
    from loguru import logger

    def experiment():
        return mlflow.get_experiment(mlflow.tracking.fluent._get_experiment_id()).name
"""


@pytest.fixture
def session(mlflow_imported: None, no_other_plugin: None, pytester: pytest.Pytester) -> Iterator[Any]:
    """Runs a suite in this process and gives its result, with what the guard found by test."""

    def run(source: str, *args: str, head: str = HEAD, leaks: str = "warn") -> Any:
        pytester.makepyfile(test_it=textwrap.dedent(head) + textwrap.dedent(source))
        mode = (f"--mlctx-leaks={leaks}",) if leaks else ()
        result = pytester.runpytest_inprocess(*mode, "-p", "no:cacheprovider", *args)
        result.leaks = found(result.reprec)
        return result

    yield run
    os.environ.pop("MLFLOW_X", None)


def found(recorder: pytest.HookRecorder) -> dict[str, str]:
    reports = recorder.getreports("pytest_runtest_logreport")
    return {
        report.nodeid.partition("::")[2]: "; ".join(report.mlctx_leaks)
        for report in reports
        if hasattr(report, "mlctx_leaks")
    }


SAME_EFFECT = {
    "URI": "own = mlflow.get_tracking_uri(); mlflow.set_tracking_uri(other); mlflow.set_tracking_uri(own)",
    "registry URI": "mlflow.set_registry_uri(mlflow.get_registry_uri())",
    "both": "mlflow.set_registry_uri(other); mlflow.set_registry_uri(mlflow.get_tracking_uri())",
    "autologging": "mlflow.sklearn.autolog(); mlflow.sklearn.autolog(disable=True)",
    "all autologging": "mlflow.autolog(log_models=False); mlflow.autolog(disable=True)",
    "tracing": "mlflow.tracing.disable(); mlflow.tracing.enable()",
    "loguru": "logger.disable('foo'); logger.enable('foo')",
    "loguru below": "logger.disable('foo'); logger.enable('foo'); logger.enable('foo.bar')",
    "level": "logging.getLogger().setLevel(logging.getLogger().level)",
    "logging": "logging.disable(40); logging.disable(0)",
    "variable": "os.environ['MLFLOW_X'] = '1'; del os.environ['MLFLOW_X']",
    "warnings": "logging.captureWarnings(True); logging.captureWarnings(False)",
    "a logger": "logging.getLogger(str(object())).addHandler(logging.NullHandler())",
    "run": "mlflow.start_run(); mlflow.end_run()",
}


@pytest.mark.parametrize("service", ["", "mlflow_service"], ids=["judged", "in force"])
def test_what_has_the_same_effect_as_before_is_no_leak(
    session: Any, service: str, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    tests = "".join(
        f"def test_{number}({service}):\n    other = 'sqlite:///other.db'\n    {code}\n"
        for number, code in enumerate(SAME_EFFECT.values())
        if service or not re.search("start_run|tracing", code)  # these make a store in the working folder
    )
    result = session(tests, head=textwrap.dedent(HEAD) + "\nimport logging, mlflow.sklearn\n")
    assert result.leaks == {}


def test_a_thread_of_a_fixture_ends_its_run_in_a_test(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def training(mlflow_service):
            opened, end = threading.Event(), threading.Event()

            def train():
                with mlflow.start_run():
                    opened.set()
                    end.wait()

            thread = threading.Thread(target=train)
            thread.start()
            opened.wait()
            yield lambda: (end.set(), thread.join())
            end.set()
            thread.join()

        def test_running(training): pass
        def test_ends(training): training()
        def test_ended(training): assert not mlflow.active_run()

        def test_after():  # whose thread may get the other's id
            def begin():
                with mlflow.start_run() as run: began.append(run)
            began = []
            thread = threading.Thread(target=begin)
            thread.start()
            thread.join()
            assert began
    """)
    result.assert_outcomes(passed=4)
    assert result.leaks == {}


def test_what_dict_config_changes_is_named_and_put_back(session: Any) -> None:
    result = session("""
        import logging, logging.config
        configured = logging.getLogger("theirs")
        handler, only = logging.NullHandler(), logging.Filter("theirs")
        configured.addHandler(handler)
        configured.addFilter(only)
        configured.setLevel("ERROR")
        configured.propagate = False

        def test_configures():
            logging.config.dictConfig({"version": 1, "loggers": {"theirs": {"level": "DEBUG"}}})
            logging.captureWarnings(True)
            assert logging.getLogger("mlflow").disabled

        def test_after():
            assert not logging.getLogger("mlflow").disabled
            assert (configured.level, configured.propagate, configured.disabled) == (40, False, False)
            assert configured.handlers[0] is handler and configured.filters == [only]
            assert logging._warnings_showwarning is None
    """)
    result.assert_outcomes(passed=2, warnings=1)
    (told,) = result.leaks.values()
    assert "logger 'theirs' configured otherwise" in told
    assert re.search(r"logger '[^']+' and \d+ other loggers disabled", told), told
    assert "captureWarnings(True) left" in told


def test_loggers_that_dict_config_configures_first_and_closes_are_put_back(
    session: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = [logging.FileHandler(tmp_path / name, mode="w") for name in ("own.log", "root.log")]
    logging.getLogger("plain_one")
    configured = logging.getLogger("configured_one")
    configured.addHandler(files[0])
    logging.root.addHandler(files[1])
    request.addfinalizer(lambda: [(logging.root.removeHandler(one), one.close()) for one in files])
    request.addfinalizer(lambda: configured.removeHandler(files[0]))
    result = session("""
        import logging, logging.config

        def test_configures():
            mute = {"level": "CRITICAL", "propagate": False}
            logging.config.dictConfig({
                "version": 1,
                "disable_existing_loggers": False,
                "loggers": {"plain_one": mute, "mlflow.store": mute},
            })

        def test_filters():
            logging.root.addFilter(logging.Filter("nobody"))
            logging.root.disabled = True
            logging.getLogger("configured_one").addFilter(logging.Filter("nobody"))

        def test_makes_records_otherwise():
            logging.setLogRecordFactory(lambda *args, **kwargs: logging.LogRecord(*args, **kwargs))
            logging.lastResort, logging.raiseExceptions = None, False

        def test_after():
            logging.getLogger("configured_one").error("written")
            for name in ("plain_one", "mlflow.store"):
                assert (logging.getLogger(name).level, logging.getLogger(name).propagate) == (0, True)
            assert logging.getLogRecordFactory() is logging.LogRecord
            assert logging.lastResort and logging.raiseExceptions
    """)
    result.assert_outcomes(passed=4, warnings=3)
    assert [Path(one.baseFilename).read_text() for one in files] == ["written\n", "written\n"]
    assert not logging.root.filters
    config, filters, records = result.leaks.values()
    for told in (
        "logger 'plain_one' configured otherwise (level CRITICAL, propagate=False)",
        "logger 'mlflow.store' configured otherwise (level CRITICAL, propagate=False)",
        "logger 'configured_one' configured otherwise (a handler closed)",
        "root.log (NOTSET)> closed",
    ):
        assert told in config
    assert config.count("logger '") == 3, config  # handlers that write although they were closed are no leak
    assert "logger 'root' configured otherwise (filters)" in filters
    assert "logger 'root' disabled" in filters
    assert "logger 'configured_one' configured otherwise (filters)" in filters
    assert "log record factory set" in records


def test_a_library_that_configures_its_logger_when_it_is_imported_is_left_alone(
    session: Any, pytester: pytest.Pytester, request: pytest.FixtureRequest
) -> None:
    pytester.syspathinsert()
    pytester.makepyfile(latelib="import logging; logging.getLogger('latelib').setLevel('ERROR')")
    logging.getLogger("latelib.part")  # somebody asked for it before: "latelib" holds a place
    request.addfinalizer(lambda: logging.getLogger("latelib").setLevel("NOTSET"))
    result = session("""
        import logging

        def test_imports(): import latelib
        def test_after(): assert logging.getLogger("latelib").level == logging.ERROR
    """)
    result.assert_outcomes(passed=2)
    assert result.leaks == {}


def test_a_flavor_is_configured_below_autologging_of_all(session: Any) -> None:
    result = session("""
        import mlflow.sklearn

        @pytest.fixture(scope="module", autouse=True)
        def all_of_them():
            mlflow.autolog(log_models=False)
            yield
            mlflow.autolog(disable=True)

        def test_as_before(): mlflow.sklearn.autolog(log_models=False)
        def test_otherwise(): mlflow.sklearn.autolog(log_models=True, max_tuning_runs=3)
        def test_off(): mlflow.sklearn.autolog(disable=True)
    """)
    result.assert_outcomes(passed=3, warnings=2)
    otherwise, off = result.leaks.values()
    assert otherwise.endswith(
        "autologging of sklearn configured otherwise (log_models=True, max_tuning_runs=3)"
    )
    assert off.endswith("autologging of sklearn left off")


def test_a_fixture_is_named_for_what_its_teardown_alone_changes(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def all_of_them():
            mlflow.autolog(log_models=False)
            yield
            mlflow.autolog(disable=True)

        @pytest.fixture
        def own():
            mlflow.autolog(log_models=False)
            yield
            mlflow.autolog(disable=True)

        @pytest.fixture
        def late():
            yield
            os.environ["MLFLOW_X"] = "1"

        def test_alone(own): pass
        def test_below(all_of_them, own): pass
        def test_late(late): pass
    """)
    assert result.leaks == {
        "test_below": "test_it.py::test_below, fixture 'own': autologging left off",
        "test_late": "test_it.py::test_late, fixture 'late': `MLFLOW_X` set",
    }


def test_a_fixture_of_the_test_is_named_where_it_does_not_undo(session: Any) -> None:
    result = session("""
        @pytest.fixture
        def elsewhere(tmp_path):
            mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")

        @pytest.fixture
        def running():
            return mlflow.start_run(run_name="mine")

        @pytest.fixture
        def wrongly_undone():
            os.environ["MLFLOW_X"] = "1"
            yield
            os.environ["MLFLOW_X"] = ""

        @pytest.fixture
        def undone(monkeypatch):
            monkeypatch.setenv("MLFLOW_X", "1")
            with mlflow.start_run() as run:
                yield run

        def test_elsewhere(mlflow_service, elsewhere): pass
        def test_running(mlflow_service, running): os.environ["MLFLOW_Y"] = "1"
        def test_wrongly_undone(mlflow_service, wrongly_undone): pass
        def test_undone(mlflow_service, undone): pass
        def test_after(mlflow_service):
            assert mlflow.active_run() is None and mlflow.get_tracking_uri() == mlflow_service.tracking_uri
    """)
    result.assert_outcomes(passed=5, warnings=3)
    assert list(result.leaks) == ["test_elsewhere", "test_running", "test_wrongly_undone"]
    assert result.leaks["test_elsewhere"].startswith(
        "test_it.py::test_elsewhere, fixture 'elsewhere': tracking URI changed to sqlite:"
    )
    assert re.fullmatch(
        r"test_it.py::test_running, fixture 'running': run \w{8}… \(mine\) left open; "
        "test_it.py::test_running: `MLFLOW_Y` set",
        result.leaks["test_running"],
    )
    assert result.leaks["test_wrongly_undone"] == (
        "test_it.py::test_wrongly_undone, fixture 'wrongly_undone': `MLFLOW_X` set"
    )


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_what_a_fixture_of_higher_scope_holds_is_its_own(session: Any, scope: str) -> None:
    result = session(f"""
        @pytest.fixture(scope="{scope}", params=["first", "second"])
        def held(request, mlflow_service):
            before = experiment()
            mlflow.set_experiment(request.param)
            handler = logger.add(print)
            os.environ["MLFLOW_X"] = request.param
            with mlflow.start_run(run_name=request.param):
                yield request.param
            mlflow.set_experiment(before)
            logger.remove(handler)
            del os.environ["MLFLOW_X"]

        class TestHeld:
            def test_one(self, held):
                assert mlflow.active_run().info.run_name == experiment() == os.environ["MLFLOW_X"] == held
                mlflow.start_run(nested=True)

            def test_two(self, held):
                assert mlflow.active_run().info.run_name == experiment() == os.environ["MLFLOW_X"] == held

        def test_without(mlflow_service):
            pass
    """)
    result.assert_outcomes(passed=5, warnings=2)
    assert set(result.leaks) == {"TestHeld::test_one[first]", "TestHeld::test_one[second]"}
    assert re.search(
        r"test_one\[first\]: run \w{8}… \([\w-]+\) left open$", result.leaks["TestHeld::test_one[first]"]
    )


def test_a_fixture_of_higher_scope_is_named_once_it_is_torn_down(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="class", params=["first", "second"])
        def held(request, mlflow_service):
            mlflow.set_experiment(request.param)
            logger.configure(extra={"param": request.param})

        class TestHeld:
            def test_one(self, held): pass
            def test_two(self, held): pass

        def test_without(mlflow_service):
            assert experiment() == mlflow_service.experiment_name
            assert logger._core.extra == {}
    """)
    result.assert_outcomes(passed=5)
    assert list(result.leaks) == ["TestHeld::test_one[second]", "TestHeld::test_two[second]"]
    for name, leak in result.leaks.items():
        assert re.fullmatch(
            rf"test_it.py::{re.escape(name)}, fixture 'held': "
            "active experiment changed to .*, loguru's extra 'param' set",
            leak,
        )


def test_a_service_left_running_ends_with_who_left_it(session: Any) -> None:
    from pytest_mlctx.services import state

    before = state.capture("services", "loguru", "logging")
    result = session("""
        from pytest_mlctx import AlertsService, LoggerService, ServiceError

        @pytest.fixture
        def job(tmp_path):
            LoggerService(sink=str(tmp_path / "job.log")).start()

        @pytest.fixture(scope="class")
        def alerts():
            AlertsService(enable=False, app_name="of the class").start()

        def test_one(logger_service, job):
            assert LoggerService.current() is not logger_service

        class TestHeld:
            def test_two(self, alerts, logger_service):
                assert LoggerService.current() is logger_service
                AlertsService(enable=False).start()
            def test_three(self):
                assert AlertsService.current().app_name == "of the class"

        def test_four(logger_service):
            with pytest.raises(ServiceError): AlertsService.current()
            LoggerService(level="INFO").start()
            logger_service.stop()

        def test_five(logger_service, caplog):
            assert LoggerService.current() is logger_service
            logger.info("heard")
            assert caplog.messages == ["heard"]
            LoggerService(sink="stdout").start()
    """)
    result.assert_outcomes(passed=5)
    told = {
        name: re.split(", log", leak.removeprefix("test_it.py::"))[0] for name, leak in result.leaks.items()
    }
    assert told == {
        "test_one": "test_one, fixture 'job': LoggerService left running",
        "TestHeld::test_two": "TestHeld::test_two: AlertsService left running",
        "TestHeld::test_three": "TestHeld::test_three, fixture 'alerts': AlertsService left running",
        "test_four": "test_four: LoggerService left running, LoggerService no longer running",
        "test_five": "test_five: LoggerService left running",
    }
    assert state.compare(before, state.capture("services", "loguru", "logging")) == []


def test_fixtures_that_are_first_set_up_by_getfixturevalue(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="session")
        def tracking(request):
            service = request.getfixturevalue("mlflow_service")
            mlflow.set_experiment("of the session")
            yield service
            mlflow.set_experiment(service.experiment_name)

        @pytest.fixture(scope="module")
        def held():
            mlflow.set_experiment("held")
            yield
            mlflow.set_experiment("of the session")

        def test_plain(): pass
        def test_first(tracking): assert experiment() == "of the session"
        def test_again(tracking): assert experiment() == "of the session"
        def test_in_the_middle(request, tracking):
            os.environ["MLFLOW_X"] = "1"
            request.getfixturevalue("held")
            assert experiment() == "held"
        def test_after(tracking): assert experiment() == "held" and "MLFLOW_X" not in os.environ
    """)
    result.assert_outcomes(passed=5)
    assert result.leaks == {"test_in_the_middle": "test_it.py::test_in_the_middle: `MLFLOW_X` set"}


def test_a_service_that_only_getfixturevalue_asks_for_is_followed_from_then_on(session: Any) -> None:
    result = session(
        """
        @pytest.fixture(scope="session")
        def tracking(request):
            service = request.getfixturevalue("mlflow_service")
            mlflow.set_experiment("of the session")
            yield service
            mlflow.set_experiment(service.experiment_name)

        def test_before(): os.environ["MLFLOW_X"] = "its own"
        def test_first(tracking): assert experiment() == "of the session"
        def test_again(tracking):
            assert experiment() == "of the session"
            os.environ["MLFLOW_X"] = "2"
        def test_after(): assert os.environ.pop("MLFLOW_X") == "its own"
        def test_last(): assert "MLFLOW_X" in os.environ and experiment() == "of the session"
        """,
        leaks="",
    )
    result.assert_outcomes(passed=5)
    assert set(result.leaks) == {"test_again", "test_after"}


def test_a_setup_of_higher_scope_that_fails_is_undone_at_once(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def failing(mlflow_service):
            mlflow.start_run()
            raise RuntimeError

        def test_one(failing): pass
        def test_two(mlflow_service): assert mlflow.active_run() is None
    """)
    result.assert_outcomes(passed=1, errors=1)


def test_the_last_test_is_named_too(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def held(mlflow_service):
            with mlflow.start_run(): yield
        def test_last(held):
            mlflow.start_run(run_name="mine", nested=True)
            mlflow.tracing.disable()
    """)
    (leak,) = result.leaks.values()
    assert re.fullmatch(r"test_it.py::test_last: run \w{8}… \(mine\) left open, tracing disabled", leak)


def test_an_experiment_id_of_the_environment_is_no_finding(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):  # on MLflow 2 the first experiment of a temporary store has one of these
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", str(number))
        result = session("""
            def test_one(mlflow_service): mlflow.log_metric("a", 1); mlflow.end_run()
            def test_two(mlflow_service): mlflow.log_metric("a", 1); mlflow.end_run()
        """)
        assert result.leaks == {}
        assert os.environ["MLFLOW_EXPERIMENT_ID"] == str(number)


LEAKING = """
    def test_leaving(mlflow_service): os.environ["MLFLOW_X"] = "1"
    def test_after(mlflow_service): assert "MLFLOW_X" not in os.environ
"""
SENTENCE = "test_it.py::test_leaving: `MLFLOW_X` set"


@pytest.mark.parametrize("args", [(), ("-q",)])
def test_auto_counts(session: Any, args: Any) -> None:
    result = session(LEAKING, *args, leaks="")
    result.assert_outcomes(passed=2)
    line = "mlctx: 1 test left the global context changed: --mlctx-leaks=warn tells what"
    assert result.outlines.count(line) == 1
    assert SENTENCE not in result.stdout.str()


def test_off_puts_back_and_is_silent(session: Any) -> None:
    result = session(LEAKING, leaks="off")
    result.assert_outcomes(passed=2)
    assert result.leaks == {}
    assert "put back" not in result.stdout.str()


@pytest.mark.parametrize("args", [(), ("-q",)])
def test_warn_tells_each(session: Any, args: Any) -> None:
    result = session(LEAKING, *args)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        [
            f"*LeakWarning: {SENTENCE}. It was put back; undo it in the test itself*",
            "*= mlctx: left changed =*",
            SENTENCE,
        ]
    )


def test_warn_from_ini(session: Any, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmlctx_leaks = warn")
    assert list(session(LEAKING, leaks="").leaks) == ["test_leaving"]


def test_the_warning_can_be_filtered_in_ini_and_by_mark(session: Any, pytester: pytest.Pytester) -> None:
    pytester.makeini(
        "[pytest]\nfilterwarnings =\n  error\n  ignore:The ``noload``\n  ignore::pytest_mlctx.LeakWarning"
    )
    result = session(LEAKING)
    result.assert_outcomes(passed=2, warnings=0)
    assert "LeakWarning" not in result.stdout.str()


@pytest.mark.parametrize("errors", ["error", "error::pytest_mlctx.LeakWarning"])
def test_warn_changes_no_outcome_where_warnings_are_errors(session: Any, errors: str) -> None:
    result = session(LEAKING, "-W", errors, "-rP")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*= mlctx: left changed =*", f"*{SENTENCE[:20]}*"])


def test_the_same_leak_of_many_is_one_line_with_the_count(session: Any) -> None:
    result = session("""
        @pytest.fixture
        def elsewhere(tmp_path):
            mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")

        @pytest.mark.parametrize("n", range(5))
        def test_with_a_fixture(elsewhere, n): pass

        @pytest.mark.parametrize("n", range(3))
        def test_itself(n): os.environ["MLFLOW_X"] = str(n)
    """)
    lines = result.outlines[
        result.outlines.index(next(line for line in result.outlines if "left changed =" in line)) :
    ]
    assert [line.partition(" (and ")[2] for line in lines[1:3]] == ["4 more like this)", "2 more like this)"]
    assert "fixture 'elsewhere'" in lines[1]
    assert "changed to sqlite:///…/test_with_a_fixture_0_0/mlflow.db (and" in lines[1]


def test_an_experiment_of_a_store_in_folders_is_told_by_its_name(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    result = session(f"""
        def test():
            mlflow.set_tracking_uri({tmp_path.as_uri() + "/store"!r})
            mlflow.set_experiment("theirs")
    """)
    assert "active experiment changed to 'theirs'" in result.leaks["test"]


def test_the_working_folder_is_put_back(session: Any, pytester: pytest.Pytester) -> None:
    result = session("""
        import shutil
        home = os.getcwd()

        def test_leaves(tmp_path): os.chdir(tmp_path)
        def test_is_back(): assert os.getcwd() == home
        def test_deletes(tmp_path):
            os.chdir(tmp_path)
            shutil.rmtree(tmp_path)
        def test_is_back_again(): assert os.getcwd() == home
    """)
    result.assert_outcomes(passed=4, warnings=2)
    assert [leak.partition(": ")[2].split(" to ")[0] for leak in result.leaks.values()] == [
        "working folder changed",
        "the working folder was deleted",
    ]


def test_a_run_left_open_in_a_deleted_folder_spoils_no_later_test(session: Any) -> None:
    result = session("""
        import shutil
        home = os.getcwd()

        def test_leaves(tmp_path):
            os.chdir(tmp_path)
            mlflow.set_tracking_uri("sqlite:///relative.db")
            mlflow.start_run()
            shutil.rmtree(tmp_path)

        def test_is_back(mlflow_service):
            assert os.getcwd() == home
            with mlflow.start_run(): pass
    """)
    result.assert_outcomes(passed=2, warnings=1)
    (told,) = result.leaks.values()
    for leak in ("the working folder was deleted", "left open", "tracking URI changed to sqlite:///"):
        assert leak in told


def test_what_cannot_be_told_is_put_back_and_changes_no_outcome(session: Any) -> None:
    result = session("""
        import logging

        class Silent(logging.Handler):
            def __repr__(self): raise RuntimeError("has no name")

        def test_leaves(): logging.root.addHandler(Silent())
        def test_after(): assert not any(type(one) is Silent for one in logging.root.handlers)
    """)
    result.assert_outcomes(passed=2, warnings=1)
    assert result.leaks["test_leaves"].endswith(": logging.handler changed")


def test_error_is_one_sentence_at_the_teardown(session: Any) -> None:
    result = session(LEAKING, leaks="error")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_leaving*", f"{SENTENCE}. It was put back; *", f"ERROR *{SENTENCE[:20]}*"]
    )
    assert "Traceback" not in result.stdout.str()
    assert "guard.py" not in result.stdout.str()


@pytest.mark.parametrize("leaks", ["warn", "error"])
def test_an_error_of_the_tests_own_teardown_stays(session: Any, leaks: str) -> None:
    result = session(
        """
        @pytest.fixture
        def failing():
            yield
            raise RuntimeError("its own")

        def test_leaving(mlflow_service, failing): os.environ["MLFLOW_X"] = "1"
        def test_after(mlflow_service): assert "MLFLOW_X" not in os.environ
        """,
        leaks=leaks,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["E*RuntimeError: its own", "*- Captured leak teardown -*", f"{SENTENCE}.*"])
    assert list(result.leaks) == ["test_leaving"]


def test_files_are_told_once_and_left(session: Any, pytester: pytest.Pytester) -> None:
    result = session("""
        from pathlib import Path
        def test_leaving(mlflow_service): Path("mlruns").mkdir()
        def test_more(mlflow_service): Path("mlruns/1").mkdir()
        def test_elsewhere(mlflow_service, tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)
            Path("mlruns").mkdir()
    """)
    assert result.leaks == {"test_leaving": f"test_it.py::test_leaving: {pytester.path / 'mlruns'} written"}
    assert (pytester.path / "mlruns/1").exists()
    result.stdout.fnmatch_lines(
        ["*LeakWarning: *mlruns written. It was left there; track to a temporary store*"]
    )


def test_files_that_are_left_and_the_rest_that_is_put_back_are_told_apart(session: Any) -> None:
    result = session("""
        from pathlib import Path
        def test_leaving(mlflow_service):
            Path("mlruns").mkdir()
            os.environ["MLFLOW_X"] = "1"
    """)
    result.stdout.fnmatch_lines(["*. What was written was left there; *. The rest was put back; undo it*"])


@pytest.mark.parametrize("option", ["--mlctx-tracking-uri", "--mlctx-registry-uri"])
def test_a_store_that_was_asked_for_is_none_of_them(
    session: Any, pytester: pytest.Pytester, option: str
) -> None:
    result = session(
        """
        def test_model(mlflow_service): mlflow.MlflowClient().create_registered_model("m")
        """,
        f"{option}=sqlite:///mlflow.db",
    )
    assert (pytester.path / "mlflow.db").exists()
    assert result.leaks == {}


def test_auto_leaves_tests_alone_that_use_no_service(session: Any) -> None:
    result = session(
        """
        @pytest.fixture
        def mlflow_run():
            "A user's own, of the same name."

        def test_leaving(mlflow_run): os.environ["MLFLOW_X"] = "1"
        def test_after(): assert os.environ.pop("MLFLOW_X")
        def test_service(mlflow_service): assert "MLFLOW_X" not in os.environ
        """,
        leaks="",
    )
    result.assert_outcomes(passed=3)
    assert result.leaks == {}


def test_an_attempt_that_is_repeated_is_told_too(session: Any) -> None:
    pytest.importorskip("pytest_rerunfailures")
    result = session(
        """
        attempts = []
        def test_flaky(mlflow_service):
            attempts.append(1)
            assert "MLFLOW_X" not in os.environ
            if len(attempts) == 1:
                os.environ["MLFLOW_X"] = "1"
                assert False
        """,
        "-p",
        "rerunfailures",
        "--reruns=2",
    )
    assert result.leaks == {"test_flaky": "test_it.py::test_flaky: `MLFLOW_X` set"}


def test_warn_judges_tests_without_a_service_and_imports_nothing(
    pytester: pytest.Pytester, no_other_plugin: None
) -> None:
    pytester.makeconftest("""
        import sys
        def pytest_unconfigure():
            heavy = {"mlflow", "loguru", "plyer", "pydantic", "numpy"} & sys.modules.keys()
            print("imported:", sorted(heavy))
    """)
    pytester.makepyfile("""
        import logging, os
        def test_leaving(): os.environ["MLFLOW_X"] = "1"
        def test_after(): assert "MLFLOW_X" not in os.environ
    """)
    result = pytester.runpytest_subprocess("--mlctx-leaks=warn")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*::test_leaving: `MLFLOW_X` set"])
    assert "imported: []" in result.outlines


def test_a_package_that_a_test_imports_is_compared_with_its_pristine_state(
    pytester: pytest.Pytester, no_other_plugin: None
) -> None:
    pytester.makepyfile("""
        def test_loguru():
            from loguru import logger
            logger.remove()
            logger.add("their.log")

        def test_loguru_again():
            from loguru import logger
            assert list(logger._core.handlers) == [0]

        def test_mlflow():
            import mlflow
            mlflow.set_tracking_uri("sqlite:///other.db")
            mlflow.autolog()

        def test_mlflow_again():
            import mlflow
            from mlflow.utils import autologging_utils, import_hooks
            assert mlflow.get_tracking_uri() != "sqlite:///other.db"
            assert not any(autologging_utils.AUTOLOGGING_INTEGRATIONS.values())
            assert not import_hooks._post_import_hooks
    """)
    result = pytester.runpytest_subprocess("--mlctx-leaks=warn")
    result.assert_outcomes(passed=4)
    assert result.stdout.str().count("LeakWarning: ") == 2
    result.stdout.fnmatch_lines(
        [
            "*::test_loguru: loguru handler 1 left, with the sink 'their.log', loguru handler 0 removed",
            "*::test_mlflow: autologging left on, tracking URI changed to sqlite:///other.db",
        ]
    )


@pytest.fixture
def xdist(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p mlctx -p xdist -p xdist.looponfail -p no:cacheprovider")


def test_what_workers_find_reaches_the_summary_a_crashed_ones_too(
    pytester: pytest.Pytester, xdist: Any
) -> None:
    pytester.makepyfile("""
        import os, pytest
        @pytest.mark.parametrize("n", range(4))
        def test_leaving(n): os.environ["MLFLOW_X"] = "1"
        def test_crash(): os._exit(1)
    """)
    result = pytester.runpytest_subprocess("--mlctx-leaks=warn", "-n1", "--max-worker-restart=0", "-q")
    result.stdout.fnmatch_lines(["*= mlctx: left changed =*"])
    result.stdout.fnmatch_lines(["*test_leaving[[]0]: `MLFLOW_X` set (and 3 more like this)"])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("litellm") is None, reason="litellm is not installed")
def test_callbacks_of_a_genai_flavour_go(pytester: pytest.Pytester, no_other_plugin: None) -> None:
    pytester.makepyfile("""
        import litellm, mlflow
        def test_leaving(mlflow_service):
            mlflow.litellm.autolog()
            assert "mlflow" in litellm.success_callback
        def test_after(mlflow_service): assert "mlflow" not in litellm.success_callback
    """)
    result = pytester.runpytest_subprocess("--mlctx-leaks=warn")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_leaving: autologging of litellm left on"])


@pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")
def test_a_store_that_was_asked_for_is_no_litter(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import mlflow

        def test_artifact(mlflow_run):
            mlflow.log_text("text", "note.txt")

        def test_litter(mlflow_service):
            open("mlruns", "w").close()
    """)
    result = pytester.runpytest_inprocess(
        f"--mlctx-tracking-uri=sqlite:///{pytester.path}/mlflow.db", "--mlctx-leaks=warn"
    )
    result.assert_outcomes(passed=2, warnings=1)
    assert (pytester.path / "mlartifacts").is_dir()
    result.stdout.fnmatch_lines(["*::test_litter: *mlruns written*"])
    result.stdout.no_fnmatch_line("*mlartifacts written*")
