"""Suites of evaluations: nothing crosses from test to test, and results are those of MLflow alone."""

from __future__ import annotations

import importlib
import json
import os
import textwrap
from contextlib import suppress
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("evaluation_imported", "no_other_plugin", "put_back", "quiet")

HEAD = """
import asyncio, json, threading, time
from concurrent.futures import ThreadPoolExecutor
import mlflow, pytest
from mlflow.entities import AssessmentSource, Feedback
from mlflow.genai import datasets
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import scorer

ME = AssessmentSource("HUMAN", "me")
DATA = [
    {"inputs": {"question": question}, "expectations": {"answer": answer}}
    for question, answer in {"a": "A", "b": "x", "c": "C"}.items()
]

@mlflow.trace(span_type="AGENT")
def agent(question):
    return question.upper()

@scorer
def exact(outputs, expectations): return outputs == expectations["answer"]

@scorer
def length(outputs): return len(outputs)

@scorer
def explained(outputs): return Feedback(value="yes", rationale="because")

@scorer
def fails(outputs): raise ValueError("no score")

def stored(): return mlflow.search_traces(return_type="list")

def runs(): return mlflow.search_runs(output_format="list")
"""


@pytest.fixture(scope="module")
def evaluation_imported(mlflow_imported: None) -> None:
    """What evaluations import late: pytester takes away what an inner session has imported."""
    pytest.importorskip("mlflow.genai.judges.make_judge", reason="this MLflow evaluates no agents")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else litellm asks the network, thrice
    for name in (
        "mlflow.genai.datasets",
        "mlflow.genai.evaluation.harness",
        "mlflow.genai.judges.structured_judge",
        "mlflow.genai.judges.adapters.gateway_adapter",
        "mlflow.models.evaluation",
        "mlflow.utils.import_hooks",
        "openai",
        "anthropic",
        "langchain_core.output_parsers",
        "mlflow.openai",
        "mlflow.anthropic",
        "mlflow.langchain",
        "mlflow.litellm",
    ):
        with suppress(ImportError):
            importlib.import_module(name)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bars of progress, and no prices of models from the network, which is tried for seconds."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")  # a flush of it takes a second


def session(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=HEAD + textwrap.dedent(source))
    return pytester.runpytest_inprocess("-q", *options)


ORDERS = [pytest.param((), id="forward"), pytest.param(("-p", "backward"), id="backward")]


@pytest.fixture
def backward(pytester: pytest.Pytester) -> None:
    """A plugin that turns the order of tests round."""
    pytester.makepyfile(backward="def pytest_collection_modifyitems(items): items.reverse()")
    pytester.syspathinsert()


