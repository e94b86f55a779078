from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import command, environment
from servers import mlflow_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server for all tests: it takes seconds to come up."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def suite(tmp_path: Path) -> Any:
    """Writes a suite and runs it in a process of its own."""

    def run(source: str, *args: str, **options: Any) -> Any:
        folder = tmp_path / "suite"
        folder.mkdir(exist_ok=True)
        (folder / "test_it.py").write_text(textwrap.dedent(source))
        options.setdefault("env", environment())
        options.setdefault("cwd", folder)
        options.setdefault("timeout", 120)
        return subprocess.run(
            command("--basetemp", str(tmp_path / "tmp"), *args),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **options,
        )

    run.folder = tmp_path / "suite"
    return run


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Mounts a file system of this many kilobytes."""

    def mount(size: int) -> Path:
        small = tmp_path / "small"
        small.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(small)]
        if (
            sys.platform != "linux"
            or os.geteuid()
            or subprocess.run(["mount", *options], check=False).returncode
        ):
            pytest.skip("cannot mount")
        request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(small)], check=False))
        return small

    return mount
