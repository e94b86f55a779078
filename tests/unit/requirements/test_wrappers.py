"""MLflow's functions are wrapped while an install lasts, without importing MLflow for it."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services import requirements
from pytest_mlctx.services.requirements import wrappers

ENVIRONMENT = "mlflow.utils.environment"


@pytest.fixture
def changed_mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An MLflow of another inside, which no installed one has: its function takes other arguments."""
    module = types.ModuleType(ENVIRONMENT)
    module.__spec__ = types.SimpleNamespace(_initializing=False)
    module._infer_requirements = lambda model: ["own"]
    for name in wrappers._WRAPPERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, ENVIRONMENT, module)
    return module


def test_an_mlflow_whose_inside_has_changed_goes_its_own_way_with_one_warning(changed_mlflow: Any) -> None:
    own = changed_mlflow._infer_requirements
    with pytest.warns(
        requirements.RequirementsWarning, match="MLflow's own way.*_infer_requirements"
    ) as said:
        reuse = requirements.install()
    assert changed_mlflow._infer_requirements is own
    assert len(said) == 1
    requirements.uninstall(reuse)


def test_that_warning_is_no_error_where_warnings_are(changed_mlflow: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        requirements.uninstall(requirements.install())


def test_installs_nest_and_a_surplus_uninstall_does_nothing() -> None:
    before = list(sys.meta_path)
    with requirements.reuse_requirements() as outer:
        inside = list(sys.meta_path)
        reuse = requirements.install(when=lambda: False)
        requirements.uninstall(reuse)
        requirements.uninstall(reuse)
        assert sys.meta_path == inside != before
        assert outer == requirements.Statistics()
    assert sys.meta_path == before


def test_which_module_is_whose_is_as_mlflow_reads_it(
    mlflow_imported: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib_metadata
    from mlflow.utils import requirements_utils

    monkeypatch.setenv("MLCTX_CACHE_DIR", str(tmp_path))
    own = importlib_metadata.packages_distributions()
    for _ in range(2):
        with requirements.reuse_requirements():
            assert requirements_utils.importlib_metadata.packages_distributions() == own
            assert requirements_utils.importlib_metadata.version("mlflow-skinny")
        assert requirements_utils.importlib_metadata is importlib_metadata
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) >= 1
