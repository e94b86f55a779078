from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.usefixtures("ours_imported", "no_other_plugin")

# The recipes of loguru's documentation: compatibility with logging, and with caplog.
INTERCEPT = """
    import inspect, logging
    from loguru import logger

    class InterceptHandler(logging.Handler):
        def emit(self, record):
            try:
                level = logger.level(record.levelname).name
            except ValueError:
                level = record.levelno
            frame, depth = inspect.currentframe(), 0
            while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
                frame, depth = frame.f_back, depth + 1
            logger.opt(depth=depth, exception=record.exc_info).log(level, record.getMessage())
"""
CAPLOG = """
    import pytest
    from loguru import logger

    @pytest.fixture
    def caplog(caplog):
        handler = logger.add(
            caplog.handler, format="{message}", level=0,
            filter=lambda record: record["level"].no >= caplog.handler.level, enqueue=False,
        )
        yield caplog
        logger.remove(handler)
"""
REPORT = """
    import pytest
    from loguru import logger

    @pytest.fixture(autouse=True)
    def reportlog(pytestconfig):
        plugin = pytestconfig.pluginmanager.getplugin("logging-plugin")
        handler = logger.add(plugin.report_handler, format="{message}")
        yield
        logger.remove(handler)
"""
PROPAGATE = """
    import logging
    from loguru import logger

    class PropagateHandler(logging.Handler):
        def emit(self, record):
            logging.getLogger(record.name).handle(record)
"""


@pytest.fixture(autouse=True)
def process_as_it_was(ours_imported: None) -> Iterator[None]:
    """What a conftest of an inner session does while it is imported outlives that session."""
    from pytest_mlctx.services import state

    before = state.capture("loguru", "logging")
    yield
    state.restore(before)


def passes(pytester: pytest.Pytester, source: str, *args: str, tests: int = 1) -> pytest.RunResult:
    pytester.makepyfile(source)
    result = pytester.runpytest_inprocess(*args)
    result.assert_outcomes(passed=tests)
    return result


@pytest.mark.criterion("the logger captures messages of various levels")
def test_caplog_sees_every_level_with_the_loggers_own_place(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        import logging

        def test_levels(logger_service, caplog):
            log = logger_service.logger()
            caplog.clear()
            with caplog.at_level("TRACE"):
                for level in ("trace", "debug", "info", "success", "warning", "error", "critical"):
                    getattr(log, level)("{} {}", level, 1)
            assert caplog.record_tuples == [
                (__name__, number, f"{name} 1")
                for name, number in [("trace", 5), ("debug", 10), ("info", 20), ("success", 25),
                                     ("warning", 30), ("error", 40), ("critical", 50)]
            ]
            names = [record.levelname for record in caplog.records]
            assert names[:4] == ["TRACE", "DEBUG", "INFO", "SUCCESS"]
            assert caplog.messages[3] == "success 1"
            record = caplog.records[0]
            assert (record.filename, record.funcName, record.module) == (
                "test_caplog_sees_every_level_with_the_loggers_own_place.py", "test_levels", __name__)
            assert record.lineno == 8
            assert record.pathname == __file__
            assert "SUCCESS" in caplog.text
        """,
    )


def test_levels_of_caplog_hold(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        import logging

        def test_at_level(logger_service, caplog):
            log = logger_service.logger()
            with caplog.at_level("SUCCESS"):
                log.info("no")
                log.success("yes")
            log.debug("after")
            assert caplog.messages[-2:] == ["yes", "after"]

        def test_set_level(logger_service, caplog):
            caplog.set_level(logging.ERROR)
            logger_service.logger().warning("no")
            logger_service.logger().error("yes")
            assert caplog.messages == ["yes"]

        def test_level_of_the_option_where_none_is_set(logger_service, caplog):
            logger_service.logger().info("no")
            logger_service.logger().warning("yes")
            logger_service.logger().log(33, "a number")
            assert caplog.messages == ["yes", "a number"]
        """,
        "--mlctx-log-level=DEBUG",
        "--deselect=test_levels_of_caplog_hold.py::test_level_of_the_option_where_none_is_set",
        tests=2,
    )
    pytester.runpytest_inprocess("--mlctx-log-level=WARNING", "-k", "option").assert_outcomes(
        passed=1, deselected=2
    )


