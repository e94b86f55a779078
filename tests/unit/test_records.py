"""The store of records: whatever a test is called, its record is there and found again by its node id."""

from __future__ import annotations

import math
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_mlctx.services import ServiceError, state
from pytest_mlctx.services.records import Record, Records, storable, storable_key

pytestmark = pytest.mark.usefixtures("mlflow_imported")


def a_record(nodeid: str = "test_it.py::test", **fields: object) -> Record:
    now = time.time()
    record = Record("test", nodeid, "session", now, now + 1, "FINISHED", {}, {}, {})
    return record._replace(**fields)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return Records(f"sqlite:///{tmp_path_factory.mktemp('records')}/tests.db", "records")


def found(store: Records, nodeid: str) -> list[str]:
    """The ids of the records of a test, by its node id."""
    with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as connection:
        query = "SELECT run_uuid FROM tags WHERE key = 'mlctx.nodeid' AND value = ?"
        return [run_id for (run_id,) in connection.execute(query, (storable(nodeid),))]


def test_opening_leaves_mlflow_and_the_environment_as_they_were(tmp_path: Path) -> None:
    before = state.capture("mlflow", "environment")
    Records(f"sqlite:///{tmp_path}/tests.db", "records").write(a_record())
    Records(str(tmp_path / "folder"), "records").write(a_record())
    assert state.compare(before, state.capture("mlflow", "environment")) == []


def test_artifacts_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = Records("sqlite:///tests.db", "records").write(a_record(files={"failure.txt": "why"}))
    (written,) = tmp_path.glob(f"mlartifacts/*/{run_id}/artifacts/failure.txt")
    assert written.read_text() == "why"


def test_a_deleted_experiment_is_told(tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/tests.db"
    mlflow.MlflowClient(uri).delete_experiment(Records(uri, "records").experiment_id)
    with pytest.raises(ServiceError, match="'records' was deleted in this store: restore it"):
        Records(uri, "records")


def test_a_store_that_makes_no_experiment_says_why(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/tests.db"
    Records(uri, "records")
    with closing(sqlite3.connect(tmp_path / "tests.db")) as connection, connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON experiments "
            "BEGIN SELECT RAISE(ABORT, 'no more of them'); END"
        )
    with pytest.raises(ServiceError, match="no more of them"):
        Records(uri, "others")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters()), more=st.text(st.characters(), min_size=1))
@example(text="a" * 9000, more="b")
@example(text="\0\n\r\t/", more="\ud800")
@example(text="", more="\N{PILE OF POO}")
def test_every_record_is_found_again_and_by_no_other_name(store: Records, text: str, more: str) -> None:
    one, other = f"{text}::test[{text}]", f"{text}::test[{text}{more}]"
    run_id = store.write(a_record(one, name=one, tags={"t": text, text: "key"}, params={text: text}))
    assert run_id in found(store, one)
    assert run_id not in found(store, other)


@settings(deadline=None, max_examples=30)
@given(value=st.floats(), key=st.text(st.characters()))
@example(value=math.nan, key="..")
@example(value=math.inf, key="a/../b")
@example(value=-math.inf, key="x" * 300)
def test_every_metric_is_kept(store: Records, value: float, key: str) -> None:
    run_id = store.write(a_record(metrics={key: value}))
    with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as connection:
        query = "SELECT value, is_nan FROM latest_metrics WHERE run_uuid = ? AND key = ?"
        ((kept, is_nan),) = connection.execute(query, (run_id, storable_key(key)))
    assert bool(is_nan) == math.isnan(value)
    assert is_nan or kept == pytest.approx(max(min(value, 1.7976931348623157e308), -1.7976931348623157e308))


def test_many_values_at_once(store: Records) -> None:
    many = range(2500)
    params = {f"p{number}": str(number) for number in range(250)}
    run_id = store.write(a_record(params=params, metrics={f"m{number}": number for number in many}))
    with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as connection:
        for table, count in (("params", 250), ("latest_metrics", 2500)):
            query = f"SELECT count(*) FROM {table} WHERE run_uuid = ?"
            assert connection.execute(query, (run_id,)).fetchone() == (count,)
