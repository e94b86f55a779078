"""Each kind of leak: named with the test that left it, and gone before the next one."""

from __future__ import annotations

import re
import textwrap
from importlib.util import find_spec
from typing import Any

import mlflow
import pytest

MLFLOW_3 = int(mlflow.__version__.split(".")[0]) >= 3
mlflow_3_only = pytest.mark.skipif(not MLFLOW_3, reason="MLflow 2 does not have it")

# What anybody can see of the process; the guard's own list of cells has no part in it.
PROBE = """
    import gc, logging, os, threading
    import sqlite3, sys
    from pathlib import Path
    import mlflow, pytest
    from loguru import logger
    from mlflow.tracking import fluent
    from mlflow.tracing import provider
    from mlflow.utils import autologging_utils, import_hooks
    from pytest_mlctx import AlertsService, LoggerService, MlflowService, ServiceError

    os.environ["MLFLOW_OF_THE_USER"] = "as it was"
    SERVICE = []
    DESTINATION = provider._MLFLOW_TRACE_USER_DESTINATION
    HELD = []  # so that garbage collection does not undo what a test left

    def current(kind):
        try:
            return id(kind.current())
        except ServiceError:
            return None

    def probe():
        core = logger._core
        stacks = fluent._active_run_stack.get_all_thread_values()
        return {
            "services": [current(kind) for kind in (AlertsService, LoggerService, MlflowService)],
            "run": [run.info.run_id for stack in stacks.values() for run in stack],
            "uri": mlflow.get_tracking_uri(),
            "registry": mlflow.get_registry_uri(),
            "experiment": SERVICE[0].client().get_experiment(fluent._get_experiment_id()).name,
            "environment": {
                k: v if k != "MLFLOW_EXPERIMENT_ID" else v == fluent._get_experiment_id()
                for k, v in os.environ.items()
                if "MLFLOW" in k
            },
            "autologging": {k: v for k, v in autologging_utils.AUTOLOGGING_INTEGRATIONS.items() if v},
            "autologging off": autologging_utils._AUTOLOGGING_GLOBALLY_DISABLED,
            "import hooks": set(import_hooks._post_import_hooks),
            "span": mlflow.get_current_active_span(),
            "tracing": provider.is_tracing_enabled(),
            "destination": str(getattr(DESTINATION, "_global_value", DESTINATION)),
            "model": mlflow.get_active_model_id() if hasattr(mlflow, "get_active_model_id") else None,
            "handlers": dict(core.handlers),
            "handlers alive": [not handler._stopped for handler in core.handlers.values()],
            "extra": dict(core.extra),
            "patcher": core.patcher,
            "levels": dict(core.levels),
            "activation": list(core.activation_list),
            "context": dict(__import__("loguru")._logger.context.get()),
            "logging off": logging.root.manager.disable,
            "logging level": logging.root.level,
            "logging handlers": [h for h in logging.root.handlers if "_pytest" not in type(h).__module__],
        }

    @pytest.fixture(scope="session")
    def was(mlflow_service, logger_service, alerts_service):
        SERVICE.append(mlflow_service)
        mlflow.tracking.fluent._last_active_run_id.set(None)  # of another test in this process
        return probe()
"""
PAIR = """
    def test_{number}_leaving(was):
        assert probe() == was
        {body}
        assert {unseen} or probe() != was

    def test_{number}_after(was):
        assert probe() == was
        {after}
"""


def leak(name: Any, body: Any, *sentences: Any, after: Any = "", unseen: Any = False, marks: Any = ()) -> Any:
    """What a test leaves, how it is told, what the next one does; unseen: the probe does not see it."""
    code = {"body": body, "after": after or "pass"}
    code = {
        key: textwrap.indent(textwrap.dedent(value).strip(), "    ").strip() for key, value in code.items()
    }
    return pytest.param(sentences, {**code, "unseen": unseen}, id=name, marks=marks)


RUN = r"run \w{8}… \(%s\) left open"

