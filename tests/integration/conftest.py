from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Suite
from servers import mlflow_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server for all tests: it takes seconds to come up."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Writes a suite and runs it in a process of its own."""
    return Suite(tmp_path / "suite", tmp_path / "tmp")


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[int], Path]:
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
