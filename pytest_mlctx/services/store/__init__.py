"""Migrated SQLite stores: built once, copied, taken back to a savepoint, opened with settings of our own."""

from __future__ import annotations

from pytest_mlctx.services.store.builders import install_builders
from pytest_mlctx.services.store.initialization import fill
from pytest_mlctx.services.store.paths import artifact_uri, artifacts_beside
from pytest_mlctx.services.store.savepoint import Savepoint
from pytest_mlctx.services.store.temporary import Store, is_temporary, promised, store_at, store_of

__all__ = [
    "Savepoint",
    "Store",
    "artifact_uri",
    "artifacts_beside",
    "fill",
    "install_builders",
    "is_temporary",
    "promised",
    "store_at",
    "store_of",
]
