"""Rows and schema of any SQLite file; MLflow has no part in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mlctx.services.store.savepoint import Savepoint, transaction

SCHEMA = """
CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT UNIQUE, up INTEGER REFERENCES parent (id));
CREATE TABLE "a ""quoted"" table" (parent INTEGER NOT NULL REFERENCES parent (id) ON DELETE CASCADE,
    "a column" BLOB, twice INTEGER GENERATED ALWAYS AS (parent * 2) STORED);
CREATE TABLE keyed (key TEXT PRIMARY KEY, value REAL) WITHOUT ROWID;
CREATE TABLE counted (id INTEGER PRIMARY KEY);
CREATE INDEX by_name ON parent (name);
CREATE VIEW names AS SELECT name FROM parent;
CREATE TRIGGER immutable BEFORE UPDATE ON keyed BEGIN SELECT RAISE (ABORT, 'immutable'); END;
"""
SOME_ROWS = """
INSERT INTO parent VALUES (1, 'é''"%', 2), (2, NULL, 1);
INSERT INTO "a ""quoted"" table" (parent, "a column") VALUES (1, x'00ff'), (1, NULL), (2, 'text'), (2, 1.5);
INSERT INTO keyed VALUES ('k', 0.1);
INSERT INTO counted DEFAULT VALUES;
"""


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connected = sqlite3.connect(":memory:", isolation_level=None)
    connected.executescript(SCHEMA + SOME_ROWS)
    yield connected
    connected.close()


def dump(connection: sqlite3.Connection) -> list[str]:
    return sorted(connection.iterdump())


def back(connection: sqlite3.Connection, savepoint: Savepoint) -> None:
    with transaction(connection):
        savepoint.put_back(connection)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM parent",
        "INSERT INTO parent VALUES (7, 'new', 1); DELETE FROM keyed; INSERT INTO counted VALUES (99)",
        "UPDATE parent SET name = 'other' WHERE id = 2",
        'DELETE FROM "a ""quoted"" table" WHERE parent = 1',
        "CREATE TABLE more (x); INSERT INTO more VALUES (1); INSERT INTO keyed VALUES ('x', 1)",
        "DROP TABLE parent",
        "DROP VIEW names; DROP TRIGGER immutable; DROP INDEX by_name",
        "ALTER TABLE keyed ADD COLUMN later TEXT",
        "VACUUM",
        "",
    ],
)
def test_everything_is_as_it_was(connection: sqlite3.Connection, change: str) -> None:
    before = dump(connection)
    savepoint = Savepoint.take(connection)
    for _ in range(2):
        connection.executescript(change)
        back(connection, savepoint)
        assert dump(connection) == before


def test_it_can_be_put_into_an_empty_database(connection: sqlite3.Connection) -> None:
    empty = sqlite3.connect(":memory:", isolation_level=None)
    back(empty, Savepoint.take(connection))
    assert dump(empty) == dump(connection)
    empty.close()


def test_a_failure_leaves_what_was(connection: sqlite3.Connection) -> None:
    savepoint = Savepoint.take(connection)
    connection.execute("INSERT INTO keyed VALUES ('later', 1)")
    before = dump(connection)
    with pytest.raises(KeyboardInterrupt), transaction(connection):  # noqa: PT012
        savepoint.put_back(connection)
        raise KeyboardInterrupt
    assert dump(connection) == before
    assert not connection.in_transaction


VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary()
)


@settings(deadline=None)
@given(st.lists(VALUES, max_size=5), st.lists(VALUES, max_size=5))
def test_values_of_every_kind_come_back(kept: list[object], added: list[object]) -> None:
    connected = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connected.execute("CREATE TABLE t (x)")
        connected.executemany("INSERT INTO t VALUES (?)", [(value,) for value in kept])
        savepoint = Savepoint.take(connected)
        connected.executemany("INSERT INTO t VALUES (?)", [(value,) for value in added])
        back(connected, savepoint)
        found = [value for (value,) in connected.execute("SELECT x FROM t")]
        assert [(type(value), value) for value in found] == [(type(value), value) for value in kept]
    finally:
        connected.close()
