"""What is accepted as a store, what is refused before it is opened, and what is never shown."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mlctx.services import ServiceError, credentials, uris

FIELD = "MlflowService.tracking_uri"


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite:////abs/with space/#1.db",
        "sqlite:////abs/100%.db",
        "sqlite+pysqlite:///mlflow.db",
        "sqlite://",
        "sqlite:///:memory:",
        "mlruns",
        "./runs/of me",
        "/abs/mlruns?",
        "file:///abs/%2541",
        "C:\\Users\\ada\\mlruns",
        "file:mlruns",
        "file:///abs/mlruns",
        "http://127.0.0.1:5000",
        "http://[::1]:5000",
        "https://ada:pw@mlflow.example.org/prefix",
        "postgresql://db/mlflow",
        "postgresql+psycopg2://ada:pw@db:5432/mlflow",
        "mysql+pymysql://db/mlflow",
        "databricks",
        "databricks://profile",
        "databricks-uc",
    ],
)
def test_what_mlflow_accepts_is_accepted(uri: str) -> None:
    uris.check(FIELD, uri)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("", r"MlflowService\.tracking_uri is empty: give a URI"),
        (" \t", r"MlflowService\.tracking_uri is empty: give a URI"),
        (
            "htp://h:5000",
            r"'htp://h:5000' has the scheme 'htp', which MLflow does not know: did you mean 'http:'\?",
        ),
        ("sqllite:///x.db", r"did you mean 'sqlite:'\?"),
        ("postgres://h/db", r"did you mean 'postgresql:'\?"),
        ("gopher://h", r"has the scheme 'gopher', which MLflow does not know: use one of sqlite, file, http"),
        ("sqlite:mlflow.db", r"'sqlite:mlflow.db' is no SQLite URL: write 'sqlite:///relative.db'"),
        ("sqlite://mlflow.db", r"is no SQLite URL"),
        (
            "sqlite:////tmp/a?b.db",
            r"'sqlite:////tmp/a\?b.db' has a '\?' or a '%' escape.*: choose a path without",
        ),
        ("sqlite:////tmp/%41.db", r"which a SQLite URL cannot carry \(SQLAlchemy would open another file\)"),
        ("http://", r"'http://' names no host: write 'http://host:port'"),
        ("http:/host", r"names no host"),
        ("https://[::1", r"names no host: write 'https://host:port'"),
        ("http//host:5000", r"'http//host:5000' looks like a server's address: write 'http://host:port'"),
        ("localhost:5000", r"looks like a server's address"),
        ("127.0.0.1:5000/", r"looks like a server's address"),
        ("htp://ada:hunter2@h", r"'htp://\*\*\*@h' has the scheme"),
    ],
)
def test_what_no_start_is_needed_for_is_one_sentence(uri: str, sentence: str) -> None:
    with pytest.raises(ServiceError, match=sentence) as caught:
        uris.check(FIELD, uri)
    assert str(caught.value).startswith(FIELD)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "kind", "remote"),
    [
        ("mlruns", "", False),
        ("d:\\mlruns", "", False),
        ("file:///mlruns", "file", False),
        ("sqlite:///x.db", "sqlite", False),
        ("http://localhost:5000", "http", False),
        ("http://127.8.8.8", "http", False),
        ("https://[::1]/", "https", False),
        ("http://localhost.example.org", "http", True),
        ("https://mlflow.example.org", "https", True),
        ("http://10.0.0.1", "http", True),
        ("HTTP://Example.org", "http", True),
        ("https://[::1", "https", True),
        ("postgresql+psycopg://127.0.0.1/db", "postgresql", False),
        ("postgresql://db/mlflow", "postgresql", True),
        ("databricks", "databricks", True),
        ("databricks://profile", "databricks", True),
        ("databricks-uc", "databricks-uc", True),
    ],
)
def test_scheme_and_remoteness(uri: str, kind: str, remote: bool) -> None:
    assert uris.scheme(uri) == kind
    assert uris.is_remote(uri) is remote
    assert uris.is_file_store(uri) is (kind in ("", "file"))


@pytest.mark.parametrize(
    ("uri", "folder"),
    [("mlruns", "mlruns"), ("file:mlruns", "mlruns"), ("file:///a%20b/c", "/a b/c"), ("/a%20b", "/a%20b")],
)
def test_the_folder_of_a_file_store(uri: str, folder: str) -> None:
    assert uris.folder(uri) == Path(folder)


@pytest.mark.parametrize(
    ("uri", "anchored"),
    [
        ("sqlite:///runs.db", "sqlite:////base/runs.db"),
        ("sqlite+pysqlite:///sub/runs.db", "sqlite+pysqlite:////base/sub/runs.db"),
        ("sqlite:////abs/runs.db", "sqlite:////abs/runs.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("mlruns", "/base/mlruns"),
        ("/abs/mlruns", "/abs/mlruns"),
        ("file:mlruns", "file:///base/mlruns"),
        ("file:///abs/a%20b", "file:///abs/a%20b"),
        ("http://host:5000", "http://host:5000"),
        ("databricks", "databricks"),
    ],
)
def test_a_relative_path_is_made_absolute(uri: str, anchored: str) -> None:
    assert uris.anchored(uri, Path("/base")) == anchored
    assert uris.anchored(uri, Path("/100%41")) == uri


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:pw@h:5000/x", "https://***@h:5000/x"),
        ("see https://ada@h, or http://h", "see https://***@h, or http://h"),
        ("postgresql+psycopg://u:p@ss'w/rd@h/db", "postgresql+psycopg://***@h/db"),
        (
            "postgresql://h/db?user=ada&password=pw&sslmode=off",
            "postgresql://h/db?user=ada&password=***&sslmode=off",
        ),
        ("https://h/x?api_key=k&a=1", "https://h/x?api_key=***&a=1"),
        ("https://h/x?pass=k&access-token=t&a=1", "https://h/x?pass=***&access-token=***&a=1"),
        ("postgresql://ada:p w/d@h/db", "postgresql://***@h/db"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Da%3BPWD%3Dpw", "mssql+pyodbc:///?odbc_connect=***"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("file:///home/a@b/mlruns", "file:///home/a@b/mlruns"),
        ("mail ada@example.org", "mail ada@example.org"),
    ],
)
def test_credentials_are_replaced(text: str, shown: str) -> None:
    assert credentials.redact(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("API request to http://ada:p@w@h:5000/api failed", "API request to http://***@h:5000/api failed"),
        ("url = 'http://ada:pw@h', to = 'x@y'", "url = 'http://***@h', to = 'x@y'"),
        ("Max retries exceeded with url: /?token=pw/api", "Max retries exceeded with url: /?token=***"),
        (
            "{'Authorization': 'Basic YTpi', 'Accept': '*/*'}",
            "{'Authorization': 'Basic ***', 'Accept': '*/*'}",
        ),
        (
            '"GET http://h" Authorization: Bearer a.b-c',
            '"GET http://h" Authorization: Bearer ***',
        ),
        ("git+https://github.com/o/r@main", "git+https://github.com/o/r@main"),
        ("http://h and mail ada@example.org", "http://h and mail ada@example.org"),
    ],
)
def test_credentials_are_replaced_in_prose(text: str, shown: str) -> None:
    assert credentials.redact_prose(text) == shown


passwords = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1).map(lambda text: f"<{text}>")


@settings(deadline=None)
@given(password=passwords, before=st.sampled_from(["", "'", "error: ", "(", '{"uri": "']))
def test_no_password_survives(password: str, before: str) -> None:
    text = f"{before}https://ada:{password}@host/path"
    assert credentials.redact(text) == f"{before}https://***@host/path"
    assert password not in repr({"uri": credentials.discreet(text)})


def asked(uri: str) -> str:
    """The sentence that asking this store ends with, within 5 seconds."""
    began = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        uris.ask(FIELD, uri, "demo")
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(FIELD)
    return str(caught.value)


def test_a_store_that_can_be_made_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.db").touch()
    sqlite3.connect(tmp_path / "a # b.db").close()
    monkeypatch.chdir(tmp_path)
    for uri in (
        f"sqlite:///{tmp_path}/new/folders/mlflow.db",
        f"sqlite:///{tmp_path}/empty.db",
        f"sqlite:///{tmp_path}/a # b.db",
        "sqlite:///relative.db",
        "sqlite://",
        str(tmp_path / "mlruns"),
        "file:mlruns",
        "mlruns",
    ):
        uris.ask(FIELD, uri, "demo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a # b.db", "empty.db"]


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, only text that is long enough" * 20)
    (tmp_path / "file").touch()
    assert "notes.txt' is no SQLite database (file is not a database): choose another file." in asked(
        f"sqlite:///{tmp_path}/notes.txt"
    )
    assert "names a folder: add the name of a database file" in asked(f"sqlite:///{tmp_path}")
    assert f"{str(tmp_path / 'file')!r} is not a folder: choose another path." in asked(
        f"sqlite:///{tmp_path}/file/mlflow.db"
    )
    assert f"{str(tmp_path / 'file')!r} is not a folder" in asked(str(tmp_path / "file" / "mlruns"))
    assert f"{str(tmp_path / 'file')!r} is not a folder" in asked((tmp_path / "file").as_uri())


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE runs (id)")
    connection.close()
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)
    assert "is no SQLite database (database disk image is malformed)" in asked(f"sqlite:///{path}")


def test_a_database_that_stays_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uris, "DEADLINE", 0.3)
    holder = sqlite3.connect(tmp_path / "held.db", isolation_level=None)
    holder.execute("CREATE TABLE runs (id)")
    holder.execute("BEGIN EXCLUSIVE")
    assert "cannot be opened (database is locked): see who holds it" in asked(f"sqlite:///{tmp_path}/held.db")
    holder.close()


_AS_NOBODY = """
import os, sys
from pytest_mlctx.services import uris
if os.geteuid() == 0:
    os.setuid(65534)
