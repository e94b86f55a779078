"""MLflow's registries of stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services import ServiceError, registries
from pytest_mlctx.services.store import listening


@pytest.mark.parametrize(
    ("module", "opened"),
    [
        ("mlflow.tracking._tracking_service.utils", registries.tracking_store),
        ("mlflow.tracking._model_registry.utils", registries.model_registry),
    ],
)
def test_without_the_one_name_that_opens_stores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, opened: Any
) -> None:
    __import__(module)
    monkeypatch.delattr(f"{module}._get_store")
    with pytest.raises(ServiceError, match=rf"^MLflow [\d.]+ has no {module}\._get_store.*older MLflow"):
        opened(f"sqlite:///{tmp_path}/mlflow.db")


def test_who_has_listened_leaves_nothing_at_the_registry(tmp_path: Path) -> None:
    uri, heard = f"sqlite:///{tmp_path}/mlflow.db", []
    with listening.each_use(heard.append):
        registries.tracking_store(uri)
    assert heard == [uri]
    assert "get_store" not in vars(registries.both()[0])