COMPARED = """
PLAIN = PLAIN_MLFLOW
found = {}

@pytest.fixture(scope="session")
def own_store(tmp_path_factory):
    from pytest_mlctx.services.store import template
    path = tmp_path_factory.mktemp("plain") / "mlflow.db"
    path.write_bytes(template.image(None))  # as MLflow's migrations would have made it in seconds
    mlflow.set_tracking_uri(f"sqlite:///{path}")

@pytest.fixture(autouse=True)
def compared(request):
    if PLAIN:
        request.getfixturevalue("own_store")
        mlflow.set_experiment(request.node.name)
    else:
        request.getfixturevalue("mlflow_service")
    yield
    found[request.node.name] = {
        "runs": [[run.info.status, run.data.metrics, run.data.params] for run in runs()],
        "traces": sorted(json.dumps(plain(trace), sort_keys=True, default=str) for trace in stored()),
    }
    with open("found.json", "w") as file:
        json.dump(found, file)

CHANGING = ("mlflow.eval.requestId", "mlflow.artifactLocation", "mlflow.source", "mlflow.user",
            "mlflow.modelId", "mlflow.trace.size", "mlctx.", "mlflow.linkedPrompts")

def plain(trace):
    info = trace.info
    kept = {
        key: "…" if key == "mlflow.sourceRun" else value
        for key, value in {**info.tags, **info.trace_metadata}.items() if not key.startswith(CHANGING)
    }
    return [
        str(info.state), info.request_preview, info.response_preview, kept, info.token_usage,
        sorted(
            [each.name, each.value, each.rationale, str(each.source), each.error and each.error.error_message]
            for each in info.assessments
        ),
        [[span.name, span.span_type, span.inputs, span.outputs, str(span.status)]
         for span in trace.data.spans],
    ]

def test_scorers():
    mlflow.genai.evaluate(data=DATA, predict_fn=agent, scorers=[exact, length, explained, fails])

def test_no_predict_fn():
    data = [{"inputs": {"question": 1}, "outputs": "A", "expectations": {"answer": "A"}, "tags": {"a": "b"}}]
    mlflow.genai.evaluate(data=data, scorers=[exact])

def test_async():
    @mlflow.trace
    async def answer(question):
        await asyncio.sleep(0)
        return agent(question)
    mlflow.genai.evaluate(data=DATA, predict_fn=answer, scorers=[exact])

def test_untraced_and_failing():
    def answer(question):
        if question == "b": raise ValueError("no answer")
        return question
    mlflow.genai.evaluate(data=DATA, predict_fn=answer, scorers=[length])

def test_traces():
    agent("a"); agent("b")
    mlflow.genai.evaluate(data=mlflow.search_traces(), scorers=[length])

def test_sessions():
    @mlflow.trace
    def chat(message, session):
        metadata = {"mlflow.trace.session": session, "mlflow.trace.user": "me"}
        mlflow.update_current_trace(metadata=metadata)
        return message
    @scorer
    def turns(session): return len(session)
    for message in "ab":
        chat(message, "first")
        time.sleep(0.002)  # the score of a session is that of its first trace, by the millisecond
    chat("c", "second")
    mlflow.genai.evaluate(data=stored(), scorers=[turns])

def test_in_a_run():
    with mlflow.start_run():
        mlflow.log_param("before", 1)
        mlflow.genai.evaluate(data=DATA, predict_fn=agent, scorers=[exact])

def test_dataset():
    dataset = datasets.create_dataset(name="compared")
    dataset.merge_records(DATA)
    mlflow.genai.evaluate(data=datasets.get_dataset(name="compared"), predict_fn=agent, scorers=[exact])
    dataset.merge_records([{"inputs": {"question": "a"}, "expectations": {"answer": "z"}}])
    mlflow.genai.evaluate(data=dataset, predict_fn=agent, scorers=[exact])

def test_feedback():
    agent("a")
    trace_id = mlflow.get_last_active_trace_id()
    mlflow.log_feedback(trace_id=trace_id, name="good", value=True, source=ME)
    mlflow.log_expectation(trace_id=trace_id, name="answer", value={"a": 1}, source=ME)

def test_prompt():
    mlflow.genai.register_prompt(name="compared", template="Ask {{question}}")
    @mlflow.trace
    def answer(question):
        return mlflow.genai.load_prompt("prompts:/compared/1").format(question=question)
    mlflow.genai.evaluate(data=DATA, predict_fn=answer, scorers=[length])
"""


def compared(pytester: pytest.Pytester, *, plain: bool) -> dict[str, Any]:
    source = COMPARED.replace("PLAIN_MLFLOW", str(plain))
    options = ["-p", "no:mlctx"] if plain else []
    result = session(pytester, source, *options)
    result.assert_outcomes(passed=10)
    found: dict[str, Any] = json.loads((pytester.path / "found.json").read_text())
    return found


def test_the_results_are_those_of_mlflow_alone(pytester: pytest.Pytester) -> None:
    plain = compared(pytester, plain=True)
    ours = compared(pytester, plain=False)
    assert ours == plain
    assert all(found["traces"] for found in plain.values())


