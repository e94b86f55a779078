"""The store URIs that MLflow accepts: checked without opening the store; one question to a server."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import sqlite3
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from pytest_mlctx.services.credentials import redact
from pytest_mlctx.services.deadline import DeadlineError, reason, within
from pytest_mlctx.services.errors import ServiceError
from pytest_mlctx.services.store.paths import artifacts_beside, expressible

T = TypeVar("T")

DEADLINE = 4.5
"""Seconds that a server has for its answer, connection included."""

_FILES = ("", "file")
_DATABASES = ("postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_DATABRICKS = ("databricks", "databricks-uc", "uc")
_SCHEMES = ("sqlite", "file", *_SERVERS, *_DATABASES, *_DATABRICKS)
_DATABASE_FILES = (".db", ".sqlite", ".sqlite3")


def scheme(uri: str) -> str:
    """The URI's scheme without a SQLAlchemy driver; a plain path, a Windows drive too, has ``""``."""
    if uri in _DATABRICKS:
        return uri
    name = uri.partition(":")[0] if ":" in uri else ""
    return "" if len(name) == 1 or not re.fullmatch(r"[A-Za-z][\w.+-]*", name) else name.split("+")[0].lower()


def is_file_store(uri: str) -> bool:
    """Whether MLflow keeps this store as files in a folder."""
    return scheme(uri) in _FILES


def is_server(uri: str) -> bool:
    """Whether the store answers by HTTP, as MLflow's own API."""
    return scheme(uri) in (*_SERVERS, "databricks", "databricks-uc")  # Unity Catalog alone has another


def is_remote(uri: str) -> bool:
    """Whether the store is another machine's: a server or database server that is not on loopback."""
    kind = scheme(uri)
    if kind in _DATABRICKS:
        return True
    if kind not in _SERVERS + _DATABASES:
        return False
    return not _is_loopback(_hostname(uri))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def sqlite_path(uri: str) -> Path | None:
    """The database file of a ``sqlite:`` URI; None for another scheme or a database in memory."""
    if scheme(uri) != "sqlite":
        return None
    name = uri.partition(":///")[2].partition("?")[0]
    return None if name in ("", ":memory:") else Path(name)


def folder(uri: str) -> Path:
    """The folder of a file store.

    Args:
        uri: a plain path or a ``file:`` URI.
    """
    return Path(url2pathname(unquote(urlsplit(uri).path))) if scheme(uri) == "file" else Path(uri)


def anchored(uri: str, base: Path) -> str:
    """The URI with a relative path of a file or folder made absolute; one that `base` would spoil stays."""
    if not expressible(base):
        return uri
    if (database := sqlite_path(uri)) is not None:
        return f"{uri.partition(':')[0]}:///{(base / database).as_posix()}"
    if scheme(uri) == "file" and not folder(uri).is_absolute():
        return (base / folder(uri)).as_uri()
    return str(base / uri) if scheme(uri) == "" else uri


def files(uri: str) -> list[Path]:
    """Where a store lies that is kept in files: its folder, or its database and the artifacts beside."""
    if (database := sqlite_path(uri)) is not None:
        return [database, artifacts_beside(database)]
    return [folder(uri)] if is_file_store(uri) else []


def check(field: str, uri: str) -> None:
    """Refuse what can be judged wrong without opening the store.

    Args:
        field: the name of the field or option, for the sentence.
        uri: what the user gave.

    Raises:
        ServiceError: empty, of a scheme that MLflow does not know, or a SQLite URL that SQLAlchemy misreads.
    """
    shown = redact(uri)
    if not uri.strip():
        raise ServiceError(
            f"{field} is empty: give a URI that MLflow accepts, such as 'sqlite:///mlflow.db' or 'http://host:5000'."
        )
    if re.match(r"https?//|[\w.-]+:\d+(/|$)", uri):
        raise ServiceError(f"{field} {shown!r} looks like a server's address: write 'http://host:port'.")
    kind = scheme(uri)
    if kind == "sqlite" and ("?" in uri or re.search(r"%[0-9A-Fa-f]{2}", uri)):
        raise ServiceError(
            f"{field} {shown!r} has a '?' or a '%' escape, which a SQLite URL cannot carry "
            "(SQLAlchemy would open another file): choose a path without them."
        )
    if kind == "sqlite" and not re.match(r"sqlite(\+\w+)?://(/|$)", uri):
        raise ServiceError(
            f"{field} {shown!r} is no SQLite URL: write 'sqlite:///relative.db' or 'sqlite:////absolute.db'."
        )
    if kind == "" and re.search(r"%[0-9A-Fa-f]{2}", uri):
        raise ServiceError(
            f"{field} {shown!r} has a '%' escape, which MLflow would decode: "
            f"write it as {Path(uri).absolute().as_uri()!r}."
        )
    if kind == "" and uri.endswith(_DATABASE_FILES) and not Path(uri).is_dir():
        raise ServiceError(
            f"{field} {shown!r} is the path of a folder to MLflow: "
            f"write 'sqlite:///{uri}' for a database, '{uri}/' for a folder of this name."
        )
    if kind in _SCHEMES or kind == "" or kind in _registered_schemes():
        if kind in _SERVERS and not _hostname(uri):
            raise ServiceError(f"{field} {shown!r} names no host: write '{kind}://host:port'.")
        return
    near = difflib.get_close_matches(kind, _SCHEMES, n=1)
    hint = f"did you mean '{near[0]}:'?" if near else f"use one of {', '.join(_SCHEMES)}, or a path."
    raise ServiceError(f"{field} {shown!r} has the scheme '{kind}', which MLflow does not know: {hint}")


