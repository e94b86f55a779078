"""mlflow_traces is the outbox of a test's traces, and a failing test shows them."""

from __future__ import annotations

import re
import threading

import pytest

from pytest_mlctx.services import traces

pytestmark = [
    pytest.mark.usefixtures("mlflow_imported", "no_other_plugin"),
    pytest.mark.skipif(traces.incompatibility() is not None, reason=str(traces.incompatibility())),
]

HEAD = """
    import asyncio, threading
    from concurrent.futures import ThreadPoolExecutor
    import mlflow, pytest

    @mlflow.trace(span_type="TOOL")
    def search(query):
        if query == "bad":
            raise ValueError("nothing found")
        return [query] * 2

    @mlflow.trace(span_type="AGENT")
    def agent(question):
        return search(question)
"""


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=HEAD + source)
    return pytester.runpytest_inprocess(*args)


def test_the_traces_of_a_test_are_in_its_outbox(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_one(mlflow_traces):
        agent("a")
        (trace,) = mlflow_traces
        assert isinstance(trace, mlflow.entities.Trace)
        (tool,) = trace.search_spans(span_type="TOOL")
        assert tool.inputs == {"query": "a"} and tool.outputs == ["a", "a"]

    def test_another_starts_empty(mlflow_traces):
        assert mlflow_traces == []
        agent("b"); agent("c")
        assert [trace.data.spans[0].inputs["question"] for trace in mlflow_traces] == ["b", "c"]

    def test_that_does_not_ask():
        agent("d")

    def test_an_exception(mlflow_traces):
        with pytest.raises(ValueError):
            agent("bad")
        (trace,) = mlflow_traces
        assert {str(span.status.status_code.value) for span in trace.data.spans} == {"ERROR"}

    def test_the_outbox_has_what_the_store_has(mlflow_traces):
        agent("e")
        (trace,) = mlflow_traces
        (stored,) = mlflow.search_traces(return_type="list")
        assert stored.info.request_id == trace.info.request_id  # of both MLflow 2 and 3
        assert [span.name for span in stored.data.spans] == [span.name for span in trace.data.spans]

    def test_in_a_sandbox(mlflow_traces, mlflow_sandbox, mlflow_service):
        agent("f")
        (trace,) = mlflow_traces
        assert len(mlflow.search_traces(return_type="list")) == 1

    def test_in_a_sandbox_in_the_other_order(mlflow_sandbox, mlflow_traces):
        agent("g")
        assert len(mlflow_traces) == 1

    def test_by_hand(mlflow_traces):
        with mlflow.start_span("by hand") as span:
            span.set_inputs({"x": 1})
            assert mlflow_traces == []
        assert [trace.data.spans[0].name for trace in mlflow_traces] == ["by hand"]
        """,
        "-p",
        "no:randomly",
        "--log-cli-level=WARNING",
    )
    result.assert_outcomes(passed=8)
    result.stdout.no_fnmatch_line("*could be restored*")


def test_traces_carry_the_tags_of_their_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_one(mlflow_traces):
        agent("a")
        thread = threading.Thread(target=agent, args=("b",)); thread.start(); thread.join()
        with mlflow.start_span("own"):
            mlflow.update_current_trace(tags={"team": "mine"})
        for trace in mlflow_traces:
            assert trace.info.tags["mlctx.nodeid"] == "test_it.py::test_one"
            assert trace.info.tags["mlctx.session"]
        assert [trace.info.tags["team"] for trace in mlflow_traces] == ["nlp", "nlp", "mine"]
        """,
        "--mlctx-tag=team=nlp",
        "--mlctx-tracking-uri=sqlite:///kept.db",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("chosen", ["", "true"])
def test_beside_a_store_that_was_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.delenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", raising=False)
    if chosen:
        monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", chosen)
    result = run(
        pytester,
        f"""
    def test_in_it(mlflow_traces):
        agent("a")
        if {bool(chosen)}: mlflow.flush_trace_async_logging()
        (trace,) = mlflow_traces
        assert len(mlflow.search_traces(return_type="list")) == 1

    @pytest.mark.skipif({bool(chosen)}, reason="MLflow's own way was chosen")
    def test_in_a_sandbox(mlflow_sandbox, mlflow_traces):
        agent("b")
        (trace,) = mlflow_traces
        assert len(mlflow.search_traces(return_type="list")) == 1
        """,
        "--mlctx-tracking-uri=sqlite:///kept.db",
    )
    result.assert_outcomes(passed=1 if chosen else 2, skipped=1 if chosen else 0)


def test_threads_and_tasks(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_threads(mlflow_traces):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(agent, "abcdefgh"))
        thread = threading.Thread(target=agent, args=("i",)); thread.start(); thread.join()
        asked = sorted(trace.search_spans(name="agent")[0].inputs["question"] for trace in mlflow_traces)
        assert asked == list("abcdefghi")

    def test_tasks(mlflow_traces):
        @mlflow.trace
        async def ask(question):
            await asyncio.sleep(0.01)
            return search(question)

        async def main():
            await asyncio.gather(*map(ask, "abc"))

        asyncio.run(main())
        assert sorted(len(trace.data.spans) for trace in mlflow_traces) == [2, 2, 2]

    def test_a_generator(mlflow_traces):
        @mlflow.trace
        def count():
            yield from range(3)

        assert list(count()) == [0, 1, 2]
        (trace,) = mlflow_traces
        assert trace.data.spans[0].outputs is not None

    release = threading.Event()

    def late():
        with mlflow.start_span("begun by the test before"):
            release.wait(5)
        agent("late")

    def test_leaves_a_thread(mlflow_traces):
        global thread
        thread = threading.Thread(target=late); thread.start()
        while not thread.is_alive(): pass
        import time; time.sleep(0.1)

    def test_is_not_given_what_the_thread_traces(mlflow_traces):
        release.set(); thread.join()
        agent("own")
        (trace,) = mlflow_traces
        assert trace.search_spans(name="agent")[0].inputs == {"question": "own"}
        """,
        "-p",
        "no:randomly",
    )
    result.assert_outcomes(passed=5)


def test_the_traces_of_a_module_fixture_are_no_tests(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    @pytest.fixture(scope="module")
    def answered(mlflow_service):
        agent("once")

    def test(mlflow_traces, answered):
        assert mlflow_traces == []
        assert len(mlflow.search_traces(return_type="list")) == 1
        """,
    )
    result.assert_outcomes(passed=1)