LEAKS = [
    leak("open run", "mlflow.start_run(run_name='mine')", RUN % "mine"),
    leak(
        "nested open runs",
        "mlflow.start_run(run_name='outer'); mlflow.start_run(run_name='inner', nested=True)",
        RUN % "outer",
        RUN % "inner",
    ),
    leak(
        "open run of an ended thread",
        """
        thread = threading.Thread(target=mlflow.start_run, kwargs={"run_name": "theirs"})
        thread.start(); thread.join()
        """,
        RUN % "theirs" + " in another thread",
    ),
    leak(
        "open run of a living thread",
        """
        opened, leave = threading.Event(), threading.Event()
        def work():
            mlflow.start_run(run_name="theirs")
            opened.set()
            leave.wait(5)
        thread = threading.Thread(target=work, daemon=True)
        thread.start(); opened.wait()
        HELD.append(leave)
        """,
        RUN % "theirs" + " in another thread",
    ),
    leak(
        "tracking URI",
        "mlflow.set_tracking_uri('sqlite:///other.db')",
        "tracking URI changed to sqlite:///other.db",
    ),
    leak(
        "registry URI",
        "mlflow.set_registry_uri('sqlite:///models.db')",
        "registry URI changed to sqlite:///models.db",
    ),
    leak("experiment", "mlflow.set_experiment('other')", "active experiment changed to 'other'"),
    leak("variable set", "os.environ['MLFLOW_RUN_NAME'] = 'x'", "`MLFLOW_RUN_NAME` set"),
    leak("variable changed", "os.environ['MLFLOW_OF_THE_USER'] = 'x'", "`MLFLOW_OF_THE_USER` changed"),
    leak("variable deleted", "del os.environ['MLFLOW_OF_THE_USER']", "`MLFLOW_OF_THE_USER` deleted"),
    leak(
        "autologging of a flavour",
        "mlflow.sklearn.autolog()",
        "autologging of sklearn left on",
        after="""
        from sklearn.linear_model import LinearRegression
        LinearRegression().fit([[1], [2]], [1, 2])
        assert mlflow.search_runs(output_format="list") == []
        """,
    ),
    leak(
        "autologging before the library is imported",
        "assert 'lightgbm' not in sys.modules; mlflow.autolog(); import lightgbm",
        "autologging left on",
        after="""
        import lightgbm, numpy
        lightgbm.train({"verbosity": -1}, lightgbm.Dataset(numpy.ones((2, 1)), label=[1, 2]))
        assert mlflow.search_runs(output_format="list") == []
        """,
        marks=pytest.mark.skipif(find_spec("lightgbm") is None, reason="lightgbm is not installed"),
    ),
    leak(
        "callback that ends the active run when it is collected",
        """
        class Callback:
            def __del__(self): mlflow.end_run()
        callback = Callback()
        callback.itself = callback
        mlflow.start_run(run_name="mine")
        """,
        RUN % "mine",
        after="""
        with mlflow.start_run() as run:
            gc.collect()
            assert mlflow.active_run() is run
        """,
    ),
    leak(
        "closed work",
        """
        with mlflow.start_run():
            mlflow.log_metric("loss", 1)
        with mlflow.start_span("work"): pass
        assert mlflow.last_active_run() is not None
        """,
        after="assert mlflow.last_active_run() is None",
        unseen=True,
    ),
    leak(
        "prompts that were read",
        """
        mlflow.genai.register_prompt("qa", "first {{ x }}")
        assert mlflow.genai.load_prompt("qa", version=1).template == "first {{ x }}"
        """,
        after="""
        mlflow.genai.register_prompt("qa", "second {{ x }}")
        assert mlflow.genai.load_prompt("qa", version=1).template == "second {{ x }}"
        """,
        unseen=True,
        marks=mlflow_3_only,
    ),
    leak("autologging", "mlflow.autolog()", "autologging left on"),
    leak(
        "autologging off for all",
        "mlflow.utils.autologging_utils._AUTOLOGGING_GLOBALLY_DISABLED = True",
        "autologging disabled for all",
    ),
    leak(
        "system metrics on",
        "mlflow.enable_system_metrics_logging()",
        "`MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING` set",
    ),
    leak("async logging", "mlflow.config.enable_async_logging()", "`MLFLOW_ENABLE_ASYNC_LOGGING` set"),
    leak(
        "tracing destination",
        """
        from mlflow.entities.trace_location import MlflowExperimentLocation
        mlflow.tracing.set_destination(MlflowExperimentLocation("0"))
        """,
        "tracing destination set",
        marks=mlflow_3_only,
    ),
    leak("tracing off", "mlflow.tracing.disable()", "tracing disabled"),
    leak(
        "open span",
        "HELD.append(mlflow.start_span('forgotten')); HELD[-1].__enter__()",
        "span 'forgotten' left open",
    ),
    leak(
        "active model", "mlflow.set_active_model(name='agent')", "active model set to m-", marks=mlflow_3_only
    ),
    leak("logger.add", "logger.add('their.log')", r"loguru handler \d+ left, with the sink 'their.log'"),
    leak("logger.remove", "logger.remove()", "loguru handler of LoggerService removed"),
    leak("extra", "logger.configure(extra={'user': 'me'})", "loguru's extra 'user' set"),
    leak("patcher", "logger.configure(patcher=lambda record: None)", "loguru's patcher changed"),
    leak("level", "logger.level('NOTICE', no=22)", "loguru level NOTICE added"),
    leak("logger.disable", "logger.disable('package')", "loguru disabled for `package`"),
    leak(
        "contextualize",
        "HELD.append(logger.contextualize(job=1)); HELD[-1].__enter__()",
        r"loguru's contextualize\(job=…\) left open",
    ),
    leak("logging.disable", "logging.disable(logging.CRITICAL)", "logging disabled up to CRITICAL"),
    leak("root level", "logging.root.setLevel(5)", "level of the root logger changed to "),
    leak(
        "root handler",
        "logging.root.addHandler(logging.StreamHandler())",
        "root logging handler <StreamHandler .*> left",
    ),
    leak("service", "AlertsService(enable=False).start()", "AlertsService left running"),
    leak(
        "service that holds a library",
        "LoggerService(sink='their.log').start()",
        "LoggerService left running",
        r"loguru handler \d+ left, with the sink 'their.log'",
    ),
    leak(
        "services of a job that fails",
        """
        with pytest.raises(ZeroDivisionError):
            for service in (AlertsService(), SERVICE[0]):
                service.start()
            1 / 0
        """,
        "AlertsService left running",
        "MlflowService left running",
    ),
    leak("service of the session", "AlertsService.current().stop()", "AlertsService no longer running"),
    leak("mlruns", "Path('mlruns').mkdir()", r"\S+/mlruns written", unseen=True),
    leak("mlflow.db", "sqlite3.connect('mlflow.db').close()", r"\S+/mlflow.db written", unseen=True),
]