def test_what_a_record_carries(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        import logging, threading, time

        class Secretive:
            def __repr__(self):
                raise AssertionError("nobody asked for the values of variables")

        def test_exception(logger_service, caplog):
            secret = Secretive()
            try:
                [1][secret is None or 7]
            except IndexError:
                logger_service.logger().exception("broken")
            record = caplog.records[-1]
            assert record.exc_info[0] is IndexError
            assert str(record.exc_info[1]) == "list index out of range"
            assert "Traceback" in caplog.text and "IndexError: list index" in caplog.text
            assert caplog.messages[-1] == "broken"

        def test_the_rest(logger_service, caplog):
            logger_service.logger().bind(user="me").info("100 % of {}", "them")
            record = caplog.records[-1]
            assert record.getMessage() == "100 % of them"
            assert record.extra["user"] == "me"
            assert record.thread == threading.get_ident()
            assert record.processName == "MainProcess"
            assert abs(record.created - time.time()) < 60

        def test_colours_and_braces(logger_service, caplog):
            logger_service.logger().opt(colors=True).info("<red>hot</red>")
            logger_service.logger().info("{not a field} %s")
            assert caplog.messages[-2:] == ["hot", "{not a field} %s"]

        def test_filters_of_the_handler_hold(logger_service, caplog):
            only = logging.Filter()
            only.filter = lambda record: "yes" in record.getMessage()
            caplog.handler.addFilter(only)
            logger_service.logger().info("no")
            logger_service.logger().info("yes")
            caplog.handler.removeFilter(only)
            assert caplog.messages[-1] == "yes" and "no" not in caplog.messages
        """,
        tests=4,
    )


def test_logging_disable_holds(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        import logging

        def test_disabled(logger_service, caplog):
            logging.disable(logging.WARNING)
            logger_service.logger().warning("no")
            logger_service.logger().error("yes")
            assert caplog.messages == ["yes"]

        def test_enabled_again(logger_service, caplog):
            logger_service.logger().warning("yes")
            assert caplog.messages == ["yes"]
        """,
        "-p", "no:randomly",
        "-o", "mlctx_autouse=logger",
        tests=2,
    )  # fmt: skip


def test_report_of_a_failing_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test(logger_service):
            logger_service.logger().success("learned")
            logger_service.logger().trace("too {}", "little")
            try:
                1 / 0
            except ZeroDivisionError:
                logger_service.logger().exception("divided")
            assert False
    """)
    result = pytester.runpytest_inprocess()
    result.stdout.fnmatch_lines([
        "*- Captured log call -*",
        "SUCCESS  test_report_of_a_failing_test:test_report_of_a_failing_test.py:2 learned",
        "ERROR    test_report_of_a_failing_test:test_report_of_a_failing_test.py:7 divided",
        "Traceback*",
        "ZeroDivisionError: division by zero",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*too little*")


def test_pytests_own_levels_and_outputs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test(logger_service):
            for level in ("debug", "info", "warning", "error"):
                getattr(logger_service.logger(), level)("a {}", level)
            assert False
    """)
    result = pytester.runpytest_inprocess(
        "--log-level=WARNING", "--log-cli-level=INFO", "--log-file=out.log", "--log-file-level=ERROR"
    )
    live, _, report = str(result.stdout).partition("FAILURES")
    assert re.findall(r"a (\w+) ", live.replace("\n", " ")) == ["info", "warning", "error"]
    assert "live log call" in live
    assert re.findall(r"test.*py:\d+ a (\w+)", report.partition("Captured log call")[2]) == [
        "warning",
        "error",
    ]
    written = (pytester.path / "out.log").read_text()
    assert re.findall(r"a (\w+)", written) == ["error"]


