"""SQLAlchemy engines of MLflow's SQLite stores: the settings of their connections, and skipped checks."""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_mlctx.services import mlflow_internals
from pytest_mlctx.services.state import mlflow_stores
from pytest_mlctx.services.store import experiments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Engine

BUSY_TIMEOUT = 60_000  # ms; MLflow's own is 5 s while it opens a store and 20 s later

_UTILS = "mlflow.store.db.utils"
_TRACKING = "mlflow.store.tracking.sqlalchemy_store"
_REGISTRY = "mlflow.store.model_registry.sqlalchemy_store"
_lock = threading.RLock()
_engines: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()  # ours, and whether on a store of ours


@contextlib.contextmanager
def settings(
    *pragmas: str, admit: Callable[[], None] | None = None, look: Callable[[], None] | None = None
) -> Iterator[None]:
    """While it lasts, the SQLite engines that MLflow creates have these PRAGMAs on every connection.

    MLflow sends three at the start of each session. They are set once per connection instead: the busy
    timeout among them would undo ours, and together they are a good part of the statements of a run.
    With ``admit``, a copy of the template: its schema is neither made nor verified, new experiments get ids
    of ours, and who is to be kept from the store is refused at the end of each transaction by what it raises;
    ``look`` is called when one begins.
    """
    utils, tracking, registry = map(importlib.import_module, (_UTILS, _TRACKING, _REGISTRY))
    own = admit is not None
    with _lock, contextlib.ExitStack() as stack:
        if not mlflow_internals.known("create_sqlalchemy_engine"):
            yield
            return
        every_session = _session_pragmas(utils)

        def creating(create_engine: Callable[[str], Engine]) -> Callable[[str], Engine]:
            def create(uri: str) -> Engine:
                engine = create_engine(uri)
                if engine.dialect.name == "sqlite":
                    _engines[engine] = own
                    _on_connect(engine, [*(every_session or ()), f"busy_timeout = {BUSY_TIMEOUT}", *pragmas])
                    for moment, call in (("begin", look), ("commit", admit)):
                        if call is not None:
                            _on(engine, moment, call)
                return engine

            return create

        def making(make: Any) -> Any:
            return lambda session_maker, db_type: make(session_maker, "" if db_type == "sqlite" else db_type)

        def initializing(initialize: Callable[[Engine], None]) -> Callable[[Engine], None]:
            return lambda engine: None if own or is_current(engine) else initialize(engine)

        stack.enter_context(mlflow_internals.around(utils, "create_sqlalchemy_engine", creating))
        for module in (utils, registry):  # which has copies of the names in some versions
            if every_session is not None:
                stack.enter_context(mlflow_internals.around(module, "_get_managed_session_maker", making))
            if mlflow_internals.known("_initialize_tables"):
                stack.enter_context(mlflow_internals.around(module, "_initialize_tables", initializing))
        if own:
            stack.enter_context(
                mlflow_internals.wrapped("_verify_schema", lambda _verify: lambda _engine: None)
            )
            _number_experiments()
        # MLflow 2 makes the artifact folder by opening the store; the first artifact makes it anyway.
        stack.enter_context(mlflow_internals.around(tracking, "mkdir", lambda _mkdir: lambda *_args: None))
        yield


def is_current(engine: Engine) -> bool:
    """Whether nothing is left to migrate: MLflow 3.1 to 3.8 migrate a store whenever they open it."""
    utils = importlib.import_module(_UTILS)
    try:
        return bool(utils._get_schema_version(engine) == utils._get_latest_schema_revision())
    except Exception:  # then MLflow says what is wrong
        return False


def migrate(uri: str, artifact_root: str) -> None:
    """Let MLflow make the tracking store ``uri``, and leave no engine behind."""
    store = importlib.import_module(_TRACKING).SqlAlchemyStore(uri, artifact_root)
    store.engine.dispose()
    for by_uri in mlflow_stores.engines().values():
        by_uri.pop(uri, None)


def forget_foreign_engine(uri: str) -> None:
    """Let MLflow replace an engine that was made before us, without our settings; who holds it keeps it."""
    for by_uri in mlflow_stores.engines().values():
        if uri in by_uri and by_uri[uri] not in _engines:
            del by_uri[uri]


def _on_connect(engine: Engine, pragmas: list[str]) -> None:
    from sqlalchemy import event

    def apply(connection: Any, _record: Any) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", apply)


def _on(engine: Engine, moment: str, call: Callable[[], None]) -> None:
    from sqlalchemy import event

    event.listen(engine, moment, lambda _connection: call())


@functools.cache
def _session_pragmas(utils: Any) -> tuple[str, ...] | None:
    """What MLflow sends at the start of each SQLite session, seen in a rehearsal.

    ``None`` where that is more than PRAGMAs, or MLflow can't be kept from it: it then goes on as it does.
    """
    from sqlalchemy.orm import Session, sessionmaker

    sent: list[str] = []

    class Rehearsal(Session):
        def execute(self, statement: Any, *_args: Any, **_kwargs: Any) -> Any:
            sent.append(str(statement).strip().rstrip(";"))

    if not mlflow_internals.known("_get_managed_session_maker"):
        return None
    try:
        make = utils._get_managed_session_maker
        with make(sessionmaker(class_=Rehearsal), "")():
            quiet = not sent
        with make(sessionmaker(class_=Rehearsal), "sqlite")():
            pass
    except Exception:
        return None
    if not quiet or not all(statement.upper().startswith("PRAGMA ") for statement in sent):
        return None
    return tuple(statement[len("PRAGMA ") :] for statement in sent)


@functools.cache
def _number_experiments() -> None:
    """Give the experiments that MLflow creates in stores of ours an id that no other has had here."""
    from mlflow.store.tracking.dbmodels.models import SqlExperiment
    from sqlalchemy import event, func, select

    def number(_mapper: Any, connection: Any, experiment: Any) -> None:
        if experiment.experiment_id is None and _engines.get(connection.engine):
            highest = connection.execute(select(func.max(SqlExperiment.experiment_id))).scalar()
            experiment.experiment_id = experiments.next_id(above=highest or 0)

    event.listen(SqlExperiment, "before_insert", number)
