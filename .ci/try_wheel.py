"""Try what is published as its users meet it: the wheel alone in an empty environment, and one test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TEST = """
import mlflow

def test_run(mlflow_run, logger_service, alerts_outbox):
    mlflow.log_metric("accuracy", 0.9)
    run = mlflow.get_run(mlflow_run.info.run_id)
    assert mlflow.get_experiment(run.info.experiment_id).name == "x"
    assert run.data.metrics == {"accuracy": 0.9}
"""

folder = Path(sys.argv[1]).resolve()
(wheel,) = Path("dist").glob("*.whl")
environment = folder / "environment"
subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, environment], check=True)
python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, wheel], check=True)
suite = folder / "suite"
suite.mkdir(exist_ok=True)
(suite / "pytest.ini").write_text("[pytest]\n")  # not the checkout's
(suite / "test_run.py").write_text(TEST)
subprocess.run([python, "-m", "pytest", "--mlctx-experiment=x"], cwd=suite, check=True)
