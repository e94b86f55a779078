"""The entry point `mlctx`: it loads pytest_mlctx.plugin under that name, so that `-p` may name it too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugin, which adds the options."""
    # Not by `pytest_plugins`: pytest 9 looks for each name of that in all installed packages.
    pluginmanager.import_plugin("pytest_mlctx.plugin")
