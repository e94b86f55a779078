"""Each test on the temporary store starts from what the living fixtures of higher scope left in it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

HEAD = """
    import os, threading, time
    import mlflow, pytest
    from mlflow import MlflowClient

    def log(name, **options):
        with mlflow.start_run(run_name=name, **options) as run:
            mlflow.log_metric("m", 1)
        return run.info.run_id

    def names():
        runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
        return sorted(run.info.run_name for run in runs)
"""


@pytest.fixture
def session(mlflow_imported: None, no_other_plugin: None, pytester: pytest.Pytester) -> Any:
    """Runs a suite, of one file or of several, in this process."""

    def run(source: str, *args: str, **more: str) -> pytest.RunResult:
        for name, text in {"test_it": source, **more}.items():
            pytester.makepyfile(**{name: textwrap.dedent(HEAD) + textwrap.dedent(text)})
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)

    return run


@pytest.mark.parametrize("leaks", ["auto", "off"])
def test_no_test_sees_what_another_did(session: Any, leaks: str) -> None:
    result = session(
        """
        numbers = pytest.mark.parametrize("number", range(3))

        @numbers
        def test_runs(mlflow_service, number):
            assert names() == []
            assert mlflow.active_run() is None
            log("closed")
            mlflow.create_experiment("mine")
            mlflow.start_run(run_name="left open")

        @numbers
        def test_models(mlflow_service, number):
            client = MlflowClient()
            assert client.search_registered_models() == []
            client.create_registered_model("model", tags={"n": str(number)})
            version = client.create_model_version("model", f"{number}", tags={"n": str(number)})
            assert version.version in (1, "1")
            client.set_registered_model_alias("model", "champion", "1")
            assert client.get_model_version_by_alias("model", "champion").tags == {"n": str(number)}

        @numbers
        def test_prompts(mlflow_service, number):
            genai = mlflow.genai if hasattr(mlflow, "genai") else mlflow
            genai.register_prompt("qa", f"{{{{question}}}} {number}")
            assert genai.load_prompt("prompts:/qa/1").template == f"{{{{question}}}} {number}"

        @numbers
        def test_traces(mlflow_service, number):
            assert mlflow.search_traces(return_type="list") == []
            with mlflow.start_span(f"span {number}"):
                pass
            (trace,) = mlflow.search_traces(return_type="list")
            assert trace.data.spans[0].name == f"span {number}"
            mlflow.start_span(f"left open {number}").__enter__()

        @numbers
        def test_datasets(mlflow_service, number):
            import pandas
            with mlflow.start_run() as run:
                mlflow.log_input(mlflow.data.from_pandas(pandas.DataFrame({"a": [number]}), name="data"))
            assert len(mlflow.get_run(run.info.run_id).inputs.dataset_inputs) == 1
            if hasattr(mlflow, "genai") and hasattr(mlflow.genai, "datasets"):
                from mlflow.genai import datasets
                assert list(datasets.search_datasets()) == []
                made = datasets.create_dataset(name="cases", experiment_id=run.info.experiment_id)
                made.merge_records([{"inputs": {"q": number}}])
        """,
        f"--mlctx-leaks={leaks}",
    )
    result.assert_outcomes(passed=15)


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_what_a_fixture_of_higher_scope_logs_is_there_for_each_of_its_tests(session: Any, scope: str) -> None:
    result = session(
        f"""
        @pytest.fixture(scope="{scope}", params=["first", "second"])
        def shared(request, mlflow_service):
            log(request.param)
            MlflowClient().create_registered_model(request.param)
            yield request.param
            log(request.param + " was torn down")

        class TestShared:
            @pytest.mark.parametrize("number", range(2))
            def test(self, shared, number):
                assert names() == [shared]
                assert [model.name for model in MlflowClient().search_registered_models()] == [shared]
                log("of a test")
                MlflowClient().delete_registered_model(shared)

        def test_without(mlflow_service):
            assert names() == {[] if scope == "class" else ["second"]}
        """,
        test_z=f"""
        def test_elsewhere(mlflow_service):
            assert names() == {["second"] if scope in ("package", "session") else []}
        """,
    )
    result.assert_outcomes(passed=6)


def test_a_fixture_that_changes_the_rows_of_another(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def base(mlflow_service):
            return log("base")

        @pytest.fixture(scope="class")
        def changed(base):
            client = MlflowClient()
            client.set_tag(base, "by", "changed")
            client.update_run(base, name="renamed")
            client.log_metric(base, "m", 2)
            yield
            client.delete_run(base)

        def look(run_id):
            run = mlflow.get_run(run_id)
            return run.info.run_name, run.data.tags.get("by"), run.data.metrics["m"], names()

        def test_before(base):
            assert look(base) == ("base", None, 1.0, ["base"])
            MlflowClient().log_metric(base, "m", 3)

        class TestChanged:
            @pytest.mark.parametrize("number", range(2))
            def test(self, base, changed, number):
                assert look(base) == ("renamed", "changed", 2.0, ["renamed"])
                MlflowClient().set_tag(base, "by", "test")
                MlflowClient().delete_run(base)

        def test_after(base):
            assert look(base) == ("base", None, 1.0, ["base"])
    """)
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize("leaks", ["auto", "off", "error"])
def test_a_run_that_a_fixture_holds_open(session: Any, leaks: str) -> None:
    result = session(
        """
        @pytest.fixture(scope="module")
        def held(mlflow_service):
            with mlflow.start_run(run_name="held") as run:
                mlflow.log_param("p", 1)
                yield run.info.run_id

        @pytest.mark.parametrize("number", range(3))
        def test(held, number):
            run = mlflow.get_run(held)
            assert mlflow.active_run().info.run_id == held
            assert (run.info.status, run.data.params, run.data.metrics) == ("RUNNING", {"p": "1"}, {})
            assert names() == ["held"]
            mlflow.log_metric("of a test", number)
            log("child", nested=True)

        def test_who_does_not_ask(mlflow_service):
            assert names() == ["held"]
        """,
        f"--mlctx-leaks={leaks}",
        test_z="def test(mlflow_service): assert names() == [] and mlflow.active_run() is None",
    )
    result.assert_outcomes(passed=5)


