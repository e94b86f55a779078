"""MLflow's command is run with an observer, and what went wrong with it is not forgotten."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services.requirements import command
from pytest_mlctx.services.requirements.memory import Observation


def test_a_command_that_failed_is_a_doubt_as_mlflow_may_try_another(tmp_path: Path) -> None:
    def timed_out(*_: Any, **__: Any) -> None:
        raise TimeoutError("after a second")

    observation = Observation()
    arguments = ["--model-path", str(tmp_path), "--output-file", str(tmp_path / "modules.txt")]
    with pytest.raises(TimeoutError):
        command.run([sys.executable, "script.py", *arguments], 1, None, timed_out, observation)
    assert observation.doubts
