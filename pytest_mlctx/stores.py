"""The stores that fixtures give: the one that is isolated by test, sandboxes, a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mlctx import options
from pytest_mlctx.isolation import Isolation, Sandbox, ServerIsolation
from pytest_mlctx.services import remote, state, uris
from pytest_mlctx.services import server as servers

if TYPE_CHECKING:
    import pytest

    from pytest_mlctx.services import MlflowService
    from pytest_mlctx.services.store import Store
    from pytest_mlctx.session import Session


def refusal(session: Session, tracking_uri: str) -> str | None:
    """Why tests cannot track there, as one sentence."""
    temporary = tracking_uri == session.environment.store_uri or _is_server(session, tracking_uri)
    if session.settings.isolation == "test" and not temporary:
        return options.needs_the_temporary_store(
            session.settings.origins["isolation"], "the fixture mlflow_config"
        )
    return None


def _is_server(session: Session, uri: str) -> bool:
    return session.running_server is not None and uri == session.running_server.url


@contextmanager
def isolated(session: Session, service: MlflowService, request: pytest.FixtureRequest) -> Iterator[None]:
    """Isolation by test, where the service tracks to the temporary store or the session's server."""
    for uri in (service.tracking_uri, service.registry_uri or ""):
        request.config.add_cleanup(state.expect(*uris.files(uri)))
    isolation = _isolation(session, service)
    with ExitStack() as stack:
        if service.tracking_uri == session.environment.store_uri:
            stack.enter_context(remote.standing_in(service.tracking_uri))
        if isolation is not None:
            session.lifecycle.register("isolation", isolation, request)
            stack.callback(session.lifecycle.unregister, "isolation")
        if isinstance(isolation, Isolation):
            session.lifecycle.register("artifacts", session.artifacts, request)
        yield


def _isolation(session: Session, service: MlflowService) -> Isolation | ServerIsolation | None:
    store, empty, uri = session.environment.store, session.environment.empty, service.tracking_uri
    if session.settings.isolation == "session":
        return None
    if _is_server(session, uri):
        return ServerIsolation(session.guard, uri, service.experiment_name)
    if store is None or empty is None or uri != store.uri:
        return None
    guard, threads, artifacts = session.guard, session.late_threads, session.artifacts
    return Isolation(guard, threads, artifacts, store, empty, service.experiment_name)


@contextmanager
def sandbox(session: Session) -> Iterator[Sandbox]:
    """A store that is empty for each test that asks."""
    session.lifecycle.register("artifacts", session.artifacts)
    with apart(session, Path("sandbox.db")) as store:
        yield Sandbox(session.artifacts, store)


@contextmanager
def apart(session: Session, place: Path) -> Iterator[Store]:
    """A temporary store beside the tests' own, at this place in their folder."""
    environment = session.environment
    store = environment.create(environment.folder / place, fallback=session.folder)
    store.refuse = session.late_threads.check
    remote.opened(store.uri)  # once for all that use it
    try:
        yield store
    finally:
        store.close()


@contextmanager
def server(session: Session, config: dict[str, Any], basetemp: Path, controller: int | None) -> Iterator[str]:
    """A server of this process, or of the session's where xdist runs it; its URL."""
    if controller is None:
        running = servers.start(basetemp / "mlctx-server", **config)
    else:
        running = servers.shared(basetemp.parent / "mlctx-server", controller, **config)
    session.running_server = running
    session.environment.asked_for.add(running.url)  # no concern of --mlctx-remote
    try:
        yield running.url
    finally:
        if controller is None:
            servers.stop(running)