def test_what_a_fixture_wrote_that_failed_goes(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def broken(mlflow_service):
            log("broken")
            raise RuntimeError("no")

        @pytest.fixture(scope="module")
        def good(mlflow_service):
            log("good")

        @pytest.fixture(scope="module")
        def half(good):
            log("half")
            mlflow.start_run(run_name="open")
            raise RuntimeError("no")

        def test_broken(broken): pass
        def test_after(mlflow_service): assert names() == []
        def test_half(half): pass
        def test_half_again(half): pass
        def test_rest(good): assert names() == ["good"]
    """)
    result.assert_outcomes(passed=2, errors=3)


def test_the_first_service_is_asked_for_within_a_fixture(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="session")
        def trained(request):
            request.getfixturevalue("mlflow_service")
            log("trained")
            yield
            log("torn down")

        @pytest.fixture(scope="module")
        def outer(trained):
            log("outer")

        def test_one(outer):
            assert names() == ["outer", "trained"]
            log("one")

        def test_two(outer): assert names() == ["outer", "trained"]
        """, test_z="""
        def test_three(mlflow_service): assert names() == ["trained"]
    """)  # fmt: skip
    result.assert_outcomes(passed=3)


def test_a_run_left_open_by_the_test_that_asked_for_the_first_service_in_its_middle(session: Any) -> None:
    result = session("""
        @pytest.fixture
        def own():
            os.environ["OWN"] = "1"
            yield
            del os.environ["OWN"]

        @pytest.mark.parametrize("number", range(2))
        def test_asks(request, tmp_path, own, number):
            request.getfixturevalue("mlflow_service")
            assert names() == []
            mlflow.start_run(run_name="left open")

        def test_after(mlflow_service):
            assert mlflow.active_run() is None
            assert "OWN" not in os.environ
    """)
    result.assert_outcomes(passed=3)