for uri in sys.argv[1:]:
    try:
        uris.ask("field", uri, "demo")
        print("passed", uri)
    except uris.ServiceError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions are POSIX's")
def test_what_may_not_be_written_is_told(tmp_path: Path) -> None:
    place = Path("/etc")
    command = [sys.executable, "-c", _AS_NOBODY]
    stores = [
        f"sqlite:///{place}/mlflow.db",
        f"sqlite:///{place}/passwd",
        f"{place}/mlruns",
        "sqlite:////proc/x.db",
    ]
    done = subprocess.run([*command, *stores], capture_output=True, text=True, timeout=60, check=True)
    remedy = "change its permissions or choose another."
    assert done.stdout.splitlines() == [
        f"field 'sqlite:////etc/mlflow.db': the folder '/etc' may not be written: {remedy}",
        f"field 'sqlite:////etc/passwd': the file may not be written: {remedy}",
        f"field '/etc/mlruns': the folder '/etc' may not be written: {remedy}",
        f"field 'sqlite:////proc/x.db': the folder '/proc' may not be written: {remedy}",
    ]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


@pytest.fixture
def dead_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_database_server_that_is_away_is_told_in_time(
    dead_port: int, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uris, "DEADLINE", 1.5)  # the whole deadline is waited for in the tests with servers
    driver = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)), None)
    if driver is None:
        pytest.skip("no driver of PostgreSQL is installed")
    for port, what in (
        (dead_port, "cannot be reached (Connection refused): check the address and that the server is up."),
        (silent_port, "gave no answer within 1.5 s: check that the server is up and reachable."),
    ):
        sentence = asked(f"postgresql+{driver}://ada:hunter2@127.0.0.1:{port}/mlflow")
        assert sentence == f"{FIELD} 'postgresql+{driver}://***@127.0.0.1:{port}/mlflow' {what}"


def test_a_driver_that_is_missing_is_told() -> None:
    sentence = asked("mssql+pymssql://ada:hunter2@db.example.org/mlflow")
    assert (
        "'mssql+pymssql://***@db.example.org/mlflow' needs a driver that is not installed: No module"
        in sentence
    )


@pytest.mark.parametrize("uri", ["postgresql://ada:hun/ter2@db:x/mlflow", "postgresql://ada:hunter2"])
def test_a_database_url_that_cannot_be_read_is_told_without_its_password(uri: str) -> None:
    sentence = asked(uri)
    assert "is no database URL: write 'postgresql://user:password@host:port/database'" in sentence
    for piece in ("hun/ter2", "ter2", "hunter2"):
        assert piece not in sentence


@pytest.mark.parametrize("uri", ["foo.db", "/tmp/foo.sqlite", "data/foo.sqlite3"])
def test_the_path_of_a_database_is_no_folder(uri: str) -> None:
    with pytest.raises(ServiceError, match=f"write 'sqlite:///{uri}' for a database, '{uri}/' for a folder"):
        uris.check("--mlctx-tracking-uri:", uri)
    uris.check("--mlctx-tracking-uri:", f"{uri}/")