def test_each_attempt_has_its_own(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    attempts = []

    def test(mlflow_traces):
        attempts.append(mlflow_traces)
        agent("a")
        assert len(mlflow_traces) == 1
        assert len(attempts) == 2
        """,
        "-p",
        "pytest_rerunfailures",
        "--reruns=1",
    )
    assert re.search("1 passed.*, 1 rerun", result.outlines[-1])


def test_a_failing_test_shows_its_traces(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_passes(mlflow_service):
        agent("before")

    def test_fails(mlflow_service):
        agent("a")
        with pytest.raises(ValueError): agent("bad")
        with mlflow.start_span("https://me:geheim@host"): pass
        assert 0

    def test_many(mlflow_service):
        for _ in range(12): agent("x" * 100)
        assert 0
        """,
        "-p",
        "no:randomly",
    )
    text = result.stdout.str()
    section = re.search(r"-+ MLflow traces -+\n(.*?)\n(?:-{5}|_{5})", text, re.S)
    assert section is not None
    lines = section[1].splitlines()
    assert re.fullmatch(r"trace \S+: OK(, \d+\.\d\d s)?", lines[0])
    assert re.fullmatch(r"    agent AGENT \d\.\d\d s, in \{'question': 'a'\}, out \['a', 'a'\]", lines[1])
    assert re.fullmatch(r"      search TOOL \d\.\d\d s, in \{'query': 'a'\}, out \['a', 'a'\]", lines[2])
    assert lines[3].startswith("trace ")
    assert ": ERROR" in lines[3]
    assert re.search(r"search TOOL .* in \{'query': 'bad'\}, ERROR: ValueError: nothing found$", lines[5])
    assert "geheim" not in text
    assert "before" not in section[1]
    assert "… and 2 more traces" in text
    assert "{'question': 'xxxxxxxx" in text
    assert "'x" + "x" * 90 not in text.rpartition("MLflow traces")[2]


def test_show_capture_no_leaves_them_out(pytester: pytest.Pytester) -> None:
    source = "\n    def test_fails(mlflow_service):\n        agent('a')\n        assert 0\n"
    assert "MLflow traces" not in run(pytester, source, "--show-capture=no").stdout.str()


