"""Traces are written when somebody looks: what is read is what MLflow alone has stored after a flush."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from beside_mlflow import suite

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin", "put_back")
export = pytest.importorskip("mlflow.tracing.export.mlflow_v3", reason="MLflow 2 exports otherwise")
if not hasattr(export.MlflowV3SpanExporter, "_log_spans"):
    pytest.skip("this MLflow writes no spans to the store", allow_module_level=True)

SUITE = """
    import asyncio, contextvars, inspect, json, pathlib, threading
    from concurrent.futures import ThreadPoolExecutor
    import mlflow, pytest
    from mlflow import MlflowClient
    from mlflow.entities import AssessmentSource, SpanType

    def look():
        listed = mlflow.search_traces(return_type="list", max_results=5000)
        names = {trace.info.trace_id: name(trace) for trace in listed}
        experiment = listed[0].info.experiment_id if listed else "0"
        pages, token = [], None
        while listed:
            page = MlflowClient().search_traces([experiment], max_results=2, page_token=token,
                                                order_by=["timestamp_ms ASC"])
            pages.append(len(page))
            token = page.token
            if not token:
                break
        return {
            "filtered": {text: filtered(text, experiment) for text in FILTERS},
            "ordered": {by: ordered(by, experiment) for by in ("timestamp_ms DESC", "execution_time_ms ASC")},
            "table": sorted(mlflow.search_traces().columns) if listed else [],
            "count": len(mlflow.search_traces(max_results=5000)),
            "listed": sorted(json.dumps(plain(trace, names), sort_keys=True) for trace in listed),
            "got": sorted(
                json.dumps(plain(mlflow.get_trace(trace_id), names), sort_keys=True) for trace_id in names
            ),
            "pages": pages,
        }

    FILTERS = [
        "status = 'ERROR'", "status = 'OK'", "tag.mine = 'x'", "tags.later = 'yes'", "metadata.m = '2'",
        "name = 'agent'", "span.name = 'tool'", "span.type = 'TOOL'", "span.status = 'ERROR'",
        "span.attributes.k LIKE '%1%'", "feedback.good = 'true'", "expectation.answer = '42'",
        "timestamp_ms > 0", "timestamp_ms < 0", "execution_time_ms >= 0", "trace.text LIKE '%half%'",
        "prompt = 'asks/1'", "run_id = 'none'", "no such filter",
    ]

    def filtered(text, experiment):
        found, token = [], None
        while token != "":  # all pages: which of one millisecond are in the first is chance
            try:
                page = MlflowClient().search_traces(
                    [experiment], filter_string=text, max_results=500, page_token=token
                )
            except mlflow.MlflowException as error:
                return error.error_code
            found, token = [*found, *page], page.token or ""
        return sorted(map(name, found))

    def ordered(by, experiment):
        found = MlflowClient().search_traces([experiment], order_by=[by], max_results=500)
        field = "execution_duration" if by.startswith("execution") else "request_time"
        values = [getattr(trace.info, field) for trace in found]
        return len(found), values == sorted(values, reverse=by.endswith("DESC"))

    def name(trace):
        return trace.data.spans[0].name if trace.data.spans else "no spans"

    OF_THE_MOMENT = ("mlflow.artifactLocation", "mlflow.source", "mlflow.user", "mlflow.sourceRun", "mlctx.",
                     "mlflow.trace.size", "mlflow.modelId", "mlflow.traceRequestId")

    def kept(pairs):
        return {key: value for key, value in pairs.items() if not key.startswith(OF_THE_MOMENT)}

    def plain(trace, names):
        told = {span.span_id: f"{span.name} {span.inputs}" for span in trace.data.spans}
        info = trace.info
        return {
            "state": str(info.state), "request": info.request_preview, "response": info.response_preview,
            "tags": kept(info.tags), "metadata": kept(info.trace_metadata),
            "tokens": info.token_usage,
            "has_size": [key for key in info.trace_metadata if "size" in key],
            "assessments": [[each.name, each.value] for each in info.assessments],
            "run": bool(info.trace_metadata.get("mlflow.sourceRun")),
            "order": [span.name for span in trace.data.spans],
            # Of threads that start at the same moment either may be the first.
            "spans": sorted([
                [span.name, span.span_type, span.inputs, span.outputs, str(span.status.status_code),
                 span.status.description, told.get(span.parent_id, "elsewhere") if span.parent_id else None,
                 kept(span.attributes), [event.name for event in span.events],
                 span.end_time_ns >= span.start_time_ns]
                for span in trace.data.spans
            ], key=str),
        }

    @mlflow.trace(span_type=SpanType.TOOL)
    def tool(x):
        return {"x": x, "half": x / 2, "text": "é\\u2603"}

    @mlflow.trace
    def agent(x):
        return [tool(x), tool(x + 1)]

    def test_nested():
        agent(1)
        agent(2)

    def test_async():
        @mlflow.trace
        async def inner(x):
            await asyncio.sleep(0)
            return x

        @mlflow.trace
        async def outer():
            return await asyncio.gather(*(inner(x) for x in range(5)))

        asyncio.run(outer())

    def test_generator():
        @mlflow.trace
        def stream():
            yield from "abc"

        assert list(stream()) == ["a", "b", "c"]

    def test_async_generator():
        @mlflow.trace
        async def stream():
            for x in "abc":
                await asyncio.sleep(0)
                yield x

        async def main():
            return [x async for x in stream()]

        assert asyncio.run(main()) == ["a", "b", "c"]

    def test_threads():
        with mlflow.start_span("root"):
            with ThreadPoolExecutor(3) as pool:
                futures = [pool.submit(contextvars.copy_context().run, tool, x) for x in range(6)]
            [future.result() for future in futures]
        thread = threading.Thread(target=agent, args=(7,))
        thread.start()
        thread.join()

    def test_exceptions():
        @mlflow.trace
        def fails():
            tool(1)
            raise ValueError("no answer")

        with pytest.raises(ValueError):
            fails()
        tool(2)

    def test_by_hand():
        root = mlflow.start_span_no_context("root", inputs={"a": 1}, tags={"mine": "x"})
        child = mlflow.start_span_no_context("child", parent_span=root, attributes={"k": [1, 2]})
        child.end(outputs=3)
        root.end(outputs="done", status="OK")
        client = MlflowClient()
        span = client.start_trace("client", inputs=1)
        client.end_trace(span.trace_id, outputs=2)

    def test_distributed():
        tracing = pytest.importorskip("mlflow.tracing.distributed")
        with mlflow.start_span("here"):
            headers = tracing.get_tracing_context_headers_for_http_request()
        def there():
            with tracing.set_tracing_context_from_http_request_headers(headers):
                with mlflow.start_span("there"):
                    pass
        thread = threading.Thread(target=there)
        thread.start()
        thread.join()

    def test_large():
        with mlflow.start_span("large") as span:
            span.set_attribute("blob", "x" * 5_000_000)

    def test_sampling():
        never = {"sampling_ratio_override": 0.0}
        if "sampling_ratio_override" not in inspect.signature(mlflow.trace).parameters:
            pytest.skip("this MLflow takes no ratio for a function")
        mlflow.trace(agent, **never)(1)
        tool(2)

    def test_updated():
        with mlflow.start_span("current"):
            mlflow.update_current_trace(tags={"a": "1"}, metadata={"m": "2"})
        if PLAIN:
            mlflow.flush_trace_async_logging()
        trace_id = mlflow.get_last_active_trace_id()
        mlflow.set_trace_tag(trace_id, "later", "yes")
        mlflow.log_feedback(trace_id=trace_id, name="good", value=True,
                            source=AssessmentSource("HUMAN", "me"))
        mlflow.log_expectation(trace_id=trace_id, name="answer", value="42",
                               source=AssessmentSource("HUMAN", "me"))

    def test_in_a_run():
        with mlflow.start_run():
            agent(1)
            mlflow.log_metric("m", 1)

    def flushed():
        if PLAIN:
            mlflow.flush_trace_async_logging()
        return mlflow.get_last_active_trace_id()

    def test_linked():
        agent(1)
        trace_id = flushed()
        with mlflow.start_run() as run:
            pass
        MlflowClient().link_traces_to_run([trace_id], run.info.run_id)
        assert len(mlflow.search_traces(run_id=run.info.run_id, return_type="list")) == 1

    def test_prompt():
        mlflow.genai.register_prompt(name="asks", template="Ask {{x}}")
        @mlflow.trace
        def prompted(x):
            return mlflow.genai.load_prompt("prompts:/asks/1").format(x=x)
        prompted(1)

    def test_deleted():
        agent(1)
        agent(2)
        last = flushed()
        experiment = mlflow.get_trace(last).info.experiment_id
        MlflowClient().delete_traces(experiment, trace_ids=[last])
        tool(3)

    def test_tokens():
        with mlflow.start_span("llm", span_type=SpanType.CHAT_MODEL) as span:
            span.set_attribute("mlflow.chat.tokenUsage",
                               {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7})

    def test_many():
        for number in range(MANY):
            with mlflow.start_span(f"trace {number:04}"):
                pass
