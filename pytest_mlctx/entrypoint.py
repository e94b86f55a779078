"""What the entry point `mlctx` loads: the plugin, by its module's name, so that it can be named again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugin, which adds the options."""
    # Not by `pytest_plugins`: pytest 9 looks for each name of that in all installed packages.
    pluginmanager.import_plugin("pytest_mlctx.plugin")
