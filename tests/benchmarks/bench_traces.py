"""Traces: calls that nobody reads, a trace of 50 spans, an evaluation, and the suite of a small agent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PLAIN = """
import mlflow, pytest

@pytest.fixture(scope="session", autouse=True)
def store(tmp_path_factory):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('plain')}/mlflow.db")

@pytest.fixture(autouse=True)
def experiment(request):
    mlflow.set_experiment(request.node.name)
"""
OURS = """
import mlflow, pytest

@pytest.fixture(autouse=True)
def experiment(mlflow_service): pass
"""
SEARCH = "(trace,) = mlflow.search_traces(return_type='list')"
READ = {
    "MLflow, flushed": f"mlflow.flush_trace_async_logging(); {SEARCH}",
    "MLflow, not in the background": SEARCH,
    "ours": "(trace,) = mlflow_traces",
}
CALLS = """
import time

def call(spans=1):
    with mlflow.start_span("agent") as span:
        span.set_inputs({"question": "why"})
        for number in range(spans - 1):
            with mlflow.start_span("tool", span_type="TOOL") as tool:
                tool.set_inputs({"number": number})
        span.set_outputs("because")

def test_warm(): call(2); call(2); mlflow.flush_trace_async_logging(); mlflow.search_traces()

def test_timed():
    began = time.perf_counter()
    WORK
    seconds = time.perf_counter() - began
    open("seconds", "w").write(str(seconds / COUNT))
"""
AGENT = """
@mlflow.trace(span_type="TOOL")
def search(query): return [query]

@mlflow.trace(span_type="AGENT")
def agent(question): return search(question)[0]

@pytest.mark.parametrize("number", range(COUNT))
def test_agent(number, TRACES):
    agent(f"question {number}")
    READ
    (tool,) = trace.search_spans(span_type="TOOL")
    assert tool.inputs == {"query": f"question {number}"}
    assert tool.outputs == [f"question {number}"]
    assert str(trace.info.state).endswith("OK")
"""


EVALUATION = """
import time
from mlflow.genai.scorers import scorer

@mlflow.trace
def agent(question): return question

@scorer
def length(outputs): return len(outputs)

def evaluate():
    data = [{"inputs": {"question": str(number)}} for number in range(8)]
    mlflow.genai.evaluate(data=data, predict_fn=agent, scorers=[length])

def test_warm(): evaluate()

def test_timed():
    began = time.perf_counter()
    evaluate()
    open("seconds", "w").write(str(time.perf_counter() - began))
"""


def session(folder: Path, way: str, source: str) -> float:
    """Seconds that a whole session takes."""
    (folder / "test_it.py").write_text((OURS if way == "ours" else PLAIN) + source)
    background = str(way == "MLflow, flushed").lower()
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
        "MLFLOW_MODEL_CATALOG_URI": "",  # else an evaluation asks the network
        "TQDM_DISABLE": "1",
    }
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "mlctx", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**environment, "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": background},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - began


def timed(folder: Path, way: str, work: str, count: int = 1) -> float:
    """Seconds of a part of one test."""
    session(folder, way, CALLS.replace("WORK", work).replace("COUNT", str(count)))
    return float((folder / "seconds").read_text())


@pytest.mark.parametrize("way", READ)
def bench_a_call_that_nobody_reads(measure: Any, tmp_path: Path, way: str) -> None:
    flush = "; mlflow.flush_trace_async_logging()" if way == "MLflow, flushed" else ""
    work = f"[call() for _ in range(20)]{flush}"
    measure("a traced call that nobody reads", way, lambda: timed(tmp_path, way, work, 20))


@pytest.mark.parametrize("way", READ)
def bench_50_spans_that_nobody_reads(measure: Any, tmp_path: Path, way: str) -> None:
    flush = "; mlflow.flush_trace_async_logging()" if way == "MLflow, flushed" else ""
    work = f"call(50){flush}"
    measure("a trace of 50 spans that nobody reads", way, lambda: timed(tmp_path, way, work))


@pytest.mark.parametrize("way", READ)
def bench_50_spans_read_back(measure: Any, tmp_path: Path, way: str) -> None:
    flush = "mlflow.flush_trace_async_logging(); " if way == "MLflow, flushed" else ""
    work = f"call(50); {flush}mlflow.get_trace(mlflow.get_last_active_trace_id())"
    measure("a trace of 50 spans, read back from the store", way, lambda: timed(tmp_path, way, work))


@pytest.mark.parametrize("way", READ)
def bench_an_evaluation(measure: Any, tmp_path: Path, way: str) -> None:
    pytest.importorskip("mlflow.genai", reason="this MLflow evaluates no agents")

    def evaluated() -> float:
        session(tmp_path, way, EVALUATION)
        return float((tmp_path / "seconds").read_text())

    measure("an evaluation of 8 rows, not the first", way, evaluated)


@pytest.mark.parametrize("way", READ)
def bench_a_suite_of_an_agent(measure: Any, tmp_path: Path, way: str) -> None:
    count = 200
    source = AGENT.replace("READ", READ[way]).replace("COUNT", str(count))
    source = source.replace("TRACES", "mlflow_traces" if way == "ours" else "experiment")
    measure(f"{count} tests of an agent, whole process", way, lambda: session(tmp_path, way, source))