def _hostname(uri: str) -> str:
    try:
        return urlsplit(uri).hostname or ""
    except ValueError:
        return ""


def _registered_schemes() -> set[str]:
    """The schemes that installed MLflow plugins bring (MLflow's documentation, "Plugins")."""
    groups = ("mlflow.tracking_store", "mlflow.model_registry_store")
    return {point.name for group in groups for point in entry_points(group=group)}


def ask(field: str, uri: str, experiment: str) -> None:
    """Put one question to the store: what can't answer is told at once and not after MLflow's retries.

    Args:
        field: the name of the field, for the sentence.
        uri: a URI that passed `check`.
        experiment: whose name a server is asked for: with MLflow's authentication others may be forbidden.

    Raises:
        ServiceError: it does not answer within `DEADLINE` seconds, refuses, or is not what the URI says.
    """
    kind = scheme(uri)
    if kind == "sqlite":
        _ask_sqlite(field, uri)
    elif kind in _FILES:
        _ask_folder(field, folder(uri), uri)
    elif is_server(uri):
        _ask_server(field, uri, experiment)
    elif kind in _DATABASES:
        _ask_database(field, uri)


def _ask_folder(field: str, path: Path, uri: str) -> None:
    existing = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), path)
    if not existing.is_dir():
        raise ServiceError(f"{field} {uri!r}: {str(existing)!r} is not a folder: choose another path.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ServiceError(
            f"{field} {uri!r}: the folder {str(existing)!r} may not be written: "
            "change its permissions or choose another."
        )


def _ask_sqlite(field: str, uri: str) -> None:
    path = sqlite_path(uri)
    if path is None:
        return
    if not path.exists():
        _ask_folder(field, path.parent, uri)
        return
    if path.is_dir():
        raise ServiceError(
            f"{field} {uri!r} names a folder: add the name of a database file, such as 'mlflow.db'."
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise ServiceError(
            f"{field} {uri!r}: the file may not be written: change its permissions or choose another."
        )
    _ask_folder(field, path.parent, uri)  # SQLite writes its journal beside the file
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=DEADLINE)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        raise ServiceError(
            f"{field} {uri!r} cannot be opened ({error}): see who holds it, or choose another."
        ) from error
    except sqlite3.DatabaseError as error:
        raise ServiceError(
            f"{field} {uri!r} is no SQLite database ({error}): choose another file."
        ) from error
    finally:
        connection.close()


def _ask_server(field: str, uri: str, experiment: str) -> None:
    credentials: Any
    if scheme(uri) in _DATABRICKS:
        credentials = import_module("mlflow.utils.databricks_utils").get_databricks_host_creds
        remedy = "check DATABRICKS_HOST and DATABRICKS_TOKEN, or the profile in ~/.databrickscfg"
    else:
        credentials = import_module("mlflow.utils.credentials").get_default_host_creds
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    http_request: Any = import_module("mlflow.utils.rest_utils").http_request

    def question() -> tuple[int, str]:
        response = http_request(
            credentials(uri),
            "/api/2.0/mlflow/experiments/get-by-name",
            "GET",
            params={"experiment_name": experiment},
            max_retries=0,
            timeout=2 * DEADLINE,  # for the thread to end, long after nobody waits for it
            raise_on_status=False,
        )
        return response.status_code, response.text

    code, text = _within_deadline(field, uri, question)
    where = f"{field} {redact(uri)!r}"
    if code in (401, 403):
        raise ServiceError(f"{where} answers {code}, not authorised: {remedy}.")
    if code not in (200, 404):
        raise ServiceError(
            f"{where} answers HTTP {code}: check that an MLflow server listens there, and its log."
        )
    if ('"experiment"' if code == 200 else '"error_code"') not in text:
        raise ServiceError(
            f"{where} answers with a page that is not MLflow's API: "
            "check that an MLflow server listens there."
        )


def _ask_database(field: str, uri: str) -> None:
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(uri)
    except Exception:  # its text, and any part of the URI, may be a piece of the password
        raise ServiceError(
            f"{field} is no database URL: write '{scheme(uri)}://user:password@host:port/database', "
            "with special characters of the password percent-encoded."
        ) from None

    def question() -> None:
        engine = sqlalchemy.create_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()

    _within_deadline(field, uri, question)


def _within_deadline(field: str, uri: str, question: Callable[[], T]) -> T:
    where = f"{field} {redact(uri)!r}"
    try:
        return within(DEADLINE, question)
    except DeadlineError:
        sentence = f"gave no answer within {DEADLINE:g} s: check that the server is up and reachable."
    except ImportError as error:
        sentence = f"needs a driver that is not installed: {error}."
    except Exception as error:
        sentence = f"cannot be reached ({reason(error)}): check the address and that the server is up."
    # Raised here: the error may carry the URI with its password, and would be shown beside ours.
    raise ServiceError(f"{where} {sentence}")