def test_live_log_and_log_file_follow_the_option_where_they_have_no_level(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test(logger_service):
            logger_service.logger().info("little")
            logger_service.logger().success("much")
    """)
    result = pytester.runpytest_inprocess(
        "-o", "log_cli=true", "--log-file=out.log", "--mlctx-log-level=SUCCESS"
    )
    result.assert_outcomes(passed=1)
    assert re.findall("much|little", str(result.stdout)) == ["much"]
    assert re.findall("much|little", (pytester.path / "out.log").read_text()) == ["much"]


RECIPES = {
    "InterceptHandler on the root logger": (INTERCEPT, "logging.root.addHandler(InterceptHandler())"),
    "basicConfig": (INTERCEPT, "logging.basicConfig(handlers=[InterceptHandler()], level=0, force=False)"),
    "InterceptHandler on a logger that propagates": (
        INTERCEPT,
        "logging.getLogger('third').addHandler(InterceptHandler())",
    ),
    "InterceptHandler on a logger that does not": (
        INTERCEPT,
        "third.addHandler(InterceptHandler()); third.propagate = False",
    ),
    "InterceptHandler and a patched callHandlers": (
        INTERCEPT,
        """logging.root.addHandler(InterceptHandler())
            original = logging.Logger.callHandlers
            def tracked(self, record):
                return original(self, record)
            monkeypatch.setattr(logging.Logger, "callHandlers", tracked)""",
    ),
    "PropagateHandler": (PROPAGATE, "logger.add(PropagateHandler(), format='{message}', level=0)"),
    "caplog of loguru's documentation": (CAPLOG, ""),
    "reports of loguru's documentation": (REPORT, ""),
    "nothing": ("import logging", ""),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_record_comes_once_beside_the_recipes(pytester: pytest.Pytester, recipe: str) -> None:
    setup, line = RECIPES[recipe]
    pytester.makeconftest(setup)
    passes(
        pytester,
        f"""
        import logging
        import pytest
        from conftest import *

        @pytest.fixture
        def recipe(monkeypatch):
            handlers, third = logging.root.handlers[:], logging.getLogger("third")
            {line}
            yield
            logging.root.handlers[:] = handlers
            third.handlers[:] = [each for each in third.handlers if "_pytest" in type(each).__module__]
            third.propagate = True

        def test_once(logger_service, recipe, caplog, pytestconfig):
            caplog.set_level("DEBUG")
            report = pytestconfig.pluginmanager.getplugin("logging-plugin").report_handler.stream
            for number in range(3):
                logger_service.logger().info(f"ours {{number}}")
                logging.getLogger("third").info(f"theirs {{number}}", extra={{"extra": CONSTANT}})
            sent = [f"{{whose}} {{number}}" for number in range(3) for whose in ("ours", "theirs")]
            assert [message for message in caplog.messages if message in sent] == sent
            assert report.getvalue().count("ours") == 3
            assert report.getvalue().count("theirs") == 3

        CONSTANT = {{"the": "same object each time"}}
        """,
    )


def test_a_propagating_handler_of_before_the_service(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        PROPAGATE + "\n    handler = logger.add(PropagateHandler(), format='{message}', level=0)\n"
    )
    passes(
        pytester,
        """
        import conftest

        def test_once(logger_service, caplog):
            caplog.set_level("DEBUG")
            for number in range(3):
                logger_service.logger().info("{}", number)
            assert caplog.messages == ["0", "1", "2"]
        """,
    )


def test_each_record_comes_once_where_a_recipe_writes_from_a_thread(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(PROPAGATE)
    passes(
        pytester,
        """
        import pytest
        from conftest import PropagateHandler
        from loguru import logger

        @pytest.fixture(params=["caplog's handler", "propagating"])
        def recipe(request, caplog):
            sink = caplog.handler if request.param == "caplog's handler" else PropagateHandler()
            key = logger.add(sink, format="{message}", level=0, enqueue=True)
            yield
            logger.remove(key)

        def test_once(logger_service, recipe, caplog):
            caplog.set_level("DEBUG")
            for number in range(20):
                logger.bind(number=number).info("{}", number)
            logger.complete()
            # Of another test's thread there may be MLflow's retries.
            ours = [record for record in caplog.records if record.message.isdigit()]
            assert [record.message for record in ours] == [str(number) for number in range(20)]
            assert ours[3].extra == {"number": 3}
        """,
        tests=2,
    )


SETUPS = {
    "remove and add": "logger.remove(); logger.add(sys.stderr, level='WARNING')",
    "configure": "logger.configure(handlers=[{'sink': sys.stderr}])",
    "basicConfig": "logging.basicConfig(handlers=[InterceptHandler()], level=0, force=True)",
    "both": """logger.remove(); logger.add(sys.stderr)
            logging.basicConfig(handlers=[InterceptHandler()], level=0, force=True)""",
}


@pytest.mark.parametrize("setup", SETUPS)
def test_caplog_sees_what_is_logged_after_the_code_has_set_up_logging(
    pytester: pytest.Pytester, setup: str
) -> None:
    pytester.makeconftest(INTERCEPT)
    passes(
        pytester,
        f"""
        import copy, logging, pickle, sys
        from conftest import *
        from loguru import logger

        def application():
            {SETUPS[setup]}
            logger.info("started")

        def test_application(logger_service, caplog):
            application()
            logging.getLogger("third").warning("theirs")
            assert "started" in caplog.messages
            assert caplog.messages.count("theirs") == 1

        def test_again(logger_service, caplog):
            logger.info("before")
            application()
            assert [message for message in caplog.messages if message in ("before", "started")] == [
                "before", "started"
            ]

        def test_a_copy_of_the_logger(logger_service, caplog):
            logger.remove()
            copy.deepcopy(logger).info("copied")
            assert "copied" in caplog.messages
            pickle.loads(pickle.dumps(logger)).info("sent to another process")
        """,
        tests=3,
    )


def test_the_handler_that_feeds_caplog_is_never_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from loguru import logger

        def test(logger_service, caplog):
            logger.remove()
            logger.info("x")
            assert caplog.messages == ["x"]
    """)
    result = pytester.runpytest_inprocess("--mlctx-leaks=warn")
    result.assert_outcomes(passed=1, warnings=1)
    named = re.findall(r"(.*): loguru (handler [^,.\n]+)", result.stdout.str())
    assert {handler for _, handler in named} == {named[0][1]}, named  # the log file's
    assert not any("fixture" in culprit for culprit, _ in named)


