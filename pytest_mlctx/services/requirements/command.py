"""MLflow's capture command with an observer in it, run by the helper process or in one of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_mlctx.services.requirements import helper
from pytest_mlctx.services.requirements.distributions import installed
from pytest_mlctx.services.requirements.key import root_of
from pytest_mlctx.services.requirements.memory import Observation

CHILD = str(Path(__file__).parent / "child" / "main.py")


def run(
    command: list[str],
    timeout: float,
    environ: Mapping[str, str] | None,
    original: Callable[..., None],
    observation: Observation,
) -> None:
    """Do what ``mlflow.utils.requirements_utils._run_command`` would, and note what was observed.

    Raises:
        mlflow.exceptions.MlflowException: as MLflow's function, ``original``, does.
    """
    try:
        python, script, *arguments = command
        output = Path(arguments[arguments.index("--output-file") + 1])
        model = Path(arguments[arguments.index("--model-path") + 1])
        failures = (
            Path(arguments[arguments.index("--error-file") + 1]) if "--error-file" in arguments else None
        )
        report, plan = output.with_name("observed.json"), output.with_name("plan.json")
        now = installed()
        ours = [str(root_of(model.absolute())), str(output.parent.absolute())]
        content = {"standard": now.standard, "sites": now.sites, "ours": ours, "report": str(report)}
        plan.write_text(json.dumps(content), encoding="utf-8")
    except (IndexError, ValueError, OSError) as error:
        observation.doubts.append(f"MLflow's command is not the known one: {error}")
        original(command, timeout, env=environ)
        return
    if environ is None or not helper.run(
        python, CHILD, script, arguments, timeout, environ, content, now.digest
    ):
        if failures is not None:
            failures.unlink(missing_ok=True)
        try:
            original([python, CHILD, str(plan), script, *arguments], timeout, env=environ)
        except BaseException:
            observation.doubts.append("the command failed")  # MLflow may try another
            raise
    _note(report, failures, observation)


def _note(report: Path, failures: Path | None, observation: Observation) -> None:
    try:
        told: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        report.unlink()
    except (OSError, ValueError) as error:
        observation.doubts.append(f"the inferring process told nothing: {error}")
        return
    observation.reports.append(told)
    observation.doubts += told["doubts"]
    if failures is not None and failures.exists() and failures.stat().st_size:
        observation.doubts.append("the model failed to predict its input example")
