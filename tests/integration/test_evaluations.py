"""Suites of evaluations: nothing crosses from test to test, and results are those of MLflow alone."""

from __future__ import annotations

import importlib
import json
import logging
import os
import textwrap
from contextlib import suppress
from typing import Any

import pytest
from beside_mlflow import suite

from pytest_mlctx.services import state

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
        "databricks.sdk",
        "git",
        "mlflow.evaluation",
        "mlflow.tracing.export.inference_table",
        "mlflow.tracing.processor.mlflow_v3",
        "openai.resources.chat",
        "mlflow.genai.datasets",
        "mlflow.genai.evaluation.harness",
        "mlflow.genai.judges.structured_judge",
        "mlflow.genai.judges.adapters.gateway_adapter",
        "mlflow.models.evaluation",
        "mlflow.utils.import_hooks",
        "openai",
        "anthropic",
        "langchain_core.language_models.fake_chat_models",
        "langchain_core.output_parsers.string",
        "langchain_core.prompts.chat",
        "langchain_core.runnables.graph",
        "langchain_core.tracers.event_stream",
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
def look():
    return {
        "runs": [[run.info.status, run.data.metrics, run.data.params] for run in runs()],
        "traces": sorted(json.dumps(plain(trace), sort_keys=True, default=str) for trace in stored()),
    }

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
    source = suite(COMPARED, plain=plain)
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


def test_what_litellm_configures_when_it_is_imported_stays() -> None:
    litellm = pytest.importorskip("litellm._logging")
    if not hasattr(litellm, "_redact_third_party_loggers"):
        pytest.skip("this litellm lets the loggers of others be")
    logger, before_import = logging.getLogger("httpx"), state.capture("logging")
    logger.filters.clear()
    logger.setLevel(logging.NOTSET)
    before = state.capture("logging")
    litellm._suppress_loggers()
    litellm._redact_third_party_loggers()
    (secrets,) = logger.filters
    assert [change.sentence for change in state.compare(before, state.capture("logging"))] == [None]
    state.restore(before)
    assert logger.filters == [secrets]
    state.restore(before_import)


def test_what_a_judge_learnt_of_its_model_is_forgotten(pytester: pytest.Pytester) -> None:
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
    )
    result.assert_outcomes(passed=4)


CLIENTS = {
    "openai": """
def faked(make):
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    message = {"role": "assistant", "content": "Paris"}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return over(make, {"id": "x", "object": "chat.completion", "created": 1, "model": "fake",
                       "choices": choices, "usage": usage})

ASKED = {"model": "fake", "messages": [{"role": "user", "content": "capital?"}]}

def ask():
    client = faked(lambda http, to: openai.OpenAI(api_key="none", http_client=http.Client(transport=to)))
    return client.chat.completions.create(**ASKED).choices[0].message.content

async def ask_later():
    client = faked(lambda http, to: openai.AsyncOpenAI(api_key="none",
                                                       http_client=http.AsyncClient(transport=to)))
    return (await client.chat.completions.create(**ASKED)).choices[0].message.content
""",
    "anthropic": """
def faked(make):
    content = [{"type": "text", "text": "Paris"}]
    return over(make, {"id": "m", "type": "message", "role": "assistant", "model": "fake",
                       "stop_reason": "end_turn", "stop_sequence": None, "content": content,
                       "usage": {"input_tokens": 3, "output_tokens": 4}})

ASKED = {"model": "fake", "max_tokens": 9, "messages": [{"role": "user", "content": "capital?"}]}

def ask():
    make = lambda http, to: anthropic.Anthropic(api_key="none", http_client=http.Client(transport=to))
    return faked(make).messages.create(**ASKED).content[0].text

async def ask_later():
    make = lambda http, to: anthropic.AsyncAnthropic(api_key="none",
                                                     http_client=http.AsyncClient(transport=to))
    return (await faked(make).messages.create(**ASKED)).content[0].text
""",
    "langchain": """
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

def chain():
    model = FakeListChatModel(responses=["Paris"])
    return ChatPromptTemplate.from_template("{q}") | model | StrOutputParser()

def ask(): return chain().invoke({"q": "capital?"})

async def ask_later(): return await chain().ainvoke({"q": "capital?"})
""",
    "litellm": """
MESSAGES = [{"role": "user", "content": "capital?"}]
ASKED = {"model": "openai/fake", "messages": MESSAGES, "mock_response": "Paris"}

def ask(): return litellm.completion(**ASKED).choices[0].message.content

async def ask_later():
    answer = await litellm.acompletion(**ASKED)
    await asyncio.sleep(0.1)  # litellm tells its callbacks in a task of its own
    return answer.choices[0].message.content
""",
}

ASKING = """
import importlib
MODULE

def over(make, answer):
    for name in ("httpx", "httpx2"):
        try:
            http = importlib.import_module(name)
            return make(http, http.MockTransport(lambda _: http.Response(200, json=answer)))
        except (ImportError, TypeError):
            continue
CLIENT
def both(): return ask(), asyncio.run(ask_later())

@pytest.fixture(scope="class")
def on(mlflow_service):
    mlflow.FLAVOR.autolog()
    yield
    mlflow.FLAVOR.autolog(disable=True)

@pytest.fixture
def traces(mlflow_traces):
    assert stored() == mlflow_traces == []
    yield mlflow_traces
    assert sorted(t.info.trace_id for t in stored()) == sorted(t.info.trace_id for t in mlflow_traces)
    assert all(t.info.tags["team"] == "nlp" for t in [*stored(), *mlflow_traces])

def test_off(traces):
    assert both() == ("Paris", "Paris")
    assert traces == []

@pytest.mark.mlctx_trials(2)
def test_on(traces):
    mlflow.FLAVOR.autolog()
    assert both() == ("Paris", "Paris")
    assert len(traces) == 2
    assert "Paris" in str([trace.data.response for trace in traces])

def test_off_after(traces):
    assert both() == ("Paris", "Paris")
    assert traces == []

def test_on_and_off(traces):
    mlflow.FLAVOR.autolog()
    ask()
    mlflow.FLAVOR.autolog(disable=True)

def test_in_an_evaluation(traces):
    mlflow.FLAVOR.autolog()
    mlflow.genai.evaluate(data=DATA, predict_fn=lambda question: ask(), scorers=[length])
    assert [trace.info.assessments[0].name for trace in stored()].count("length") == 3
    assert len(traces) == 3

class TestOnByAFixture:
    @pytest.mark.parametrize("number", range(2))
    def test_on(self, on, traces, number):
        assert both() == ("Paris", "Paris")
        assert len(traces) == 2
"""


@pytest.mark.parametrize("flavor", CLIENTS)
def test_autologging_of_a_client_does_not_reach_the_next_test(pytester: pytest.Pytester, flavor: str) -> None:
    module = {"langchain": "langchain_core"}.get(flavor, flavor)
    pytest.importorskip(module)
    source = ASKING.replace("MODULE", f"import {module}").replace("CLIENT", CLIENTS[flavor])
    result = session(pytester, source.replace("FLAVOR", flavor), "--mlctx-tag=team=nlp")
    result.assert_outcomes(passed=7)
