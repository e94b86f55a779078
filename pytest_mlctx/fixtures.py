"""The fixtures: each builds a service from the settings, starts it, yields it and stops it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_mlctx.session import Session

if TYPE_CHECKING:
    import mlflow
    from mlflow.entities import Trace

    from pytest_mlctx.baselines import Baseline
    from pytest_mlctx.isolation import Sandbox
    from pytest_mlctx.services import Alert, AlertsService, LoggerService, MlflowService, Service

    S = TypeVar("S", bound=Service)


def _mistake(sentence: str) -> BaseException:
    from pytest_mlctx import setup_errors

    return setup_errors.failure(sentence)


def _made(kind: type[S], fields: dict[str, Any], fixture: str) -> S:
    """A service of these fields; what the user must mend is one sentence."""
    from pydantic import ValidationError

    try:
        return kind(**fields)
    except ValidationError as error:
        mistake = " ".join(_sentence(kind, fixture, details) for details in error.errors(include_url=False))
    raise _mistake(mistake)  # here, where no other exception is shown with it


@contextmanager
def _running(service: S) -> Iterator[S]:
    """The service started and stopped; what the user must mend is one sentence."""
    from pytest_mlctx.services import ServiceError

    mistake = ""
    try:
        service.start()
    except ServiceError as error:
        mistake = str(error)
    if mistake:
        raise _mistake(mistake)
    try:
        yield service
    finally:
        service.stop()


def _sentence(kind: type[Service], fixture: str, details: Any) -> str:
    name = ".".join(map(str, details["loc"]))
    if details["type"] == "extra_forbidden":
        import difflib

        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(kind.model_fields)}."
        return f"{fixture}: {name!r} is not a field of {kind.__name__}, {hint}"
    message = details["msg"].removeprefix("Value error, ")
    return f"{fixture}: {name!r} of {kind.__name__}: {message}."


@pytest.fixture(scope="session")
def _mlctx_active(request: pytest.FixtureRequest) -> None:
    """Follow the tests, also where the first service is asked for by getfixturevalue."""
    Session.of(request.config).activate(request)


@pytest.fixture(scope="session")
def _mlctx_folder(
    request: pytest.FixtureRequest, _mlctx_active: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The session's temporary folder, a worker's own under xdist."""
    session = Session.of(request.config)
    session.folder = tmp_path_factory.mktemp("mlctx", numbered=False)
    return session.folder


@pytest.fixture(scope="session")
def logger_config(request: pytest.FixtureRequest, _mlctx_folder: Path) -> dict[str, Any]:
    """The fields that logger_service is built from; override it in a conftest to change one."""
    session = Session.of(request.config)
    return {"sink": str(session.log_sink or _mlctx_folder / "run.log"), "level": session.settings.log_level}


@pytest.fixture(scope="session")
def alerts_config(request: pytest.FixtureRequest, _mlctx_active: None) -> dict[str, Any]:
    """The fields that alerts_service is built from; override it in a conftest to change one."""
    alerts = Session.of(request.config).settings.alerts
    return {"enable": alerts == "desktop", "level": "OFF" if alerts == "off" else "INFO"}


@pytest.fixture(scope="session")
def mlflow_config(request: pytest.FixtureRequest, _mlctx_environment: None) -> dict[str, Any]:
    """The fields that mlflow_service is built from; override it in a conftest to change one."""
    session = Session.of(request.config)
    return {
        "tracking_uri": session.environment.tracking_uri,
        "registry_uri": session.environment.registry_uri,
        "experiment_name": session.settings.experiment,
        "autolog_disable": True,
    }


# Ours by these names too, for a suite that has fixtures of its own under the public ones.
@pytest.fixture(scope="session")
def _mlctx_logger(request: pytest.FixtureRequest, logger_config: dict[str, Any]) -> LoggerService:
    from pytest_mlctx import logs
    from pytest_mlctx.services import LoggerService

    service = _made(LoggerService, logger_config, "logger_config")
    return Session.of(request.config).enter(
        request, _running(service), logs.bridged(service.level, request.config)
    )


@pytest.fixture(scope="session")
def logger_service(_mlctx_logger: LoggerService) -> LoggerService:
    """A running LoggerService on a temporary log file, whose records caplog and pytest's reports see too."""
    return _mlctx_logger


@pytest.fixture(scope="session")
def _mlctx_alerts(request: pytest.FixtureRequest, alerts_config: dict[str, Any]) -> AlertsService:
    from pytest_mlctx.services import AlertsService

    service = _made(AlertsService, alerts_config, "alerts_config")
    return Session.of(request.config).enter(request, _running(service), service.instead_of_plyer())


@pytest.fixture(scope="session")
def alerts_service(_mlctx_alerts: AlertsService) -> AlertsService:
    """A running AlertsService that never touches the desktop unless --mlctx-alerts=desktop."""
    return _mlctx_alerts


@pytest.fixture
def alerts_outbox(request: pytest.FixtureRequest, _mlctx_alerts: AlertsService) -> list[Alert]:
    """The alerts that this test sent, oldest first, delivered or not."""
    return Session.of(request.config).enter(request, _mlctx_alerts.recorded())


@pytest.fixture(scope="session")
def _mlctx_environment(request: pytest.FixtureRequest, _mlctx_folder: Path) -> None:
    """The environment and the temporary store of the session's MLflow."""
    session = Session.of(request.config)
    session.lifecycle.register("traces", session.traces, request)
    session.enter(
        request,
        session.environment.in_force(_mlctx_folder),
        session.tracking.sourced(),
        session.traces.followed(),
        session.beside_mlflows_plugin(),
    )
    if session.settings.requirements == "auto":
        session.reuse_requirements(below=session.environment.folders())