"""


def stored(folder: Path, *, plain: bool, many: int, background: bool) -> dict[str, Any]:
    """What was read, by test, of the traces that MLflow has stored alone, or with this plugin."""
    source = suite(textwrap.dedent(SUITE).replace("MANY", str(many)), plain=plain)
    folder.mkdir()
    (folder / "test_it.py").write_text(source)
    options = ["-p", "no:cacheprovider", "-p", "no:mlctx" if plain else "mlctx"]
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": str(background).lower(),
    }
    command = [sys.executable, "-m", "pytest", "-q", *options, "test_it.py"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


# In the background MLflow loses some of a thousand traces: its threads find the database locked.
@pytest.mark.parametrize(
    ("many", "background"),
    [
        (20, False),
        pytest.param(20, True, marks=pytest.mark.slow),
        pytest.param(1000, False, marks=pytest.mark.slow),
    ],
)
def test_what_is_read_is_what_mlflow_alone_has_stored(tmp_path: Path, many: int, background: bool) -> None:
    plain = stored(tmp_path / "plain", plain=True, many=many, background=background)
    ours = stored(tmp_path / "ours", plain=False, many=many, background=background)
    assert ours == plain
    assert len([test for test, found in plain.items() if found["listed"]]) > 10


def session(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    imports = "import mlflow, pytest, sqlite3, subprocess, sys, threading\n"
    pytester.makepyfile(test_it=imports + textwrap.dedent(source))
    return pytester.runpytest_inprocess("-s", *options)


COUNT = """
def rows(service):
    path = service.tracking_uri.removeprefix("sqlite:///")
    query = "SELECT count(*) FROM trace_info"
    script = f"import sqlite3; print(sqlite3.connect({path!r}).execute({query!r}).fetchone()[0])"
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout)
"""


def test_another_reader_sees_them(pytester: pytest.Pytester) -> None:
    session(
        pytester,
        COUNT
        + '''
def test_child(mlflow_service):
    with mlflow.start_span("a"): pass
    assert rows(mlflow_service) == 1

def test_connection(mlflow_service):
    with mlflow.start_span("a"): pass
    path = mlflow_service.tracking_uri.removeprefix("sqlite:///")
    assert sqlite3.connect(path).execute("SELECT count(*) FROM trace_info").fetchone() == (1,)

def test_thread(mlflow_service):
    with mlflow.start_span("a"): pass
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(mlflow.search_traces(return_type="list")))
    thread.start()
    thread.join()
    assert len(seen) == 1

def test_spawned(mlflow_service, tmp_path):
    import multiprocessing
    with mlflow.start_span("a"): pass
    path, count = mlflow_service.tracking_uri.removeprefix("sqlite:///"), tmp_path / "count"
    code = f"import sqlite3; count = sqlite3.connect({path!r}).execute('SELECT count(*) FROM trace_info')"
    code += f".fetchone()[0]; open({str(count)!r}, 'w').write(str(count))"
    child = multiprocessing.get_context("spawn").Process(target=exec, args=(code,))
    child.start()
    child.join()
    assert count.read_text() == "1"

def test_open_connection_after_a_flush(mlflow_service):
    path = mlflow_service.tracking_uri.removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    with mlflow.start_span("a"): pass
    mlflow.flush_trace_async_logging()
    assert connection.execute("SELECT count(*) FROM trace_info").fetchone() == (1,)

SERVER = """
import http.server, sqlite3, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        count = sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM trace_info").fetchone()[0]
        self.send_response(200)
        self.send_header("Content-Length", str(len(str(count))))
        self.end_headers()
        self.wfile.write(str(count).encode())
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""

