"""A session whose server goes away: at its start, between two tests, inside a run, or for a while."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import mlflow.sklearn  # here: pytester takes away again what an inner session imports
import pytest
from servers import Front

from pytest_mlctx.services import uris
from pytest_mlctx.services.state import mlflow_runs

pytestmark = pytest.mark.usefixtures("mlflow_imported", "no_other_plugin")

PASSWORD = "hunter2-pass-word"
DEADLINE = 0.5  # seconds, for a server that hangs here
MOODS = ("dead", "hanging", "failing")


def moods(*quick: str) -> pytest.MarkDecorator:
    """Each mood, those that are not among the quick ones as a slow test."""
    return pytest.mark.parametrize(
        "mood", [mood if mood in quick else pytest.param(mood, marks=pytest.mark.slow) for mood in MOODS]
    )


REASONS = {
    "dead": "cannot be reached (Connection refused): check the address and that the server is up.",
    "hanging": f"gave no answer within {DEADLINE:g} s: check that the server is up and reachable.",
    "failing": "answers HTTP 500: check that an MLflow server listens there, and its log.",
}
CLOSING = {
    "dead": "Connection refused",
    "hanging": f"gave up after {DEADLINE:g} s",
    "failing": "the server answers HTTP 500",
}


@pytest.fixture
def front(server_url: str) -> Iterator[Front]:
    with Front(server_url) as front:
        yield front


class Ran:
    def __init__(self, recorder: pytest.HookRecorder, seconds: float, output: str) -> None:
        passed, _, failed = recorder.listoutcomes()
        self.passed = [report.nodeid.partition("::")[2] for report in passed]
        self.bad = {report.nodeid.partition("::")[2]: report.when for report in failed}
        self.ret, self.seconds, self.output = recorder.ret, seconds, output

    def sentences(self, begin: str) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith(begin)]


@pytest.fixture
def suite(
    front: Front,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., Ran]:
    """Runs a suite that tracks to the server's front, and looks for the password in all that it wrote."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")  # of the tests' own calls
    for module in (uris, mlflow_runs):
        monkeypatch.setattr(module, "DEADLINE", module.DEADLINE)

    def run(source: str, *args: str, deadline: float = DEADLINE) -> Ran:
        pytester.makepyfile(
            server=f"""
            import urllib.request
            from pytest_mlctx.services import uris
            from pytest_mlctx.services.state import mlflow_runs
            def be(mood):
                urllib.request.urlopen("{front.url}/be/" + mood).close()
                if mood == "hanging":
                    uris.DEADLINE = min(uris.DEADLINE, {deadline})
                    mlflow_runs.DEADLINE = min(mlflow_runs.DEADLINE, {deadline})
            """,
            test_it="import logging, mlflow, pytest\nfrom server import be\n" + source,
        )
        began = time.monotonic()
        recorder = pytester.inline_run(
            f"--mlctx-tracking-uri=http://ada:{PASSWORD}@127.0.0.1:{front.server_port}/",
            "--mlctx-experiment=faults",
            "--mlctx-log-sink=run.log",
            "-omlctx_autouse=logger",
            "--log-file=pytest.log",
            "--log-file-level=DEBUG",
            "--junitxml=report.xml",
            "--basetemp=tmp",
            "-rA",
            *args,
            no_reraise_ctrlc=True,
        )
        ran = Ran(recorder, time.monotonic() - began, "".join(capfd.readouterr()))
        written = {path: path.read_bytes() for path in pytester.path.rglob("*") if path.is_file()}
        assert {"run.log", "pytest.log", "report.xml"} <= {path.name for path in written}
        assert PASSWORD not in ran.output
        assert [path for path, content in written.items() if PASSWORD.encode() in content] == []
        assert "INTERNALERROR" not in ran.output
        return ran

    return run


def status(front: Front, name: str) -> str:
    """Of the newest run of this name, as the server itself tells."""
    client = mlflow.MlflowClient(front.behind)
    experiment = client.get_experiment_by_name("faults")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], f"run_name = '{name}'")[0].info.status


@moods(*MOODS)
def test_at_the_start(suite: Callable[..., Ran], front: Front, mood: str) -> None:
    ran = suite(f"""
def test_becomes(): be("{mood}")
def test_asks(mlflow_service): pass
def test_between(): pass
def test_asks_too(mlflow_run): pass
def test_after(): pass
""")
    assert ran.bad == {"test_asks": "setup", "test_asks_too": "setup"}
    assert ran.ret == 1
    assert len(ran.passed) == 3
    where = f"MlflowService.tracking_uri 'http://***@127.0.0.1:{front.server_port}/' "
    assert ran.sentences(where) == [where + REASONS[mood]]
    assert not re.search(r"pytest_mlctx\S*:\d+:", ran.output)


