"""The lifecycle that all services share, shown with the logger's."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from loguru import logger
from pydantic import AnyUrl, BaseModel, ConfigDict, ValidationError

from pytest_mlctx.services import AlertsService, LoggerService, MlflowService, Service, ServiceError, state

Make = Callable[[str], LoggerService]


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = state.capture("services", "loguru", "logging", "environment")
    yield
    left = state.compare(before, state.capture("services", "loguru", "logging", "environment"))
    state.restore(before)
    assert left == []


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name: LoggerService(sink=str(tmp_path / name), format="{message}", level="INFO")


@pytest.fixture
def records() -> Iterator[list[dict[str, object]]]:
    taken: list[dict[str, object]] = []
    handler = logger.add(lambda message: taken.append(dict(message.record)), level="INFO")
    yield taken
    logger.remove(handler)


@pytest.mark.criterion("start initializes all necessary configurations")
def test_a_service_holds_between_start_and_stop(make: Make) -> None:
    service = make("log")
    assert not service.running
    service.start()
    assert service.running
    logger.info("within")
    service.stop()
    assert not service.running
    logger.info("after")
    assert Path(service.sink).read_text().splitlines()[1:2] == ["within"]
    assert "after" not in Path(service.sink).read_text()


@pytest.mark.criterion("the running service is accessible throughout the application")
def test_current_is_the_innermost_of_its_class_in_any_thread(make: Make) -> None:
    outer, inner = make("outer"), make("inner")
    seen: list[Service] = []

    def look() -> None:
        seen.extend([LoggerService.current(), Service.current()])

    with outer:
        with inner, AlertsService(enable=False) as alerts:
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            assert seen == [inner, alerts]
            assert seen[0] is inner
        assert LoggerService.current() is outer
        with pytest.raises(ServiceError, match=r"No MlflowService is running: call its start\(\)"):
            MlflowService.current()


def test_current_finds_what_another_thread_started(make: Make) -> None:
    service = make("log")
    thread = threading.Thread(target=service.start)
    thread.start()
    thread.join()
    assert LoggerService.current() is service
    service.stop()
    with pytest.raises(ServiceError, match="No LoggerService is running"):
        LoggerService.current()


def test_a_service_nests_in_itself(make: Make) -> None:
    service = make("log")
    with service:
        with service:  # a job that was handed the suite's own
            logger.info("once")
        assert service.running
        assert LoggerService.current() is service
        logger.info("still")
    assert not service.running
    text = Path(service.sink).read_text().splitlines()
    assert text.count("once") == 1
    assert text.count("still") == 1


@pytest.mark.criterion("stop cleans up without errors")
def test_a_surplus_stop_does_nothing(make: Make) -> None:
    service, other = make("log"), make("other")
    service.stop()
    with other:
        with service:
            pass
        service.stop()
        assert other.running
        logger.info("on")
    assert "on" in Path(other.sink).read_text()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_stops_in_any_order_give_back_what_was_before_the_first_start(
    make: Make, order: tuple[int, ...]
) -> None:
    before = state.capture("loguru", "logging")
    services = [make(str(number)) for number in range(3)]
    for service in services:
        service.start()
    for position, number in enumerate(order):
        services[number].stop()
        running = [service for service in services if service.running]
        assert len(running) == 2 - position
        if running:
            assert LoggerService.current() is running[-1]
            logger.info("to the innermost after {}", number)
            assert f"to the innermost after {number}" in Path(running[-1].sink).read_text()
    assert state.compare(before, state.capture("loguru", "logging")) == []


def test_stopped_out_of_order_a_service_changes_nothing_yet(make: Make) -> None:
    outer, inner = make("outer"), make("inner")
    outer.start()
    inner.start()
    held = state.capture("loguru")
    outer.stop()
    assert state.compare(held, state.capture("loguru")) == []
    inner.stop()


def test_a_service_left_running_is_ended_by_the_state_and_a_stopped_one_runs_again(make: Make) -> None:
    outer, middle, inner, left = (make(name) for name in ("outer", "middle", "inner", "left"))
    origin = state.capture("loguru", "logging")
    with outer, inner:
        before = state.capture("services", "loguru", "logging")
        inner.stop()
        outer.start()
        middle.start()
        left.start()
        middle.stop()
        told = [change.sentence for change in state.compare(before, state.capture("services"))]
        assert told == [
            "LoggerService left running",
            "LoggerService left running",
            "LoggerService no longer running",
        ]
        state.restore(before)
        assert state.compare(before, state.capture("services", "loguru", "logging")) == []
        assert LoggerService.current() is inner
        assert outer.running
        assert not left.running
        logger.info("to the inner one")
        assert "to the inner one" in Path(inner.sink).read_text()
    assert not outer.running
    assert state.compare(origin, state.capture("loguru", "logging")) == []


def test_one_library_is_given_back_while_another_is_held(make: Make) -> None:
    log, alerts = make("log"), AlertsService(enable=False)
    log.start()
    alerts.start()
    log.stop()
    logger.info("after")
    assert "after" not in Path(log.sink).read_text()
    alerts.stop()


class Broken(LoggerService):
    """Fails when it has changed everything."""

    error: str = "ServiceError"

    def _apply(self) -> None:
        super()._apply()
        logger.configure(extra={"left": "behind"})
        raise {"ServiceError": ServiceError, "KeyboardInterrupt": KeyboardInterrupt}[self.error]("halfway")


@pytest.mark.criterion("start raises only for severe errors")
@pytest.mark.parametrize("error", ["ServiceError", "KeyboardInterrupt"])
def test_a_start_that_fails_half_way_leaves_nothing(tmp_path: Path, error: str) -> None:
    before = state.capture("loguru", "logging")
    service = Broken(sink=str(tmp_path / "log"), error=error)
    with pytest.raises((ServiceError, KeyboardInterrupt), match="halfway"):
        service.start()
    assert not service.running
    assert state.compare(before, state.capture("loguru", "logging")) == []
    service.stop()


def test_a_handler_that_raises_leaves_no_half_started_service(make: Make) -> None:
    def refuse(message: object) -> None:
        raise OSError("disk full")

    service = make("log")
    handler = logger.add(refuse, catch=False)
    before = state.capture("loguru")
    with pytest.raises(ServiceError, match=r"LoggerService .* audit record.*\(OSError: disk full\): mend"):
        service.start()
    assert not service.running
    assert state.compare(before, state.capture("loguru")) == []
    logger.remove(handler)

    with service:
        handler = logger.add(refuse, catch=False)
        with pytest.raises(ServiceError, match="disk full"):
            service.stop()
    assert not service.running


@pytest.mark.criterion("stop is logged for audit")
def test_start_and_stop_are_audited_with_the_callers_place(
    make: Make, records: list[dict[str, object]]
) -> None:
    service = make("log")
    first = sys._getframe().f_lineno
    service.start()
    service.stop()
    with service:
        pass
    events = [(record["extra"]["event"], record["line"] - first) for record in records]  # type: ignore[index, operator]
    assert events == [("started", 1), ("stopped", 2), ("started", 3), ("stopped", 3)]
    for record in records:
        assert record["file"].path == __file__  # type: ignore[attr-defined]
        assert record["function"] == "test_start_and_stop_are_audited_with_the_callers_place"
        assert record["level"].name == "INFO"  # type: ignore[attr-defined]
        assert record["extra"]["service"] == "LoggerService"  # type: ignore[index]
        assert f"'sink': {service.sink!r}" in str(record["message"])


def test_each_nested_start_and_stop_is_audited(make: Make, records: list[dict[str, object]]) -> None:
    service = make("log")
    with service, service:
        pass
    service.stop()
    assert [record["extra"]["event"] for record in records] == ["started"] * 2 + ["stopped"] * 2  # type: ignore[index]


def test_services_are_immutable_strict_and_closed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LoggerService().level = "INFO"
    with pytest.raises(
        ValidationError, match=r"serialize\s+Input should be a valid boolean .*input_value='yes'"
    ):
        LoggerService(serialize="yes")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"levle\s+Extra inputs are not permitted"):
        LoggerService(levle="INFO")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="abstract"):
        Service()  # type: ignore[abstract]


class Job(BaseModel):
    """What a user's program may read from its configuration."""

    model_config = ConfigDict(extra="forbid")

    epochs: int
    logger: LoggerService = LoggerService()
    tracking: MlflowService = MlflowService()