def test_server_over_a_kept_connection(mlflow_service):
    import requests
    path = mlflow_service.tracking_uri.removeprefix("sqlite:///")
    server = subprocess.Popen([sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE, text=True)
    with server, requests.Session() as session:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        for count in range(3):
            assert session.get(url).text == str(count)
            with mlflow.start_span("a"): pass
        server.terminate()
''',
    ).assert_outcomes(passed=6)


def test_what_nobody_reads_is_never_written(pytester: pytest.Pytester) -> None:
    session(
        pytester,
        """
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

written = []

@pytest.fixture(autouse=True)
def counted(monkeypatch):
    original = SqlAlchemyStore.start_trace
    def start_trace(self, *arguments, **named):
        written.append(1)
        return original(self, *arguments, **named)
    monkeypatch.setattr(SqlAlchemyStore, "start_trace", start_trace)

@pytest.mark.parametrize("number", range(3))
def test_traces(mlflow_service, mlflow_traces, number):
    with mlflow.start_span("a"): pass
    assert len(mlflow_traces) == 1

def test_nothing_was_written(mlflow_service):
    assert mlflow.search_traces(return_type="list") == []
    assert written == []
""",
    ).assert_outcomes(passed=4)


def test_a_fixture_s_traces_are_in_each_of_its_tests(pytester: pytest.Pytester) -> None:
    session(
        pytester,
        """
@pytest.fixture(scope="module")
def traced(mlflow_service):
    with mlflow.start_span("fixture"): pass

def names():
    return sorted(trace.data.spans[0].name for trace in mlflow.search_traces(return_type="list"))

def test_before(mlflow_service, request):
    with mlflow.start_span("before"): pass
    request.getfixturevalue("traced")
    assert names() == ["before", "fixture"]

@pytest.mark.parametrize("number", range(2))
def test_after(traced, number):
    with mlflow.start_span("test"): pass
    assert names() == ["fixture", "test"]
""",
    ).assert_outcomes(passed=3)


def test_a_trace_that_isolation_dropped_is_named_when_it_is_asked_for(pytester: pytest.Pytester) -> None:
    result = session(
        pytester,
        """
kept = []

def test_first(mlflow_service):
    with mlflow.start_span("a") as span: pass
    kept.append(span.trace_id)

def test_second(mlflow_service):
    mlflow.MlflowClient().get_trace(kept[0])
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["tr-* was made for test_it.py::test_first and taken back after it. *"])


def test_a_store_that_keeps_what_tests_log_has_them_all_at_the_end(pytester: pytest.Pytester) -> None:
    session(
        pytester,
        """
import pathlib

@pytest.mark.parametrize("number", range(3))
def test_traces(mlflow_service, number):
    pathlib.Path("where").write_text(mlflow_service.tracking_uri.removeprefix("sqlite:///"))
    with mlflow.start_span("a"): pass
""",
        "--mlctx-isolation=session",
    ).assert_outcomes(passed=3)
    with closing(sqlite3.connect((pytester.path / "where").read_text())) as store:
        assert store.execute("SELECT count(*) FROM trace_info").fetchone() == (3,)


def test_a_thread_of_a_test_before_is_refused_still(pytester: pytest.Pytester) -> None:
    session(
        pytester,
        """
go, done = threading.Event(), threading.Event()

def late():
    go.wait(10)
    with mlflow.start_span("late"): pass
    done.set()

def test_starts_it(mlflow_service):
    threading.Thread(target=late).start()

def test_after(mlflow_service, mlflow_traces):
    go.set()
    assert done.wait(10)
    assert mlflow_traces == []
    assert mlflow.search_traces(return_type="list") == []
""",
    ).assert_outcomes(passed=2)


def test_a_thread_of_a_test_before_may_look_and_loses_nothing(pytester: pytest.Pytester) -> None:
    session(
        pytester,
        """
go, done = threading.Event(), threading.Event()

def late():
    go.wait(10)
    sqlite3.connect(":memory:").close()
    done.set()

def test_starts_it(mlflow_service):
    threading.Thread(target=late).start()

def test_after(mlflow_service):
    with mlflow.start_span("own"): pass
    go.set()
    assert done.wait(10)
    (trace,) = mlflow.search_traces(return_type="list")
    assert trace.data.spans[0].name == "own"
""",
    ).assert_outcomes(passed=2)


def test_a_store_that_was_named_has_them_at_the_end_of_their_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sqlite3

        def pytest_runtest_logfinish(nodeid):
            store = sqlite3.connect("named.db")
            for table in ("trace_info", "spans"):
                (count,) = store.execute(f"SELECT count(*) FROM {table}").fetchone()
                print(f"{nodeid.rpartition(':')[2]}: {count} in {table}")
            store.close()
        """
    )
    result = session(
        pytester,
        """
        def test_alone(mlflow_service):
            for _ in range(3):
                with mlflow.start_span("a"), mlflow.start_span("b"): pass

        @pytest.fixture(scope="module")
        def traced(mlflow_service):
            with mlflow.start_span("fixture"): pass

        def test_with_a_fixture(traced):
            for _ in range(3):
                with mlflow.start_span("a"), mlflow.start_span("b"): pass

        def test_after(traced):
            with mlflow.start_span("a"): pass
        """,
        "--mlctx-tracking-uri=sqlite:///named.db",
    )
    result.assert_outcomes(passed=3)
    found = re.findall(r"(test_\w+): (\d+) in (\w+)", result.stdout.str())
    assert found == [
        ("test_alone", "3", "trace_info"),
        ("test_alone", "6", "spans"),
        ("test_with_a_fixture", "7", "trace_info"),
        ("test_with_a_fixture", "13", "spans"),
        ("test_after", "8", "trace_info"),
        ("test_after", "14", "spans"),
    ]


REST = """
import contextlib, json, pathlib, requests
from servers import mlflow_server

@mlflow.trace(span_type="TOOL")
def tool(x):
    if x == "bad": raise ValueError("no answer")
    return {"x": x}

@mlflow.trace
def agent(x): return tool(x)

@pytest.fixture(scope="module")
def url(mlflow_service, tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server"), mlflow_service.tracking_uri) as url:
        yield url

def told(client, experiment_id):
    return [
        [trace.info.trace_id, str(trace.info.state), trace.info.tags, trace.info.trace_metadata,
         trace.info.request_preview, [each.value for each in trace.info.assessments],
         [[span.name, span.inputs, span.outputs, span.parent_id] for span in trace.data.spans]]
        for page in [client.search_traces([experiment_id], order_by=["timestamp_ms ASC"], max_results=50)]
        for trace in [client.get_trace(each.info.trace_id) for each in page]
    ]

@pytest.mark.parametrize("number", range(2))
def test_rest_and_ui(mlflow_service, url, number):
    rest = mlflow.MlflowClient(url)
    agent("a")
    with contextlib.suppress(ValueError): agent("bad")
    experiment_id = mlflow.get_experiment_by_name(mlflow_service.experiment_name).experiment_id
    # The first look is over HTTP.
    over_http = told(rest, experiment_id)
    assert [trace[1].rpartition(".")[2] for trace in over_http] == ["OK", "ERROR"]
    agent("b")
    last = mlflow.get_last_active_trace_id()
    ui = requests.post(f"{url}/ajax-api/3.0/mlflow/traces/search", json={
        "locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}],
        "max_results": 25, "order_by": ["timestamp_ms DESC"]}).json()["traces"]
    assert [each["trace_id"] for each in ui][0] == last and len(ui) == 3
    rest.log_feedback(trace_id=last, name="good", value=True) if hasattr(rest, "log_feedback") else None
    rest.set_trace_tag(last, "by", "rest")
    assert mlflow.get_trace(last).info.tags["by"] == "rest"
    assert told(rest, experiment_id) == told(mlflow.MlflowClient(), experiment_id)
"""


def test_rest_clients_and_the_ui_see_them(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    session(pytester, REST).assert_outcomes(passed=2)
