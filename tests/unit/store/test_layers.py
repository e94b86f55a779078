"""Layers of any SQLite file; MLflow has no part in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mlctx.services.store.layers import Layer, between, stacked
from pytest_mlctx.services.store.savepoint import Savepoint, transaction

SCHEMA = """
CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, experiment_id INTEGER REFERENCES experiments, name TEXT);
CREATE TABLE keyed (key INTEGER PRIMARY KEY, value INTEGER);
INSERT INTO experiments VALUES (0, 'Default');
"""


class Database:
    """A store whose changes are taken as layers."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.executescript(SCHEMA)
        self.empty = self.now()

    def now(self) -> Savepoint:
        return Savepoint.take(self.connection)

    def layer(self, *statements: str) -> Layer:
        before = self.now()
        for statement in statements:
            self.connection.execute(statement)
        return between(before, self.now())

    def back(self, *layers: Layer) -> None:
        with transaction(self.connection):
            stacked(self.empty, layers).put_back(self.connection)

    def rows(self, table: str) -> list[tuple[object, ...]]:
        return sorted(self.connection.execute(f"SELECT * FROM {table}"))


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


def test_a_layer_brings_the_rows_that_came_and_takes_those_that_went(database: Database) -> None:
    first = database.layer("INSERT INTO keyed VALUES (1, 10), (2, 20)")
    second = database.layer("UPDATE keyed SET value = 11 WHERE key = 1", "DELETE FROM keyed WHERE key = 2")
    database.back(first, second)
    assert database.rows("keyed") == [(1, 11)]
    database.back(first)
    assert database.rows("keyed") == [(1, 10), (2, 20)]
    database.back()
    assert database.rows("keyed") == []


def test_a_layer_of_nothing_is_empty(database: Database) -> None:
    assert database.layer("INSERT INTO keyed VALUES (1, 1)", "DELETE FROM keyed") == Layer({}, {})


def test_an_experiment_comes_with_the_runs_that_name_it(database: Database) -> None:
    database.connection.execute("INSERT INTO experiments VALUES (7, 'of a test'), (8, 'of another')")
    layer = database.layer("INSERT INTO runs VALUES ('a', 7, 'run')")
    database.back(layer)
    assert database.rows("runs") == [("a", 7, "run")]
    assert database.rows("experiments") == [(0, "Default"), (7, "of a test")]


def test_of_a_row_that_changed_in_several_layers_the_last_wins_whichever_are_left(database: Database) -> None:
    layers = [
        database.layer("INSERT INTO keyed VALUES (1, 1)"),
        database.layer("UPDATE keyed SET value = 2"),
        database.layer("UPDATE keyed SET value = 3"),
    ]
    database.back(layers[0], layers[2])  # the row that it changed came with a layer that is gone
    assert database.rows("keyed") == [(1, 3)]
    database.back(*layers[1:])
    assert database.rows("keyed") == [(1, 3)]


changes = st.lists(
    st.one_of(
        st.tuples(
            st.just("INSERT OR REPLACE INTO keyed VALUES (?, ?)"), st.integers(0, 4), st.integers(0, 3)
        ),
        st.tuples(st.just("UPDATE keyed SET value = ? WHERE key = ?"), st.integers(0, 3), st.integers(0, 4)),
        st.tuples(st.just("DELETE FROM keyed WHERE key IN (?, ?)"), st.integers(0, 4), st.integers(0, 4)),
        st.tuples(st.just("INSERT OR IGNORE INTO experiments VALUES (?, ?)"), st.integers(1, 4), st.text()),
        st.tuples(
            st.just("INSERT OR IGNORE INTO runs (run_uuid, experiment_id) VALUES (?, ?)"),
            st.text(max_size=2),
            st.integers(1, 4),
        ),
        st.tuples(
            st.just("DELETE FROM runs WHERE experiment_id BETWEEN ? AND ?"), st.just(1), st.integers(1, 4)
        ),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(st.lists(changes, max_size=5))
def test_all_layers_together_are_what_there_was(parts: list[list[tuple[str, object, object]]]) -> None:
    database = Database()
    layers = []
    for part in parts:
        before = database.now()
        for statement, *values in part:
            database.connection.execute(statement, values)
        layers.append(between(before, database.now()))
    tables = ("experiments", "runs", "keyed")
    there_was = {table: database.rows(table) for table in tables}
    database.connection.execute("DELETE FROM keyed")
    database.back(*layers)
    assert {table: database.rows(table) for table in tables} == there_was
    database.connection.close()
