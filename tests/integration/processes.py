"""Sessions of pytest in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "mlctx", "-p", "no:cacheprovider", *args]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **more}


class Suite:
    """Writes a suite and runs it in a process of its own."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder = folder
        self._temporary = temporary

    def __call__(self, source: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "test_it.py").write_text(textwrap.dedent(source))
        given = {"env": environment(), "cwd": self.folder, "timeout": 120, **options}
        return subprocess.run(
            command("--basetemp", str(self._temporary), *args),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **given,
        )
