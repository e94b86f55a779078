from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_mlctx import default_store
from pytest_mlctx.services import store

REMEDY = ": let it request mlflow_service, or set mlctx_autouse = mlflow"
SERVED = "\n    def test_served(logger_service): pass"

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin", "as_before")

USES = {
    "run": "with mlflow.start_run(): pass",
    "trace": "with mlflow.start_span('span'): pass",
    "experiment": "mlflow.set_experiment('new')",
    "search": "mlflow.search_runs()",
    "client": "mlflow.MlflowClient().create_run('0')",
}
OWN_WAYS = {
    "import only": "pass",
    "a store of the test's own": (
        "mlflow.set_tracking_uri(f'sqlite:///{tmp_path}/own.db'); mlflow.search_runs()"
    ),
    "a variable of the test's own": (
        "monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/own.db'); mlflow.search_runs()"
    ),
    "a client": "mlflow.MlflowClient(f'sqlite:///{tmp_path}/own.db').search_experiments()",
    "a working folder of the test's own": "monkeypatch.chdir(tmp_path); mlflow.search_runs()",
    "a service of the test's own": (
        "from pytest_mlctx import MlflowService\n"
        "        with MlflowService(tracking_uri=f'sqlite:///{tmp_path}/own.db'): mlflow.search_runs()"
    ),
}


@pytest.fixture
def as_before(pytester: pytest.Pytester) -> Iterator[Callable[[], None]]:
    """The default store in this test's folder; MLflow's state is given back at the end, and by a call."""
    from pytest_mlctx.services import state

    before = state.capture("mlflow", "environment")
    yield lambda: state.restore(before)
    state.restore(before)


def said(pytester: pytest.Pytester, test: str, *args: str) -> list[str]:
    pytester.makepyfile(test_it=test)
    result = pytester.runpytest_inprocess(*args)
    assert result.ret == 0, str(result.stdout)
    return [line for line in result.outlines if "mlctx_autouse" in line]


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_where_services_are_used_the_first_test_without_is_named(
    pytester: pytest.Pytester, as_before: Callable[[], None], use: str
) -> None:
    store.fill(pytester.path / "mlflow.db")  # MLflow itself takes seconds
    suite = f"""
    import mlflow

    def test_innocent(): pass

    def test_first():
        {use}

    def test_second():
        {use}
    {SERVED}
    """
    (line,) = said(pytester, suite)
    assert line.startswith("mlctx: test_it.py::test_first used ")
    assert line.endswith(f" with no service in force{REMEDY}")
    assert str(pytester.path) in line
    # In a second session, where the files are there already, too; in a process of its own it traces anew.
    as_before()
    assert said(pytester, suite) == [line]


@pytest.mark.parametrize("way", OWN_WAYS.values(), ids=OWN_WAYS)
def test_a_way_of_the_suite_s_own_is_not_told(pytester: pytest.Pytester, way: str) -> None:
    suite = f"""
    import mlflow
    from pytest_mlctx.services import store

    def test(tmp_path, monkeypatch):
        for name in ("own.db", "mlflow.db"):
            store.fill(tmp_path / name)
        {way}
    {SERVED}
    """
    assert said(pytester, suite) == []


def test_with_the_service_in_force_nothing_is_told(pytester: pytest.Pytester) -> None:
    suite = """
    import mlflow

    def test_requests(mlflow_service): mlflow.search_runs()
    def test_later(): mlflow.search_runs()
    """
    assert said(pytester, suite) == []


def test_an_ambient_server_that_a_test_would_reach_is_told_without_credentials(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:geheim@127.0.0.1:9")
    suite = f"""
    import mlflow

    def test():
        mlflow.MlflowClient()
    {SERVED}
    """
    (line,) = said(pytester, suite)
    assert line == f"mlctx: test_it.py::test used http://***@127.0.0.1:9 with no service in force{REMEDY}"


UNUSED = """
    import time
    import mlflow

    def teardown_function(): time.sleep(0.05)  # the clock of files is coarse

    def test_innocent(): pass

    def test_first(): mlflow.search_runs()

    def test_second():
        with mlflow.start_run(): mlflow.log_text("x", "x.txt")
"""


def test_where_no_service_is_used_new_files_are_told_with_the_test_that_made_them(
    pytester: pytest.Pytester,
) -> None:
    (line,) = said(pytester, UNUSED)
    left = [name for name in ("mlflow.db", "mlruns") if (pytester.path / name).exists()]
    assert line == f"mlctx: test_it.py::test_first left {', '.join(left)} in {pytester.path}{REMEDY}"
    assert said(pytester, UNUSED) == []  # they are not new any more


def test_of_tests_at_the_same_moment_all_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    folder.mkdir()
    os.utime(folder, (1000, 1000))
    moments = {"before": (990, 999.9), "just before": (999.9, 1000), "just after": (1000.005, 1001)}
    moments |= {"beside": (998, 1010), "after": (1000.1, 1001)}
    reports = [SimpleNamespace(nodeid=name, start=a, stop=b) for name, (a, b) in moments.items()]
    found = default_store.writer([folder], [*reports, SimpleNamespace(nodeid="a warning")])
    assert found == ("just before or just after or beside", f"left mlruns in {tmp_path}")


def test_a_file_that_says_nothing_of_its_time_is_told_without_a_test(pytester: pytest.Pytester) -> None:
    suite = "def test():\n    open('mlflow.db', 'w').close()"
    assert said(pytester, suite) == [f"mlctx: a test left mlflow.db in {pytester.path}{REMEDY}"]


def test_a_store_that_was_asked_for_is_no_news(pytester: pytest.Pytester) -> None:
    suite = "def test(mlflow_run): pass"
    assert said(pytester, suite, "--mlctx-tracking-uri=sqlite:///mlflow.db") == []
    assert (pytester.path / "mlflow.db").exists()


@pytest.mark.parametrize("served", [SERVED, pytest.param("", marks=pytest.mark.slow)])
def test_under_xdist(pytester: pytest.Pytester, served: str) -> None:
    suite = UNUSED + served
    (line,) = said(pytester, suite, "-p", "xdist", "-n1")
    assert line.startswith("mlctx: test_it.py::test_first " + ("used " if served else "left "))


@pytest.mark.slow
def test_a_store_that_was_asked_for_is_no_news_under_xdist(pytester: pytest.Pytester) -> None:
    suite = "def test(mlflow_run): pass"
    assert said(pytester, suite, "-p", "xdist", "-n1", "--mlctx-tracking-uri=sqlite:///mlflow.db") == []


def test_the_names_are_those_that_the_state_knows() -> None:
    from pytest_mlctx.services.state import files
    from pytest_mlctx.session import MLFLOW_FILES

    assert set(MLFLOW_FILES) == set(files._NAMES)