def test_a_span_that_is_left_open_is_named_and_is_no_trace(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_leaves_one(mlflow_traces):
        global kept
        kept = mlflow.start_span("left"); kept.__enter__()
        assert mlflow_traces == []

    def test_after(mlflow_traces):
        agent("a")
        (trace,) = mlflow_traces
        assert trace.data.spans[0].parent_id is None
        """,
        "-p",
        "no:randomly",
        "--mlctx-leaks=warn",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_leaves_one: *span 'left' left open*"])


def test_what_is_left_open_elsewhere_is_named_and_closed(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    pool, release = ThreadPoolExecutor(1), threading.Event()
    kept = []

    def leaves(name):
        kept.append(mlflow.start_span(name))
        kept[-1].__enter__()

    def test_thread_that_ended(mlflow_traces):
        thread = threading.Thread(target=leaves, args=("ended",)); thread.start(); thread.join()
        assert mlflow_traces == []

    def test_idle_thread_of_a_pool(mlflow_service):
        pool.submit(leaves, "pooled").result()

    def waits(begun):
        with mlflow.start_span("waits"):
            begun.set()
            release.wait(10)
            with mlflow.start_span("below"): pass

    def test_thread_in_the_middle(mlflow_traces):
        global waiting, of_the_test
        of_the_test, begun = mlflow_traces, threading.Event()
        waiting = threading.Thread(target=waits, args=(begun,)); waiting.start()
        assert begun.wait(10)

    def test_no_context(mlflow_service):
        agent("finished")
        root = mlflow.MlflowClient().start_trace("by hand")
        kept.append(root)

    @pytest.fixture
    def by_a_fixture(mlflow_service):
        kept.append(mlflow.MlflowClient().start_trace("by a fixture"))

    def test_fixture(by_a_fixture): pass

    def test_task(mlflow_service):
        async def main():
            asyncio.create_task(forever())
            await asyncio.sleep(0.01)
        async def forever():
            kept.append(mlflow.MlflowClient().start_trace("of a task"))
            await asyncio.sleep(100)
        asyncio.run(main())

    def test_after(mlflow_traces):
        release.set(); waiting.join()
        assert of_the_test == mlflow_traces == []
        pool.submit(agent, "pooled").result()
        for left in kept:
            if hasattr(left, "end"): left.end()
        agent("own")
        roots = [trace.data.spans[0] for trace in mlflow_traces]
        assert [(root.name, root.parent_id) for root in roots] == [("agent", None)] * 2
        stored = [trace.data.spans[0].name for trace in mlflow.search_traces(return_type="list")]
        assert stored == ["agent"] * 2
        """,
        "-p",
        "no:randomly",
        "--mlctx-leaks=warn",
    )
    result.assert_outcomes(passed=7)
    told = re.findall(
        r"test_it\.py::(\w+): span '([\w ]+)' left open( in another thread)?", result.stdout.str()
    )
    assert dict.fromkeys(told) == dict.fromkeys(
        [
            ("test_thread_that_ended", "ended", " in another thread"),
            ("test_idle_thread_of_a_pool", "pooled", " in another thread"),
            ("test_thread_in_the_middle", "waits", " in another thread"),
            ("test_no_context", "by hand", ""),
            ("test_fixture", "by a fixture", ""),
            ("test_task", "of a task", ""),
        ]
    )


def test_what_a_living_fixture_has_open_stays_open(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    import time
    ask, answer = threading.Event(), threading.Event()

    def serve():
        assert ask.wait(10)
        with mlflow.start_span("serves"):
            assert answer.wait(10)
            search("a")

    @pytest.fixture(scope="module")
    def server(mlflow_service):
        thread = threading.Thread(target=serve); thread.start()
        yield thread
        thread.join()

    @pytest.fixture(scope="module")
    def loop():
        loop = asyncio.new_event_loop()
        yield loop
        loop.close()

    @pytest.fixture(scope="module")
    def by_hand(mlflow_service): return mlflow.MlflowClient().start_trace("by a fixture")

    def test_begins(server, by_hand, loop, mlflow_traces):
        global of_the_first, task
        async def work():
            span = mlflow.MlflowClient().start_trace("of a task")
            await asyncio.sleep(0.01)
            span.end()
        task = loop.create_task(work())
        loop.run_until_complete(asyncio.sleep(0))
        ask.set()
        while not started(3): time.sleep(0.001)
        of_the_first = mlflow_traces

    def started(count):
        from mlflow.tracing.trace_manager import InMemoryTraceManager
        return len(InMemoryTraceManager.get_instance()._traces) == count

    def test_between(mlflow_service): agent("a")

    def test_ends(server, by_hand, loop, mlflow_traces):
        answer.set(); server.join(); by_hand.end(); loop.run_until_complete(task)
        names = sorted(trace.data.spans[0].name for trace in mlflow.search_traces(return_type="list"))
        # MLflow before 3.5 stores a trace when it begins: those of the first test were taken back after it.
        version = [int(number) for number in mlflow.__version__.split(".")[:2]]
        assert names == ["by a fixture", *(["of a task", "serves"] if version >= [3, 5] else [])]
        assert sorted(trace.data.spans[0].name for trace in of_the_first) == ["of a task", "serves"]

    def test_thread_that_is_about_to_end(mlflow_traces):
        begun = threading.Event()
        def work():
            with mlflow.start_span("ends in time"):
                begun.set()
                time.sleep(0.03)
        threading.Thread(target=work, name="about to end").start()
        assert begun.wait(10)
        """,
        "-p",
        "no:randomly",
        "--mlctx-leaks=error",
    )
    for thread in threading.enumerate():
        if thread.name == "about to end":  # what it logs on its way is not the next test's
            thread.join()
    result.assert_outcomes(passed=4)


def test_an_mlflow_that_records_none_is_one_sentence(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"mlflow-skinny": (2, 22), "opentelemetry-sdk": (1, 36)}
    monkeypatch.setattr(traces.mlflow_internals, "numbers", lambda distribution: old[distribution])
    result = run(pytester, "\n    def test(mlflow_traces): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["MLflow * records no traces beside opentelemetry-sdk *: install *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_the_outbox_outlives_a_sandbox_that_was_there_before_the_service(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    @pytest.fixture(scope="class")
    def boxed(mlflow_sandbox_factory):
        with mlflow_sandbox_factory():
            yield

    class TestBoxed:
        def test_in_it(self, boxed, request):
            request.getfixturevalue("mlflow_service")

    def test_after_it(mlflow_traces):
        agent("a")
        assert len(mlflow_traces) == 1
        """,
        "-p",
        "no:randomly",
    )
    result.assert_outcomes(passed=2)
