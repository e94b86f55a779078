"""What the entry point `mlctx` loads: the plugin, by its module's name, so that it can be named again."""

pytest_plugins = ("pytest_mlctx.plugin",)
