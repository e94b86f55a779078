"""An MLflow that has a private name no more: one line says what follows, and every test has its outcome."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_mlctx.services import mlflow_internals

CONFTEST = """
from pytest_mlctx.services import mlflow_internals

name = mlflow_internals._BY_PATH["{path}"]
mlflow_internals._BY_PATH["{path}"] = name._replace({change})
"""
SUITE = """
import mlflow
import pytest
from loguru import logger

def test_leaves_a_run_open(mlflow_service, logger_service, caplog):
    logger.info("told")
    assert "told" in caplog.messages
    mlflow.autolog()
    mlflow.start_run()

def test_run(mlflow_run, alerts_outbox):
    mlflow.log_metric("m", 1)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.run_id == mlflow_run.info.run_id

def test_sandbox(mlflow_sandbox):
    assert mlflow.search_runs(output_format="list") == []

def test_store_of_its_own(mlflow_service, tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/own.db")
    with mlflow.start_run():
        mlflow.log_param("p", 1)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.data.params == {"p": "1"}
    mlflow.set_tracking_uri(mlflow_service.tracking_uri)

def test_model(mlflow_service):
    class Model(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    with mlflow.start_run():
        mlflow.pyfunc.log_model("model", python_model=Model(), pip_requirements=[])

def test_trace(mlflow_service, mlflow_traces):
    with mlflow.start_span("agent"):
        pass
    (trace,) = mlflow.MlflowClient().search_traces(["0", mlflow.get_experiment_by_name("x").experiment_id])
    assert [span.name for span in trace.data.spans] == ["agent"]
"""
QUICK = ("InMemoryTraceManager.pop_trace", "takes=99")
CASES = [
    pytest.param(
        name,
        change,
        marks=() if (name.path, change) == QUICK else pytest.mark.slow,
        id=f"{name.path}-{change.partition('=')[0]}",
    )
    for name in mlflow_internals.NAMES
    for change in ("module='mlflow.nowhere'", *(("takes=99",) if name.takes is not None else ()))
]


@pytest.mark.parametrize(("name", "change"), CASES)
def test_without_a_name(tmp_path: Path, name: mlflow_internals.Name, change: str) -> None:
    if mlflow_internals.numbers("mlflow-skinny") < name.since:
        pytest.skip("this MLflow has not had it yet")
    (tmp_path / "conftest.py").write_text(CONFTEST.format(path=name.path, change=change))
    (tmp_path / "test_it.py").write_text(SUITE)
    options = ["--mlctx-experiment=x", "--mlctx-stores=template", "--mlctx-leaks=warn"]
    xdist = ["-p", "xdist.plugin", "-n1"] if name.path == "_get_source_name" else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "mlctx", "-p", "no:cacheprovider", *options, *xdist],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "COLUMNS": "400"},
        capture_output=True,
        text=True,
    )
    told = done.stdout + done.stderr
    assert re.search(r"^6 passed", told, re.M), told
    said = re.findall(r"^mlctx: (MLflow [\d.]+ has no .*)", told, re.M)
    assert len(said) == 1, told
    assert said[0].endswith(f"as this plugin knows it: {name.consequence}.")
    assert "Traceback" not in told