@moods("dead")
def test_between_two_tests(suite: Callable[..., Ran], front: Front, mood: str) -> None:
    ran = suite(f"""
def test_well(mlflow_run): mlflow.log_metric("a", 1)
def test_becomes(): be("{mood}")
def test_calls(mlflow_service):
    with mlflow.start_run(): pass
def test_opens(mlflow_run): pass
def test_tells(mlflow_service):
    logging.getLogger("own").warning(mlflow.get_tracking_uri())
def test_other(): pass
def test_sandboxed(mlflow_sandbox):
    with mlflow.start_run(): mlflow.log_metric("a", 1)
""")
    assert ran.passed == ["test_well", "test_becomes", "test_tells", "test_other", "test_sandboxed"]
    assert ran.bad == {"test_calls": "call", "test_opens": "setup"}
    assert "MlflowException: API request to http://***@127.0.0.1" in ran.output
    assert len(ran.sentences(f"MlflowService.tracking_uri 'http://***@127.0.0.1:{front.server_port}/' ")) == 1
    assert status(front, "test_well") == "FINISHED"


@moods("dead")
def test_inside_a_run(suite: Callable[..., Ran], front: Front, mood: str) -> None:
    ran = suite(f"""
def test_record(mlflow_run):
    mlflow.log_metric("a", 1)
    be("{mood}")
    mlflow.log_metric("a", 2)
def test_after(): assert mlflow.active_run() is None
""")
    assert ran.bad == {"test_record": "call"}
    assert ran.passed == ["test_after"]
    (told,) = ran.sentences("mlctx: The MLflow run ")
    assert told.endswith(f" could not be closed as FAILED ({CLOSING[mood]}).")
    assert status(front, "test_record") == "RUNNING"


@moods("dead")
def test_inside_a_block(
    suite: Callable[..., Ran], front: Front, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    ran = suite(f"""
def test_block(mlflow_service):
    with mlflow.start_run(run_name="outer") as outer:
        mlflow.start_run(nested=True)
        be("{mood}")
def test_after(): assert mlflow.active_run() is None
""")
    assert ran.bad == {"test_block": "call"}  # MLflow ends the inner one, and the outer one is left open
    assert ran.passed == ["test_after"]
    (told,) = [text for text in caplog.messages if text.startswith("Not all of the state could be restored")]
    assert re.search(r"The MLflow run \w+ could not be closed as KILLED \(", told)
    assert told.endswith(f"({CLOSING[mood]}).")
    assert status(front, "outer") == "RUNNING"


@pytest.mark.slow
def test_a_training_that_is_logged_by_itself(suite: Callable[..., Ran]) -> None:
    ran = suite("""
def test_fits(mlflow_run):
    from sklearn.linear_model import LinearRegression
    mlflow.sklearn.autolog(log_models=False)
    be("dead")
    LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0])
""")
    assert ran.ret == 0
    assert "autologging: API request to http://***@" in ran.output


def test_for_a_while(suite: Callable[..., Ran], front: Front) -> None:
    ran = suite("""
def test_well(mlflow_run): be("failing")
def test_opens(mlflow_run): pass
def test_calls(mlflow_service):
    with pytest.raises(mlflow.MlflowException):
        mlflow.start_run()
    be("well")
def test_opens_again(mlflow_run): mlflow.log_metric("a", 1)
def test_calls_again(mlflow_service):
    with mlflow.start_run(run_name="again"): mlflow.log_metric("a", 1)
""")
    assert ran.bad == {"test_opens": "setup"}
    assert len(ran.passed) == 4
    assert status(front, "test_well") == "RUNNING"
    assert status(front, "test_opens_again") == status(front, "again") == "FINISHED"


@moods("hanging")
def test_ctrl_c(suite: Callable[..., Ran], mood: str) -> None:
    ran = suite(f"""
def test_interrupted(mlflow_run):
    be("{mood}")
    raise KeyboardInterrupt
""")
    assert ran.ret == pytest.ExitCode.INTERRUPTED
    (told,) = ran.sentences("mlctx: The MLflow run ")
    assert told.endswith(f" could not be closed as KILLED ({CLOSING[mood]}).")
    assert ran.seconds < 15  # MLflow's own retries, in force again by then, take minutes


@pytest.mark.slow
def test_each_request_of_ours_ends_in_five_seconds(suite: Callable[..., Ran]) -> None:
    ran = suite(
        """
def test_record(mlflow_run): be("hanging")
def test_left_open(mlflow_service):
    be("well")
    mlflow.start_run()
    be("hanging")
def test_opens(mlflow_run): pass
""",
        deadline=5,
    )
    assert ran.bad == {"test_opens": "setup"}
    assert "gave no answer within 4.5 s" in ran.output
    assert ran.seconds < 20  # three requests, of which MLflow would take 60 s
