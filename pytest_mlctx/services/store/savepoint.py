"""Savepoints of a SQLite store: its schema and rows at a moment, in memory, and restoring them."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Savepoint:
    """All that a SQLite store held when it was taken."""

    schema: tuple[str, ...]
    rows: tuple[tuple[str, list[Any]], ...]
    """For each table that had any: the INSERT statement and its parameters."""
    schema_version: int
    """SQLite's counter of schema changes, to tell at a glance that the schema is still this one."""
    filled: str
    """The query for the names of the tables that have rows."""

    @classmethod
    def take(cls, connection: sqlite3.Connection, earlier: Savepoint | None = None) -> Savepoint:
        """What the store holds now, read in one transaction of an autocommitting connection.

        An earlier savepoint of the same store spares reading a schema that has not changed since.
        """
        with transaction(connection, "DEFERRED"):
            version = _schema_version(connection)
            if earlier is not None and earlier.schema_version == version:
                schema, filled = earlier.schema, earlier.filled
            else:
                schema, filled = _schema(connection), _filled(connection)
            tables = [table for (table,) in connection.execute(filled).fetchall()]
            return cls(schema, tuple(_rows(connection, table) for table in tables), version, filled)

    def put_back(self, connection: sqlite3.Connection) -> None:
        """Make the store hold this again, inside a transaction of the caller's.

        Foreign keys must be off on the connection, as they are on a new one: rows go and come table by table.
        """
        if _schema_version(connection) != self.schema_version and _schema(connection) != self.schema:
            _drop_all(connection)
            for statement in self.schema:
                connection.execute(statement)
        for (table,) in connection.execute(self.filled).fetchall():
            connection.execute(f"DELETE FROM {_name(table)}")
        for statement, values in self.rows:
            connection.executemany(statement, values)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """One transaction of an autocommitting connection: all or nothing."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _schema(connection: sqlite3.Connection) -> tuple[str, ...]:
    query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    return tuple(sql for (sql,) in connection.execute(f"{query} ORDER BY rowid"))


def _schema_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA schema_version").fetchone()[0]
    return version


def _tables(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid"
    return [name for (name,) in connection.execute(query)]


def _filled(connection: sqlite3.Connection) -> str:
    tables = _tables(connection)
    return " UNION ALL ".join(f"SELECT {_text(t)} WHERE EXISTS (SELECT 1 FROM {_name(t)})" for t in tables)


def _rows(connection: sqlite3.Connection, table: str) -> tuple[str, list[Any]]:
    # table_info leaves generated columns out, which can't be written.
    names = [_name(row[1]) for row in connection.execute(f"PRAGMA table_info({_name(table)})")]
    columns, places = ", ".join(names), ", ".join("?" * len(names))
    values = connection.execute(f"SELECT {columns} FROM {_name(table)}").fetchall()
    return f"INSERT INTO {_name(table)} ({columns}) VALUES ({places})", values


def _drop_all(connection: sqlite3.Connection) -> None:
    views = connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall()
    for (view,) in views:
        connection.execute(f"DROP VIEW {_name(view)}")
    for table in _tables(connection):
        if not table.startswith("sqlite_"):
            connection.execute(f"DROP TABLE {_name(table)}")


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _text(literal: str) -> str:
    return "'" + literal.replace("'", "''") + "'"
