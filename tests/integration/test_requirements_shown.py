"""Models of all kinds, logged MLflow's own way and by reuse, in sessions of each sort that share a cache."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from processes import command
from requirements_cases import CASES, NEVER_KEPT
from requirements_kinds import KINDS, LIBRARIES, write_project

SUITE = """
    import contextlib, json, os, sys
    from pathlib import Path

    import pytest
    from filelock import FileLock
    from pytest_mlctx.services.requirements import wrappers

    sys.path.append(os.environ["SHOWN_KINDS"])
    from requirements_cases import CASES
    from requirements_kinds import KINDS, environment_files


    @pytest.mark.parametrize("name", json.loads(os.environ["SHOWN_NAMES"]))
    def test_it(name, tmp_path, mlflow_service):
        alone = name in CASES or name.startswith("decided_by")  # these change files that others look at
        before = sum(one.statistics.inferred for one in wrappers._installed)
        with FileLock("../lock") if alone else contextlib.nullcontext():
            KINDS[name](tmp_path / "model")
        inferred = sum(one.statistics.inferred for one in wrappers._installed) - before
        told = {"files": environment_files(tmp_path / "model"), "inferred": inferred}
        Path(os.environ["SHOWN_OUT"], f"{name}.json").write_text(json.dumps(told))
"""
SESSIONS = {
    "own": ["--mlctx-requirements=infer"],
    "cold": ["--mlctx-requirements=reuse"],
    "warm": ["--mlctx-requirements=reuse"],
    "two": ["--mlctx-requirements=reuse", "-p", "xdist", "-n2"],
    "back": ["--mlctx-requirements=reuse"],
}
ANEW = {
    *NEVER_KEPT,
    "pyfunc_failing",
    # They copy all variables, of which SHOWN_OUT and xdist's are others in each session.
    *("by_all_variables_0", "by_all_variables_1", "by_a_file_of_variables_0", "by_a_file_of_variables_1"),
    # Its predict adds to sys.path, as installing something does.
    *("by_a_zipped_module_0", "by_a_zipped_module_1"),
}

_missing = tuple(name for name in LIBRARIES if importlib.util.find_spec(name) is None)
NAMES = [name for name in KINDS if not name.startswith(_missing)]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """By session and kind, what was stored and how often it was inferred."""
    names = [item.callspec.params["name"] for item in request.session.items if "shown" in item.fixturenames]
    folder = tmp_path_factory.mktemp("shown")
    project = folder / "project"
    write_project(project)
    (project / "test_it.py").write_text(textwrap.dedent(SUITE))
    told = {}
    for session, options in SESSIONS.items():
        out = folder / session
        out.mkdir()
        environ = {
            "PYTHONDONTWRITEBYTECODE": "1",  # it would be logged with the user's code
            "PYTHONHASHSEED": "0",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "MLCTX_CACHE_DIR": str(folder / "cache"),
            "SHOWN_KINDS": str(Path(__file__).parent),
            "SHOWN_NAMES": json.dumps(names),
            "SHOWN_OUT": str(out),
        }
        ended = subprocess.run(
            command(*options, "-q", "--tb=short", f"--basetemp={folder / 'tmp'}"),
            cwd=project,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(session, ended.stdout[-2000:])
        told[session] = {file.stem: json.loads(file.read_text()) for file in out.iterdir()}
    return told


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_is_mlflows_own_and_the_second_session_infers_nothing(shown: Any, name: Any) -> None:
    own = shown["own"][name]
    for session in SESSIONS:
        assert shown[session][name]["files"] == own["files"], session
    assert own["inferred"] == 0
    if name not in ANEW:
        assert [shown[session][name]["inferred"] for session in ("warm", "two", "back")] == [0, 0, 0]


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("_0")])
def test_a_pair_of_cases_is_two(name: Any) -> None:
    assert name[:-1] + "1" in CASES
