"""MLflow's registries of stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services import ServiceError, registries


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