def test_what_a_fixture_wrote_goes_that_asked_for_the_first_service_and_failed(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def broken(request):
            request.getfixturevalue("mlflow_service")
            log("broken")
            raise RuntimeError("no")

        def test_one(broken): pass
        def test_two(broken): pass
        def test_three(mlflow_service): assert names() == []
    """)
    result.assert_outcomes(passed=1, errors=2)


def test_a_fixture_that_is_set_up_in_the_middle_of_a_test(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def late(mlflow_service):
            return log("late")

        @pytest.fixture
        def own(mlflow_service):
            log("own")

        def test_before(own):
            assert names() == ["own"]

        def test_asks_in_the_middle(own, request):
            mlflow.set_experiment("of the test")
            log("before")
            run_id = request.getfixturevalue("late")
            log("after")
            assert names() == ["after", "before", "late", "own"]

        @pytest.mark.parametrize("number", range(2))
        def test_after(own, late, number):
            assert names() == ["late", "own"]
            run = mlflow.get_run(late)
            assert mlflow.get_experiment(run.info.experiment_id).name == "of the test"

        def test_after_without(mlflow_service):
            assert names() == ["late"]
    """)
    result.assert_outcomes(passed=5)


def test_the_experiment_is_new_for_each_test_and_all_that_name_it_follow(session: Any) -> None:
    result = session("""
        seen = set()

        @pytest.fixture(scope="class")
        def elsewhere(mlflow_service):
            before = mlflow.tracking.fluent._get_experiment_id()
            mlflow.set_experiment("elsewhere")
            yield
            mlflow.set_experiment(experiment_id=before)

        def look():
            with mlflow.start_run() as run:
                assert os.environ["MLFLOW_EXPERIMENT_ID"] == run.info.experiment_id
            return mlflow.get_experiment(run.info.experiment_id)

        @pytest.mark.parametrize("number", range(3))
        def test_new(mlflow_service, number):
            experiment = look()
            assert experiment.name == mlflow_service.experiment_name == "demo"
            assert experiment.experiment_id not in seen
            seen.add(experiment.experiment_id)
            mlflow.set_experiment(f"of test {number}")

        class TestElsewhere:
            ids = set()

            @pytest.mark.parametrize("number", range(3))
            def test_holds(self, elsewhere, number):
                experiment = look()
                assert experiment.name == "elsewhere"
                self.ids.add(experiment.experiment_id)
                assert len(self.ids) == 1
                mlflow.set_experiment("of the test")

        def test_new_again(mlflow_service):
            assert look().name == "demo"
            assert mlflow.get_experiment_by_name("elsewhere") is None
    """, "--mlctx-experiment=demo")  # fmt: skip
    result.assert_outcomes(passed=7)


def test_an_experiment_that_a_living_fixture_has_looked_up_stays(session: Any) -> None:
    result = session("""
        @pytest.fixture(scope="module")
        def experiment_id(mlflow_service):
            return mlflow.get_experiment_by_name(mlflow_service.experiment_name).experiment_id

        @pytest.mark.parametrize("number", range(3))
        def test(experiment_id, number):
            assert mlflow.search_runs([experiment_id], output_format="list") == []
            log("own")
            assert len(mlflow.search_runs([experiment_id], output_format="list")) == 1
    """)
    result.assert_outcomes(passed=3)


def test_what_still_runs_of_the_test_before_reaches_no_other(session: Any) -> None:
    result = session("""
        end, refused = threading.Event(), []

        def keep_logging():
            while not end.wait(0.003):
                try:
                    log("straggler")
                    MlflowClient().create_registered_model(f"straggler {time.time()}")
                except Exception as error:
                    refused.append(error)

        @pytest.fixture(scope="module")
        def trained(mlflow_service):
            log("trained")

        def test_leaves_a_thread(trained):
            threading.Thread(target=keep_logging, daemon=True).start()
            mlflow.start_run(run_name="left open")
            mlflow.log_metric("async", 1, synchronous=False)

        @pytest.mark.parametrize("number", range(8))
        def test_after(trained, number):
            time.sleep(0.02)
            assert names() == ["trained"]
            assert MlflowClient().search_registered_models() == []
            log("own")
            assert names() == ["own", "trained"]

        def test_last(mlflow_service):
            end.set()
            assert "test_it.py::test_leaves_a_thread" in str(refused[-1])
    """)
    result.assert_outcomes(passed=10)