class Recorder:
    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.leaks: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        if report.failed:
            self.failures[name] = report.longreprtext
        if hasattr(report, "mlctx_leaks"):
            self.leaks[name] = report.mlctx_leaks


@pytest.fixture(scope="module")
def recorded(mlflow_imported: None, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """One session in which each leak is followed by a test that finds none."""
    folder = tmp_path_factory.mktemp("leaks")
    source = [textwrap.dedent(PROBE)]
    for number, parameters in enumerate(LEAKS):
        source.append(textwrap.dedent(PAIR).format(number=number, **parameters.values[1]))
    (folder / "test_suite.py").write_text("\n".join(source))
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        arguments = [
            "-p",
            "mlctx",
            "-p",
            "no:cacheprovider",
            "--import-mode=importlib",
            "--rootdir",
            str(folder),
        ]
        code = pytest.main(
            [*arguments, "--mlctx-leaks=warn", "-W", "ignore::pytest_mlctx.LeakWarning"], [recorder]
        )
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    return recorder


@pytest.mark.parametrize(
    "number", [pytest.param(n, id=leak.id, marks=leak.marks) for n, leak in enumerate(LEAKS)]
)
def test_leak(recorded: Recorder, number: int) -> None:
    name, following = f"test_{number}_leaving", f"test_{number}_after"
    assert [recorded.failures.get(one) for one in (name, following)] == [None, None]
    sentences = ", ".join(sentence + "[^,]*" for sentence in LEAKS[number].values[0])
    told = "; ".join(recorded.leaks.get(name, []))
    assert re.fullmatch(rf"test_suite\.py::{name}: {sentences}" if sentences else "", told), told
    assert following not in recorded.leaks
