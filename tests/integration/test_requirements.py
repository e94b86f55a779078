"""What is stored of a model's requirements is what MLflow would have stored, whoever inferred it and when."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from requirements_kinds import DECISIONS, KINDS, LIBRARIES, write_project

SCRIPT = Path(__file__).with_name("requirements_kinds.py")


class Project:
    """A folder of user code, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder / "project", 0
        self.cache = folder / "cache"
        write_project(self.folder)

    def start(self, *steps: Any, **environ: Any) -> Any:
        self.runs += 1
        out = self.folder.parent / f"out{self.runs}"
        out.mkdir()
        environ = {
            "PYTHONDONTWRITEBYTECODE": "1",  # it would be logged with the user's code, where there is some
            "PYTHONHASHSEED": "0",
            "MLCTX_CACHE_DIR": str(self.cache),
            **environ,
        }
        with (out / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(out), *steps],
                cwd=self.folder,
                env={**os.environ, **environ},
                stderr=log,
            )
        return process, out

    def end(self, process: Any, out: Any) -> Any:
        assert process.wait() == 0, (out / "log").read_text()[-3000:]
        told = json.loads((out / "told.json").read_text())
        return told["models"], (out / "log").read_text()

    def run(self, *steps: Any, **environ: Any) -> Any:
        return self.end(*self.start(*steps, **environ))


@pytest.fixture
def project(tmp_path: Path) -> Any:
    return Project(tmp_path)


def test_as_mlflow_does_it_then_reused_until_the_users_code_changes(project: Any) -> None:
    kinds = ("linear_with_example", "pyfunc_class_by_reference")
    models, log = project.run(
        *(f"{mode}:{kind}" for mode in ("own", "reuse", "reuse") for kind in kinds),
        "reuse:pyfunc_failing",
        "reuse:pyfunc_failing",
        "own:linear_given",
        "reuse:linear_given",
    )
    own, cold, again, failing, given = models[0:2], models[2:4], models[4:6], models[6:8], models[8:10]
    assert [model["files"] for model in cold] == [model["files"] for model in own]
    assert [model["files"] for model in again] == [model["files"] for model in own]
    assert [model["inferred"] for model in own + cold + again] == [0, 0, 1, 1, 0, 0]
    assert given[0]["files"] == given[1]["files"]
    assert given[1]["inferred"] == 0, "requirements that were given were inferred"
    assert [model["inferred"] for model in failing] == [1, 1], "a failed inference was kept"
    assert log.count("Failed to run predict on input_example") == 2, "MLflow's own warning is missing"

    deeper = project.folder / "userlib/deep.py"
    deeper.write_text("import loguru\n")
    (linear, pyfunc), _ = project.run(*(f"reuse:{kind}" for kind in kinds), PYTHONHASHSEED="1")
    assert linear["inferred"] == 0
    assert linear["files"] == own[0]["files"]
    assert pyfunc["inferred"] == 1
    assert "scipy" in own[1]["files"]["requirements.txt"]
    assert "loguru" in pyfunc["files"]["requirements.txt"]


@pytest.mark.slow
def test_every_kind_is_stored_as_mlflow_stores_it_cold_warm_and_interleaved(project: Any) -> None:
    missing = tuple(name for name in LIBRARIES if importlib.util.find_spec(name) is None)
    names = [name for name in KINDS if name != "pyfunc_failing" and not name.startswith(missing)]
    models, _ = project.run(*(f"own:{name}" for name in names))
    own = {model["kind"]: model["files"] for model in models}
    shuffled = random.Random(1).sample(names, len(names))
    cold, _ = project.run(*(f"reuse:{name}" for name in shuffled))
    warm, _ = project.run(*(f"reuse:{name}" for name in random.Random(2).sample(2 * names, 2 * len(names))))
    alone, _ = project.run(*(f"alone:{name}" for name in names), MLCTX_CACHE_DIR=str(project.cache / "other"))
    for model in cold + warm + alone:
        assert model["files"] == own[model["kind"]], model["kind"]
    assert not [model["kind"] for model in warm if model["inferred"]]


@pytest.mark.slow
def test_inferred_anew_when_anything_else_decides_what_is_imported(project: Any) -> None:
    kinds = [f"decided_by_{decision}" for decision in (*DECISIONS, "nothing", "nothing")]
    models, _ = project.run(*(f"reuse:{kind}" for kind in kinds))
    found = ["loguru" in model["files"]["requirements.txt"] for model in models]
    assert found == [kind != "decided_by_nothing" for kind in kinds]
    assert [model["inferred"] for model in models] == [*[1] * len(DECISIONS), 0, 0]

    decider = project.folder / "userlib/decider.py"
    decider.write_text(decider.read_text().replace("return model_input", "import loguru; return model_input"))
    (grown,), _ = project.run("reuse:decided_by_nothing")
    assert grown["inferred"] == 1
    assert "loguru" in grown["files"]["requirements.txt"]


@pytest.mark.slow
def test_processes_that_meet_a_kind_at_once_infer_it_once(project: Any) -> None:
    kinds = ("linear", "clusters", "pyfunc_class")
    running = [project.start(*(f"reuse:{kind}" for kind in kinds)) for _ in range(2)]
    ended = [project.end(*one)[0] for one in running]
    assert sum(model["inferred"] for models in ended for model in models) == len(kinds)
    assert [model["files"] for model in ended[0]] == [model["files"] for model in ended[1]]