@pytest.fixture(scope="session")
def _mlctx_mlflow(
    request: pytest.FixtureRequest, _mlctx_environment: None, mlflow_config: dict[str, Any]
) -> MlflowService:
    from pytest_mlctx import stores
    from pytest_mlctx.services import MlflowService, runs

    session = Session.of(request.config)
    service = _made(MlflowService, mlflow_config, "mlflow_config")
    if reason := stores.refusal(session, service.tracking_uri):
        raise _mistake(reason)
    if registry := mlflow_config.get("registry_uri"):
        session.environment.asked_for.add(registry)
    return session.enter(
        request,
        _running(service),
        runs.tagging(session.tracking.tags, session.tracking.opened),
        stores.isolated(session, service, request),
    )


@pytest.fixture(scope="session")
def mlflow_service(_mlctx_mlflow: MlflowService) -> MlflowService:
    """A running MlflowService on a temporary SQLite file, with the experiment of --mlctx-experiment."""
    return _mlctx_mlflow


@pytest.fixture(scope="session")
def _mlctx_sandbox(request: pytest.FixtureRequest, _mlctx_environment: None) -> Sandbox:
    """The store of mlflow_sandbox, a session's one."""
    from pytest_mlctx import stores

    session = Session.of(request.config)
    return session.enter(request, stores.sandbox(session))


def _of_sandbox(uri: str, config: dict[str, Any]) -> MlflowService:
    from pytest_mlctx.services import MlflowService

    return _made(MlflowService, {**config, "tracking_uri": uri, "registry_uri": uri}, "mlflow_config")


@contextmanager
def _sandboxed(session: Session, service: MlflowService) -> Iterator[MlflowService]:
    """The service in force, with no active run but those that are opened within the block."""
    from pytest_mlctx.services import remote, runs

    with (
        runs.set_aside(),
        _running(service),
        runs.tagging(session.tracking.tags, session.tracking.opened),
        remote.standing_in(service.tracking_uri),
    ):
        yield service


@pytest.fixture
def mlflow_sandbox(
    request: pytest.FixtureRequest, _mlctx_sandbox: Sandbox, mlflow_config: dict[str, Any]
) -> MlflowService:
    """A running MlflowService on a tracking store and registry that are empty, for this test alone."""
    session = Session.of(request.config)
    service = _of_sandbox(_mlctx_sandbox.uri, mlflow_config)
    _mlctx_sandbox.empty(service.experiment_name)
    return session.enter(request, _sandboxed(session, service))


@pytest.fixture(scope="session")
def mlflow_sandbox_factory(
    request: pytest.FixtureRequest,
    _mlctx_mlflow: MlflowService,  # started first, since it ends last
    mlflow_config: dict[str, Any],
) -> Callable[[], AbstractContextManager[MlflowService]]:
    """Makes sandboxes for fixtures of wider scope: a call is a context manager that gives the service."""
    from pytest_mlctx import stores

    session, numbers = Session.of(request.config), count(1)

    @contextmanager
    def sandbox() -> Iterator[MlflowService]:
        place = Path("sandboxes", str(next(numbers)), "mlflow.db")
        with (
            stores.apart(session, place) as store,
            _sandboxed(session, _of_sandbox(store.uri, mlflow_config)) as service,
        ):
            yield service

    return sandbox


@pytest.fixture(scope="session")
def mlflow_server_config() -> dict[str, Any]:
    """The app and environment of mlflow_server; override it in a conftest to change one."""
    return {"app": "", "environment": {}}


@pytest.fixture(scope="session")
def mlflow_server(
    request: pytest.FixtureRequest,
    _mlctx_active: None,
    mlflow_server_config: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The base URL of a real MLflow server on loopback, one for the session and all of xdist's workers."""
    from pytest_mlctx import stores, workers
    from pytest_mlctx.services import ServiceError

    session, controller = Session.of(request.config), workers.controller(request.config)
    if unknown := mlflow_server_config.keys() - {"app", "environment"}:
        name = sorted(unknown)[0]
        pytest.fail(f"mlflow_server_config: {name!r} is not known, use app and environment.", pytrace=False)
    try:
        basetemp = tmp_path_factory.getbasetemp()
        return session.enter(request, stores.server(session, mlflow_server_config, basetemp, controller))
    except ServiceError as error:
        mistake = str(error)
    pytest.fail(mistake, pytrace=False)


@pytest.fixture
def mlflow_traces(request: pytest.FixtureRequest) -> list[Trace]:
    """The traces that this test has finished, oldest first, from any thread or task."""
    from pytest_mlctx.services import traces

    request.getfixturevalue(_service_of(request))
    if reason := traces.incompatibility():
        raise _mistake(reason)
    return Session.of(request.config).traces.finished


def _service_of(request: pytest.FixtureRequest) -> str:
    """The fixture of the store that the test uses: the sandbox where it names one, in either order."""
    return "mlflow_sandbox" if "mlflow_sandbox" in request.fixturenames else "mlflow_service"


@pytest.fixture
def mlflow_baseline(request: pytest.FixtureRequest) -> Callable[..., Baseline]:
    """What a metric of this test was in earlier sessions, to compare with by >=, <= or ==."""
    return Session.of(request.config).baselines.of(request.node)


@pytest.fixture
def mlflow_run(request: pytest.FixtureRequest) -> Iterator[mlflow.ActiveRun]:
    """An active run of this test: named after it, tagged with its node id, closed with its outcome."""
    request.getfixturevalue(_service_of(request))
    tracking = Session.of(request.config).tracking
    yield tracking.open(request.node)
    tracking.detach()
