"""The run that MLflow's pytest plugin keeps active: found, set aside and given back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from pytest_mlctx.services.registries import tracking_store
from pytest_mlctx.services.runs import Detached
from pytest_mlctx.services.state.mlflow_runs import active_runs

_SESSION = "mlflow.pytest.session"


def is_mlflow_test(function: Callable[..., object] | None) -> bool:
    """Whether the test is decorated with ``@mlflow.test``."""
    marked = getattr(sys.modules.get("mlflow.pytest.decorator"), "MLFLOW_TEST_ATTR", "")
    return bool(marked) and getattr(function, marked, False) is True


class SetAside(NamedTuple):
    """The run, an ``mlflow.ActiveRun``, and the store that has it."""

    run: Any
    store: Any


def set_aside(*, keep: bool) -> SetAside | None:
    """Take the run off those that are active; None where it is not.

    Args:
        keep: whether there will be such a run later; else the plugin opens another in its next test.
    """
    session: Any = sys.modules.get(_SESSION)
    run_id = getattr(session, "_run_id", None)
    if run_id is None:
        return None
    stack = active_runs()
    run = next((run for run in stack if run.info.run_id == run_id), None)
    if run is not None:
        stack.remove(run)
    if not keep:
        session._run_id, session._run_owned = None, False
        return None
    return None if run is None else SetAside(run, tracking_store(import_module("mlflow").get_tracking_uri()))


def give_back(aside: SetAside) -> None:
    """Make it active again, around what else is."""
    active_runs().insert(0, aside.run)


def end(aside: SetAside) -> None:
    """End it with the outcome of its tests, while its store is in force."""
    session: Any = sys.modules[_SESSION]
    failed = session._any_test_failed
    session._run_id, session._run_owned = None, False
    Detached(aside.run.info.run_id, aside.store).close("FAILED" if failed else "FINISHED", {})


def tags() -> Mapping[str, str]:
    """What it tags the traces of an evaluation with, while one of its tests runs."""
    session: Any = sys.modules.get(_SESSION)
    if session is None:
        return {}
    name, case = session.current_test()
    if name is None:
        return {}
    found = {session.TAG_TEST_NAME: name, session.TAG_SESSION_ID: session.session_id()}
    return found | ({session.TAG_CASE_ID: case} if case else {})