@pytest.mark.parametrize("order", ORDERS)
def test_nothing_crosses(pytester: pytest.Pytester, backward: None, order: tuple[str, ...]) -> None:
    result = session(
        pytester,
        """
@pytest.fixture(autouse=True)
def empty(mlflow_service, mlflow_traces):
    assert (runs(), stored(), mlflow_traces) == ([], [], [])
    assert mlflow.genai.search_prompts() == []
    assert datasets.search_datasets() == []
    assert mlflow.genai.scorers.list_scorers() == []
    assert mlflow.genai.load_prompt("prompts:/asks/1", allow_missing=True) is None
    assert mlflow.genai.load_prompt("prompts:/asks@prod", allow_missing=True) is None
    assert (mlflow.get_active_model_id(), mlflow.last_active_run()) == (None, None)
    assert mlflow.get_last_active_trace_id() is None

@pytest.fixture(params=range(2))
def number(request): return request.param

def test_evaluation(mlflow_traces, number):
    result = mlflow.genai.evaluate(data=DATA, predict_fn=agent, scorers=[exact, fails])
    (run,) = runs()
    assert run.info.run_id == result.run_id
    assert len(stored()) == len(mlflow_traces) == 3
    assert {trace.info.trace_id for trace in stored()} == {trace.info.trace_id for trace in mlflow_traces}

def test_in_the_run_of_the_test(mlflow_run):
    result = mlflow.genai.evaluate(data=DATA, predict_fn=agent, scorers=[exact])
    assert result.run_id == mlflow_run.info.run_id
    assert len(mlflow.search_traces(run_id=result.run_id, return_type="list")) == 3

@pytest.mark.mlctx_trials(3, pass_rate=0.5)
def test_in_trials(mlflow_traces):
    mlflow.genai.evaluate(data=DATA, predict_fn=agent, scorers=[exact])
    assert len(runs()) == 1
    assert len(stored()) == len(mlflow_traces) == 3

def test_of_the_outbox(mlflow_traces):
    agent("a")
    mlflow.genai.evaluate(data=mlflow_traces, scorers=[length])
    (trace,) = stored()
    assert [each.value for each in trace.info.assessments] == [1]

def test_prompt(number):
    prompt = mlflow.genai.register_prompt(name="asks", template=f"{number}: {{{{question}}}}")
    assert prompt.version == 1
    mlflow.genai.set_prompt_alias("asks", alias="prod", version=1)
    for name in ("asks/1", "asks@prod"):
        for seconds in (None, 1000):
            loaded = mlflow.genai.load_prompt(f"prompts:/{name}", cache_ttl_seconds=seconds)
            assert loaded.format(question="why") == f"{number}: why"

def test_dataset(number):
    dataset = datasets.create_dataset(name="questions", tags={"number": str(number)})
    dataset.merge_records(DATA[:number + 1])
    assert len(datasets.get_dataset(name="questions").to_df()) == number + 1

def test_session(mlflow_traces, number):
    with mlflow.start_span("chat"):
        mlflow.update_current_trace(metadata={"mlflow.trace.session": "s", "mlflow.trace.user": "me"})
    same = "metadata.`mlflow.trace.session` = 's'"
    (trace,) = mlflow.search_traces(filter_string=same, return_type="list")
    mlflow.log_feedback(trace_id=trace.info.trace_id, name="good", value=True, source=ME)
    assert len(mlflow.get_trace(trace.info.trace_id).info.assessments) == 1

def test_active_model():
    mlflow.set_active_model(name="agent")
    agent("a")
    assert len(mlflow.search_traces(model_id=mlflow.get_active_model_id(), return_type="list")) == 1

def test_scorer_of_the_experiment():
    make_judge(name="polite", instructions="Is {{ outputs }} polite?", model="openai:/m").register()
    assert len(mlflow.genai.scorers.list_scorers()) == 1

def test_threads(mlflow_traces):
    def ask(number):
        agent(str(number))
        trace = mlflow.get_trace(mlflow.get_last_active_trace_id(thread_local=True))
        mlflow.log_feedback(trace_id=trace.info.trace_id, name="f", value=number, source=ME)
        return trace.data.spans[0].inputs["question"]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(24))) == [str(number) for number in range(24)]
    assert sorted(trace.info.assessments[0].value for trace in stored()) == [*range(24)]
""",
        *order,
    )
    result.assert_outcomes(passed=14)


JUDGE = """
import requests

polite = make_judge(name="polite", instructions="Is {{ outputs }} polite?", model="openai:/fake")

class Answer:
    def __init__(self, status_code, content):
        self.status_code, self.content, self.text = status_code, content, json.dumps(content)
    def json(self): return self.content

@pytest.fixture
def model(monkeypatch, request):
    asked = []
    def post(url, *, json, **_):
        asked.append(json)
        if getattr(request, "param", False) and "response_format" in json:
            return Answer(400, {"error": {"message": "response_format is not supported"}})
        message = {"role": "assistant", "content": '{"result": "yes", "rationale": "so"}'}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        return Answer(200, {"id": "x", "object": "chat.completion", "created": 1, "model": "m",
                            "choices": choices, "usage": usage})
    monkeypatch.setattr(requests, "post", post)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return asked
"""


@pytest.mark.parametrize("order", ORDERS)
def test_what_a_judge_learnt_of_its_model_is_forgotten(
    pytester: pytest.Pytester, backward: None, order: tuple[str, ...]
) -> None:
    result = session(
        pytester,
        JUDGE
        + """
@pytest.mark.parametrize("model", [True], indirect=True)
def test_that_refuses(mlflow_service, model):
    assert polite(outputs="x").value == "yes"
    assert ["response_format" in asked for asked in model] == [True, False]

def test_that_does_not(mlflow_service, model):
    assert polite(outputs="x").value == "yes"
    assert ["response_format" in asked for asked in model] == [True]

@pytest.mark.parametrize("model", [True], indirect=True)
def test_that_refuses_again(mlflow_service, model):
    assert polite(outputs="x").value == "yes"
    assert ["response_format" in asked for asked in model] == [True, False]

def test_in_an_evaluation(mlflow_service, model):
    data = [{"inputs": {"question": question}, "outputs": question} for question in "ab"]
    result = mlflow.genai.evaluate(data=data, scorers=[polite])
    assert sorted(result.result_df["polite/value"]) == ["yes", "yes"]
    assert ["response_format" in asked for asked in model] == [True, True]
    assert {trace.info.assessments[0].name for trace in stored()} == {"polite"}
""",
        *order,
    )
    result.assert_outcomes(passed=4)
