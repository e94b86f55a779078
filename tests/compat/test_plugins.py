"""Other plugins of pytest beside this one: their typical use gives the same, and ours works within it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.compat
INSTALLED = {each.name for each in entry_points(group="pytest11")}

SUITES = Path(__file__).with_name("suites")


class Beside(NamedTuple):
    """A plugin, what a suite does with it (``theirs.py``), and more that uses ours (``ours.py``)."""

    plugins: str
    """The names of its entry points, separated by spaces."""
    options: str = ""
    either_order: bool = False
    """Whether the order in which the plugins are loaded may matter."""


BESIDE = {
    "randomly": Beside("randomly", "--randomly-seed=7"),
    "rerunfailures": Beside("rerunfailures", "--reruns=2", either_order=True),
    "timeout": Beside("timeout"),
    "asyncio": Beside("asyncio"),
    "anyio": Beside("anyio"),
    "mock": Beside("pytest_mock"),
    "cov": Beside("pytest_cov", "--cov=code_of_it --cov-report=xml --cov-fail-under=100"),
    "benchmark": Beside("benchmark"),
    "loguru": Beside("loguru", either_order=True),
    "hypothesis": Beside("hypothesispytest"),
    "django": Beside("django", "--ds=settings_of_it"),
    "syrupy": Beside("syrupy", "--snapshot-update"),
    "subtests_of_a_plugin": Beside("subtests"),
    "sugar": Beside("sugar"),
    "html": Beside("html metadata", "--html=report.html --self-contained-html"),
    "order": Beside("pytest_order"),
    "repeat": Beside("repeat", "--count=2"),
    "harvest": Beside("xdist harvest"),
    "testmon": Beside("pytest-testmon", "--testmon"),
    "logfire": Beside("logfire pytest_logfire", either_order=True),
    "langsmith": Beside("langsmith_plugin"),
    "deepeval": Beside("deepeval"),
    "xdist": Beside("xdist", "-n2", either_order=True),
}


def run(folder: Path, plugins: list[str], options: str, names: list[str]) -> dict[str, str]:
    """The outcome of each test."""
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=junit.xml", *options.split()]
    command += [part for plugin in plugins for part in ("-p", plugin)]
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
        "LANGSMITH_TRACING": "false",
        "LANGSMITH_TEST_TRACKING": "false",
        "LOGFIRE_SEND_TO_LOGFIRE": "false",
        "DEEPEVAL_TELEMETRY_OPT_OUT": "YES",
    }
    for made in (folder / "junit.xml", *folder.glob(".testmondata*")):
        made.unlink(missing_ok=True)
    done = subprocess.run(
        [*command, *names], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (folder / "junit.xml").exists(), done.stdout + done.stderr
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(folder / "junit.xml").iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes[name] = " ".join([*filter(None, [outcomes.get(name)]), *(kinds or ["passed"])])
    assert outcomes, done.stdout + done.stderr
    (folder / "output").write_text(done.stdout + done.stderr)
    return outcomes


@pytest.mark.parametrize("name", BESIDE)
def test_beside(tmp_path: Path, name: str) -> None:
    beside = BESIDE[name]
    theirs = beside.plugins.split()
    if not INSTALLED.issuperset(theirs):
        pytest.skip(f"needs the plugin {beside.plugins}")
    shutil.copy(SUITES / "ours.py", tmp_path / "test_ours.py")
    for file in (SUITES / name).iterdir():
        called = {"theirs.py": "test_theirs.py", "ours.py": "test_ours_more.py"}.get(file.name, file.name)
        shutil.copy(file, tmp_path / called)
    alone = run(tmp_path, theirs, beside.options, ["test_theirs.py"])
    together = run(tmp_path, ["mlctx", *theirs], beside.options, ["."])
    told = (tmp_path / "output").read_text()
    assert {test: outcome for test, outcome in together.items() if test.startswith("test_theirs")} == alone, (
        told
    )
    ours = {test: outcome for test, outcome in together.items() if not test.startswith("test_theirs")}
    failed = {test for test, outcome in ours.items() if set(outcome.split()) != {"passed"}}
    assert failed == {test for test in ours if test.endswith("takes_too_long")}, told
    assert len(ours) >= 3
    if beside.either_order:
        again = run(tmp_path, [*theirs, "mlctx"], f"{beside.options} --mlctx-leaks=error", ["."])
        assert again == together, (tmp_path / "output").read_text()


def test_beside_mlflows_own_plugin(tmp_path: Path) -> None:
    pytest.importorskip("mlflow.pytest", reason="this MLflow has no plugin of its own")
    (tmp_path / "test_it.py").write_text(
        dedent(
            """
            import mlflow, pytest

            @mlflow.test
            def test_theirs(mlflow_service):
                with mlflow.start_span("agent"): pass
                assert mlflow.active_run() is not None

            def test_plain(mlflow_service):
                with mlflow.start_run(): mlflow.log_metric("m", 1)

            @mlflow.test
            def test_theirs_again(mlflow_service):
                assert mlflow.active_run() is not None
            """
        )
    )
    for plugins, store in (
        (["mlctx", "mlflow.pytest.plugin"], ""),
        (["mlflow.pytest.plugin", "mlctx"], "--mlctx-tracking-uri=sqlite:///kept.db"),
    ):
        outcomes = run(tmp_path, plugins, f"--mlctx-leaks=error {store}", ["test_it.py"])
        assert set(outcomes.values()) == {"passed"}, (tmp_path / "output").read_text()
    with closing(sqlite3.connect(tmp_path / "kept.db")) as kept:
        theirs = kept.execute(
            "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = 'mlflow.runType'"
        ).fetchall()
        tagged = kept.execute("SELECT value FROM trace_tags WHERE key = 'mlflow.test.name'").fetchall()
    assert theirs == [("FINISHED",)]
    assert tagged == [("test_it.py::test_theirs",)]


def test_beside_mlflows_own_plugin_with_no_service_in_force(tmp_path: Path) -> None:
    pytest.importorskip("mlflow.pytest", reason="this MLflow has no plugin of its own")
    (tmp_path / "test_it.py").write_text(
        dedent(
            """
            import mlflow, pytest

            @pytest.fixture(autouse=True, scope="session")
            def store():
                mlflow.set_tracking_uri("sqlite:///own.db")

            @mlflow.test
            def test_theirs(): assert mlflow.active_run() is not None

            def test_plain():
                with mlflow.start_run(): pass

            @mlflow.test
            def test_theirs_again(): assert mlflow.active_run() is not None
            """
        )
    )
    outcomes = run(tmp_path, ["mlctx", "mlflow.pytest.plugin"], "--mlctx-leaks=warn", ["test_it.py"])
    assert set(outcomes.values()) == {"passed"}, (tmp_path / "output").read_text()
    with closing(sqlite3.connect(tmp_path / "own.db")) as kept:
        theirs = kept.execute(
            "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = 'mlflow.runType'"
        ).fetchall()
    assert theirs == [("FINISHED",)]
    assert "left open" not in (tmp_path / "output").read_text()


STRICT = """
[tool.pytest]
strict = true
# MLflow warns itself when it is imported, and traces nothing where that raises.
filterwarnings = [
    "error",
    "ignore:The ``noload`` loader:DeprecationWarning",
    "ignore:.*Any type hint:UserWarning",
]
mlctx_autouse = ["logger", "alerts", "mlflow"]
mlctx_leaks = "error"
"""


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="pytest before 9")
def test_strict_pytest_9_with_its_own_table_and_subtests(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(STRICT)
    shutil.copy(SUITES / "ours.py", tmp_path / "test_ours.py")
    (tmp_path / "test_parts.py").write_text(
        dedent(
            """
            import mlflow

            def test_parts(subtests):
                for number in range(2):
                    with subtests.test(number=number):
                        with mlflow.start_run(): mlflow.log_metric("m", number)
                assert len(mlflow.search_runs(output_format="list")) == 2
            """
        )
    )
    outcomes = run(tmp_path, ["mlctx"], "", ["."])
    assert set(outcomes.values()) == {"passed"}, (tmp_path / "output").read_text()