def test_threads_that_may_log(session: Any) -> None:
    result = session("""
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)

        @pytest.fixture(scope="module")
        def worker(mlflow_service):
            jobs, end = [], threading.Event()
            def work():
                while not end.wait(0.001):
                    while jobs:
                        log(jobs.pop())
            thread = threading.Thread(target=work)
            thread.start()
            yield jobs
            end.set()
            thread.join()

        @pytest.mark.parametrize("number", range(3))
        def test_pool(mlflow_service, number):
            pool.submit(log, f"pooled {number}").result()
            assert names() == [f"pooled {number}"]

        @pytest.mark.parametrize("number", range(3))
        def test_worker(worker, number):
            worker.append(f"worked {number}")
            deadline = time.monotonic() + 10
            while names() != [f"worked {number}"] and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)
            assert names() == [f"worked {number}"]
    """)
    result.assert_outcomes(passed=6)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "collected"])
def test_a_transaction_left_open_is_named_and_no_other_test_waits_for_it(session: Any, kept: bool) -> None:
    result = session(
        f"""
        import sqlite3
        left = []

        @pytest.fixture(scope="module")
        def shared(mlflow_service): log("shared")

        def test_leaves(mlflow_service, shared):
            log("one")
            connection = sqlite3.connect(
                mlflow_service.tracking_uri.removeprefix("sqlite:///"), isolation_level=None
            )
            connection.execute("BEGIN IMMEDIATE")
            if {kept}: left.append(connection)

        def test_after(mlflow_service, shared):
            assert names() == ["shared"]
            log("two")
            assert names() == ["shared", "two"]

        def test_leaves_one_without_commit(mlflow_service):
            connection = sqlite3.connect(
                mlflow_service.tracking_uri.removeprefix("sqlite:///"), isolation_level=None
            )
            connection.execute("BEGIN IMMEDIATE")
            left.append(connection)

        def test_after_that(mlflow_service, shared):
            log("three")
            assert names() == ["shared", "three"]
        """,
        "--mlctx-leaks=warn",
    )
    result.assert_outcomes(passed=4, warnings=1 + kept)
    said = "*test_leaves_one_without_commit: a transaction left open in the temporary store*"
    result.stdout.fnmatch_lines([said])


@pytest.mark.parametrize("policy", ["all", "failed", "none"])
def test_artifacts_lie_in_a_folder_of_the_test_and_go_as_its_tmp_path_does(
    session: Any, pytester: pytest.Pytester, policy: str
) -> None:
    pytester.makeini(f"[pytest]\ntmp_path_retention_policy = {policy}\n")
    result = session(
        """
        def save(name):
            with mlflow.start_run() as run:
                mlflow.log_text("text", name + ".txt")
            return run.info.artifact_uri

        @pytest.fixture(scope="module")
        def shared(mlflow_service):
            return save("shared")

        def test_first(mlflow_service): save("first")
        def test_passes(mlflow_service): save("passes")
        def test_fails(mlflow_service):
            save("fails")
            assert 0
        def test_shared(shared): save("beside shared")

        @pytest.mark.parametrize("number", range(2))
        def test_sees(shared, number):
            assert mlflow.artifacts.load_text(shared + "/shared.txt") == "text"
            mlflow.set_experiment(f"new {number}")
            assert f"/artifacts/" in save(f"sees {number}")

        def test_sandbox(mlflow_sandbox): save("sandbox")
        """,
        "--basetemp=base",
        "-p", "no:randomly",
    )  # fmt: skip
    result.assert_outcomes(passed=6, failed=1)
    left = sorted(path.stem for path in Path("base").rglob("*.txt") if "text" in path.read_text())
    every = ["beside shared", "fails", "first", "passes", "sandbox", "sees 0", "sees 1", "shared"]
    kept = {"all": every, "failed": ["fails", "shared"], "none": []}[policy]
    assert left == kept