def test_a_service_is_a_field_of_another_model_and_is_read_from_yaml(tmp_path: Path) -> None:
    text = f"""
        epochs: 3
        logger: {{sink: {tmp_path / "job.log"}, level: INFO, format: "{{message}}"}}
        tracking: {{experiment_name: training, autolog_log_models: true}}
    """
    job = Job.model_validate(yaml.safe_load(text))
    assert job.tracking == MlflowService(experiment_name="training", autolog_log_models=True)
    assert Job.model_validate_json(job.model_dump_json()) == job
    with job.logger as service:
        service.logger().info("epoch {}", job.epochs)
    assert "epoch 3" in (tmp_path / "job.log").read_text().splitlines()
    with pytest.raises(ValidationError, match=r"tracking\.experiment\s+Extra inputs"):
        Job.model_validate({"epochs": 3, "tracking": {"experiment": "x"}})


SECRET = "https://ada:hunter2@mlflow.example.org"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: MlflowService(traking_uri=SECRET),  # type: ignore[call-arg]
        lambda: MlflowService(tracking_uri=AnyUrl(SECRET)),  # type: ignore[arg-type]
        lambda: MlflowService(tracking_uri=[SECRET]),  # type: ignore[arg-type]
        lambda: MlflowService(experiment_name=f"\n{SECRET}"),
        lambda: MlflowService.model_validate(SECRET),
        lambda: Job.model_validate({"epochs": 1, "tracking": {"uri": SECRET}}),
        lambda: Job.model_validate({"epochs": 1, "tracking": SECRET}),
    ],
)
def test_a_mistake_shows_no_credentials(mistake: Callable[[], object]) -> None:
    with pytest.raises(ValidationError, match=r"mlflow\.example\.org") as caught:
        mistake()
    for text in (str(caught.value), repr(caught.value), str(caught.value.errors()), caught.value.json()):
        assert "hunter2" not in text
        assert "ada" not in text


