"""What the entry point `mlctx` loads: the plugin under its module's name, so that naming it again is harmless."""

pytest_plugins = ("pytest_mlctx.plugin",)
