"""The policy for remote stores, outside the plugin: which URIs it concerns, and that it leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from pytest_mlctx.services import ServiceError, remote, state, store

PRODUCTION = "https://ada:hunter2@mlflow.example.org"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[store.Store]:
    before = state.capture("mlflow", "environment")
    store.install_builders()
    own = store.Store(tmp_path / "mlflow.db")
    held = state.capture("mlflow")
    yield own
    left = [change for change in state.compare(held, state.capture("mlflow")) if change.sentence]
    state.restore(before)
    own.close()
    assert left == []


def test_refused_where_a_store_stands_in(own: store.Store) -> None:
    with remote.governed("refuse", remedy="do this."):
        assert remote.reaches(PRODUCTION)  # no store of ours is in force
        with remote.standing_in(own.uri):
            for work in (lambda: remote.reaches(PRODUCTION), lambda: mlflow.MlflowClient(PRODUCTION)):
                with pytest.raises(
                    ServiceError, match=r"^The store 'https://\*\*\*@.* not asked for: do this\.$"
                ):
                    work()
            assert remote.reaches("http://127.0.0.1:5000")
            assert remote.reaches(own.uri)
    assert remote.reaches(PRODUCTION)


def test_redirected_but_for_what_the_user_named(own: store.Store) -> None:
    with (
        remote.governed("redirect", remedy="", exempt=("http://127.0.0.1:5000",)),
        remote.standing_in(own.uri),
    ):
        for uri in (PRODUCTION, "databricks", "postgresql://db/mlflow", "http://127.0.0.1:50000"):
            assert not remote.reaches(uri)
            run = mlflow.MlflowClient(uri).create_run("0")
            assert mlflow.MlflowClient(own.uri).get_run(run.info.run_id).info.run_id == run.info.run_id
        assert remote.reaches("http://127.0.0.1:5000")
        assert remote.reaches("http://127.0.0.1:5000/prefix")
        assert remote.reaches("sqlite:///users.db")
    assert remote.reaches(PRODUCTION)


def test_a_builder_is_given_what_mlflow_passes(own: store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow's own for databases, which wants an argument that may be None."""
    from mlflow.tracking._tracking_service.utils import _get_store, _tracking_store_registry

    given = []

    def build(store_uri: str, artifact_uri: str | None) -> object:
        given.append((store_uri, artifact_uri))
        return object()

    monkeypatch.setitem(_tracking_store_registry._registry, "mssql", build)
    with remote.governed("allow", remedy=""), remote.standing_in(own.uri):
        _get_store("mssql://db/mlflow")
    assert given == [("mssql://db/mlflow", None)]


def test_allowed(own: store.Store) -> None:
    with remote.governed("allow", remedy=""), remote.standing_in(own.uri):
        assert remote.reaches(PRODUCTION)