def test_a_service_shows_no_credentials(records: list[dict[str, object]]) -> None:
    service = MlflowService(tracking_uri=SECRET, registry_uri=f"{SECRET}/registry?token=tok3n")
    shown = [
        repr(service),
        str(service),
        f"{service!r:>300}",
        repr(service.model_dump()),
        repr({"x": service.tracking_uri}),
    ]
    shown += [repr(Job(epochs=1, tracking=service)), str(vars(service))]
    for text in shown:
        assert "mlflow.example.org" in text
        for secret in ("hunter2", "ada", "tok3n"):
            assert secret not in text
    assert service.tracking_uri == SECRET
    assert f"{service.tracking_uri}" == SECRET
    assert MlflowService.model_validate_json(service.model_dump_json()) == service


_WITHOUT_PYTEST = """
import sys
for name in ("pytest", "_pytest", "pluggy", "_pluggy"):
    sys.modules[name] = None
from pytest_mlctx import AlertsService, LoggerService
import pytest_mlctx.services.mlflow, pytest_mlctx.services.remote
alerts = AlertsService(enable=False)
with LoggerService(sink="stdout", format="{message}", colorize=False) as service, alerts:
    service.logger().info("works")
    alerts.notify("Done", "it works")
assert "mlflow" not in sys.modules
"""


def test_services_need_no_pytest() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PYTEST], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "works" in done.stdout.splitlines()
    assert "[pytest-mlctx] Done: it works" in done.stdout.splitlines()