def test_threads(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        import threading

        def test(logger_service, caplog):
            def work(name):
                for number in range(200):
                    logger_service.logger().info("{} {}", name, number)
            threads = [threading.Thread(target=work, args=(name,), name=name) for name in "abcd"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            records = [record for record in caplog.records if record.name == __name__]
            assert len(records) == 800
            for name in "abcd":
                mine = [record.getMessage() for record in records if record.threadName == name]
                assert mine == [f"{name} {number}" for number in range(200)]
        """,
    )


def test_many_records_at_once(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        def test(logger_service, caplog):
            for number in range(2000):
                logger_service.logger().info("{}", number)
            assert caplog.messages == [str(number) for number in range(2000)]
        """,
    )


def test_everything_is_as_before_when_the_session_ends(pytester: pytest.Pytester) -> None:
    names = dict(logging._nameToLevel), dict(logging._levelToName)
    pytester.makeconftest("""
        def pytest_unconfigure(config):
            plugin = config.pluginmanager.getplugin("logging-plugin")
            assert plugin.caplog_handler.filters == plugin.report_handler.filters == []
    """)
    passes(pytester, "def test(logger_service, caplog): logger_service.logger().info('x')")
    assert (logging._nameToLevel, logging._levelToName) == names


def test_a_level_that_somebody_named_before_keeps_its_name(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import logging; logging.addLevelName(25, 'NOTICE')")
    passes(
        pytester,
        """
        import logging

        def test(logger_service, caplog):
            with caplog.at_level("SUCCESS"):
                logger_service.logger().success("x")
            assert caplog.messages == ["x"]
            assert logging.getLevelName(25) == "NOTICE"
        """,
    )


def test_a_sink_that_the_user_named_is_appended_to_at_the_level(pytester: pytest.Pytester) -> None:
    (pytester.path / "run.log").write_text("of the last session\n")
    passes(
        pytester,
        """
        def test(logger_service):
            logger_service.logger().info("low")
            logger_service.logger().warning("high")
        """,
        "--mlctx-log-sink=run.log",
        "--mlctx-log-level=warning",
    )
    text = (pytester.path / "run.log").read_text()
    assert text.startswith("of the last session\n")
    assert "high" in text
    assert "low" not in text
    assert "\x1b" not in text


def test_capsys_reads_what_goes_to_stderr(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def logger_config(logger_config): return {**logger_config, "sink": "stderr", "colorize": False}
    """)
    pytester.makepyfile("""
        def test_first(logger_service, capsys):
            logger_service.logger().info("one")
            assert capsys.readouterr().err.endswith(" - one\\n")

        def test_second(logger_service, capsys, caplog):
            logger_service.logger().info("two")
            assert capsys.readouterr().err.endswith(" - two\\n")
            assert caplog.messages == ["two"]
    """)
    pytester.runpytest_inprocess().assert_outcomes(passed=2)
