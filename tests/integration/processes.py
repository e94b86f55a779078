"""Sessions of pytest in processes of their own."""

from __future__ import annotations

import os
import sys


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "mlctx", "-p", "no:cacheprovider", *args]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **more}