def test_every_style_of_test(session: Any, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_asyncio")
    result = session(
        """
        import unittest

        @pytest.fixture(scope="module", autouse=True)
        def shared(mlflow_service):
            log("shared")

        class TestUnit(unittest.TestCase):
            @classmethod
            def setUpClass(cls): log("class")
            def setUp(self): log("set up")
            def test_one(self):
                assert names() == ["class", "set up", "shared"]
                log("one")
            def test_two(self): assert names() == ["class", "set up", "shared"]

        class TestXunit:
            def setup_class(self): log("class")
            def setup_method(self): log("method")
            def teardown_method(self): log("method ends")
            def test_one(self): assert names() == ["class", "method", "shared"]
            def test_two(self): assert names() == ["class", "method", "shared"]

        @pytest.mark.parametrize("number", range(2))
        async def test_async(mlflow_service, number):
            assert names() == ["shared"]
            log("async")
        """,
        "-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto", "-W", "ignore",
    )  # fmt: skip
    result.assert_outcomes(passed=6)


def test_another_attempt_starts_as_the_first_did(session: Any) -> None:
    pytest.importorskip("pytest_rerunfailures")
    result = session(
        """
        attempts = []

        @pytest.fixture(scope="module")
        def shared(mlflow_service): log("shared")

        def test_flaky(shared):
            attempts.append(names())
            log("attempt")
            assert len(attempts) == 3

        def test_after(shared):
            assert attempts == [["shared"]] * 3
            assert names() == ["shared"]
        """,
        "-p", "rerunfailures", "--reruns=3",
    )  # fmt: skip
    assert result.parseoutcomes() == {"passed": 2, "rerun": 2}


FIXTURE = """
    @pytest.fixture(scope="{scope}")
    def of_{scope}(mlflow_service, alive):
        alive.add("of_{scope}")
        log("of_{scope}")
        yield
        alive.discard("of_{scope}")
        log("of_{scope} ends")
"""
MANY = """
    import random
    from pathlib import Path

    def test_first(mlflow_service):
        pass

    @pytest.mark.parametrize("number", range(1, {count}))
    def test(request, alive, number):
        chance = random.Random(number)
        expected, ids = set(), []
        if chance.random() < 0.25:
            request.getfixturevalue("mlflow_sandbox")
        elif chance.random() < 0.2:
            return
        else:
            request.getfixturevalue("mlflow_service")
            for scope in chance.sample(["session", "package", "module"], chance.randint(0, 2)):
                request.getfixturevalue("of_" + scope)
            expected = set(alive)
        assert set(names()) == expected
        for n in range(chance.randint(0, 3)):
            name = f"{{number}}.{{n}}"
            run = mlflow.start_run(run_name=name, nested=mlflow.active_run() is not None)
            ids.append(run.info.run_id)
            if chance.random() < 0.3:
                mlflow.log_text("x", "x.txt")
                folder = Path(run.info.artifact_uri).parents[2]
                assert {{path.parents[1].name for path in folder.rglob("x.txt")}} <= set(ids)
            if chance.random() < 0.1:
                mlflow.log_metric("m", 1, synchronous=False)
            if chance.random() < 0.8:
                mlflow.end_run()
            expected.add(name)
        if chance.random() < 0.1:
            mlflow.set_experiment(f"experiment {{number}}")
        assert set(names()) == expected
"""


@pytest.mark.parametrize(
    ("order", "count"),
    [
        ("pytest_randomly", 40),
        pytest.param("pytest_randomly", 1000, marks=pytest.mark.slow),
        pytest.param("no:randomly", 1000, marks=pytest.mark.slow),
    ],
)
def test_many_tests_each_see_their_own_runs_and_those_of_living_fixtures(
    session: Any, pytester: pytest.Pytester, count: int, order: str
) -> None:
    if order == "pytest_randomly":
        pytest.importorskip(order)
    fixtures = "".join(FIXTURE.format(scope=scope) for scope in ("session", "package", "module"))
    alive = """
    @pytest.fixture(scope="session")
    def alive():
        return set()
    """
    pytester.makeconftest(textwrap.dedent(HEAD) + textwrap.dedent(alive) + textwrap.dedent(fixtures))
    source = MANY.format(count=count // 2)
    result = session(source, "-p", order, test_more=source)
    result.assert_outcomes(passed=count)


@pytest.mark.slow
def test_workers_have_a_store_each(pytester: pytest.Pytester, mlflow_imported: None) -> None:
    pytester.makepyfile(
        textwrap.dedent(HEAD)
        + textwrap.dedent("""
        @pytest.fixture(scope="session")
        def shared(mlflow_service):
            log("shared")

        @pytest.mark.parametrize("number", range(40))
        def test(shared, number):
            assert names() == ["shared"]
            log("own")
            assert names() == ["own", "shared"]
    """)
    )
    result = pytester.runpytest_subprocess("-n2", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=40)


def test_files_of_a_living_fixture_are_put_back_too(session: Any) -> None:
    result = session("""
        import mlflow.pyfunc

        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None): return model_input

        @pytest.fixture(scope="module")
        def run(mlflow_service, tmp_path_factory):
            folder = tmp_path_factory.mktemp("logged")
            (folder / "inner").mkdir()
            for name in ("report.txt", "keep.txt", "inner/deep.txt", "inner/same size.txt"):
                (folder / name).write_text("fixture")
            with mlflow.start_run(run_name="trained") as run:
                mlflow.log_artifacts(folder)
                model = mlflow.pyfunc.log_model("model", python_model=Model(), pip_requirements=[])
            return run, model

        @pytest.fixture(scope="session")
        def experiment(mlflow_service):
            return mlflow.get_experiment(mlflow.create_experiment("theirs"))

        def files(run):
            root = MlflowClient().get_run(run.info.run_id).info.artifact_uri.removeprefix("file://")
            found = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
            return {os.path.relpath(path, root): open(path, "rb").read() for path in found}

        first = {}

        def test_changes(run, tmp_path):
            run, _ = run
            first.update(files(run))
            assert len(first) >= 4
            client = MlflowClient()
            (tmp_path / "report.txt").write_text("changed by the test")
            (tmp_path / "same size.txt").write_text("changed")
            client.log_artifact(run.info.run_id, tmp_path / "report.txt")
            client.log_artifact(run.info.run_id, tmp_path / "same size.txt", "inner")
            client.log_text(run.info.run_id, "new", "extra.txt")
            client.log_text(run.info.run_id, "new", "folder/extra.txt")
            root = run.info.artifact_uri.removeprefix("file://")
            os.remove(os.path.join(root, "keep.txt"))
            assert files(run) != first
            log("own")

        def test_finds_what_the_fixture_left(run):
            run, model = run
            assert files(run) == first
            assert not [f for f in MlflowClient().list_artifacts(run.info.run_id) if f.path == "folder"]
            assert mlflow.pyfunc.load_model(model.model_uri).predict([1]) == [1]
            assert names() == ["trained"]
            with mlflow.start_run(run_id=run.info.run_id):
                mlflow.log_text("again", "keep.txt")

        def test_finds_it_again_and_logs_to_the_experiment_of_a_fixture(run, experiment):
            assert files(run[0]) == first
            with mlflow.start_run(experiment_id=experiment.experiment_id) as own:
                mlflow.log_text("own", "own.txt")

        def test_the_experiment_is_in_every_field_what_the_fixture_saw(run, experiment):
            now = mlflow.get_experiment(experiment.experiment_id)
            assert dict(now) == dict(experiment)
            root = experiment.artifact_location.removeprefix("file://")
            assert not os.path.exists(root) or not os.listdir(root)
    """)
    result.assert_outcomes(passed=4)
