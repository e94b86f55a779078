"""An inferring process tells what it read: the real one, with a small script in place of MLflow's."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services.requirements import child
from pytest_mlctx.services.requirements.child.dependencies import value_of
from pytest_mlctx.services.requirements.command import CHILD
from pytest_mlctx.services.requirements.distributions import installed

THREADS = "import concurrent.futures, os, subprocess; pool = concurrent.futures.ThreadPoolExecutor()"


class Told(dict):
    def __getitem__(self, what: Any) -> Any:
        return super().get(what)


@pytest.fixture
def observe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs user code in the process that infers, as a module ``usercode``; gives what was told."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(code: Any, script: Any = None, **environ: Any) -> Any:
        if script is None:
            (folder / "usercode.py").write_text(textwrap.dedent(code))
            script = tmp_path / "script.py"
            script.write_text(
                f"import sys\ndef main():\n    sys.path[0] = {str(folder)!r}\n    import usercode\n"
            )
        now = installed()
        plan = {
            "standard": now.standard,
            "sites": now.sites,
            "ours": [str(script)],
            "report": str(tmp_path / "r"),
        }
        (tmp_path / "plan").write_text(json.dumps(plan))
        subprocess.run(
            [sys.executable, CHILD, str(tmp_path / "plan"), str(script)],
            check=True,
            env={**os.environ, **environ},
        )
        told = json.loads((tmp_path / "r").read_text())
        told["seen"] = Told({(kind, name): value for kind, name, value in told["seen"]})
        return told

    return run


def test_imported_modules_of_the_user_and_what_they_import(observe: Any) -> None:
    Path("deeper.py").write_text("")
    for _ in range(2):  # from the source, then from the byte code
        told = observe("import deeper, json, yaml")
        assert told["seen"]["content", str(Path("deeper.py").absolute())] == value_of("content", "deeper.py")
        assert {"deeper", "yaml", "usercode"} <= set(told["names"])
        assert told["user_code"]
        assert not told["doubts"]
        assert not [name for kind, name in told["seen"] if kind == "content" and "yaml" in name]


def test_what_mlflow_imports_by_itself_takes_no_part_in_a_model(observe: Any, tmp_path: Path) -> None:
    script = tmp_path / "capture" / "script.py"
    script.parent.mkdir()
    (script.parent / "beside_mlflow.py").write_text("")
    script.write_text("import beside_mlflow\ndef main(): pass\n")
    told = observe("", script)
    assert told["seen"]["content", str(script.parent / "beside_mlflow.py")]
    assert not told["user_code"]


def test_modules_that_are_not_there(observe: Any) -> None:
    Path("pack").mkdir()
    Path("pack/__init__.py").write_text("")
    told = observe(
        """
        for name in ("missing_at_all", "pack.missing"):
            try:
                __import__(name)
            except ImportError:
                pass
        """
    )
    assert "missing_at_all" in told["names"]
    assert told["seen"]["exists", str(Path("pack/missing.py").absolute())] == "absent"


@pytest.mark.parametrize(
    ("code", "kind", "name"),
    [
        ("open('data.txt').read()", "content", "data.txt"),
        ("import pathlib; pathlib.Path('data.txt').read_text()", "content", "data.txt"),
        ("import os; os.path.exists('data.txt')", "exists", "data.txt"),
        ("import pathlib; pathlib.Path('data.txt').exists()", "exists", "data.txt"),
        ("import os; os.path.exists('none.txt')", "exists", "none.txt"),
        ("import os; os.listdir('.')", "listing", "."),
        ("import glob; glob.glob('*.txt')", "listing", "."),
        ("import pathlib; list(pathlib.Path('.').glob('*.txt'))", "listing", "."),
        ("import os; os.readlink('link')", "link", "link"),
        ("import pathlib; pathlib.Path('link').readlink()", "link", "link"),
        ("import configparser; configparser.ConfigParser().read('data.txt')", "content", "data.txt"),
        (f"{THREADS}; list(pool.map(os.path.exists, ['data.txt']))", "exists", "data.txt"),
        (f"{THREADS}; list(pool.map(os.listdir, ['.']))", "listing", "."),
    ],
)
def test_files_that_user_code_asks_for(observe: Any, code: str, kind: str, name: str) -> None:
    Path("data.txt").write_text("[a]\n")
    Path("link").symlink_to("data.txt")
    told = observe(code)
    path = str(Path(name).absolute())
    assert told["seen"][kind, path] == value_of(kind, path)
    assert told["seen"]["folder", ""] == str(Path.cwd())
    assert not told["doubts"]


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.path.getmtime('data.txt')",
        "import os; os.stat('data.txt').st_mtime",
        "import pathlib; pathlib.Path('data.txt').stat()",
    ],
)
def test_times_that_user_code_looks_at(observe: Any, code: str) -> None:
    Path("data.txt").write_text("a")
    path = str(Path("data.txt").absolute())
    told = observe(code)["seen"]["status", path]
    os.utime(path, (1, 1))
    assert told != value_of("status", path)


@pytest.mark.parametrize(
    "code", ["import warnings; warnings.warn('old')", "import traceback; traceback.print_stack()"]
)
def test_times_that_only_tell_whether_a_shown_line_is_fresh(
    observe: Any, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # coverage looks at times itself
    told = observe(code)["seen"]
    assert told["content", str(Path("usercode.py").absolute())]
    assert not told["status", str(Path("usercode.py").absolute())]


def test_a_version_that_is_asked_for_lists_no_folder(observe: Any) -> None:
    told = observe(
        "import importlib.metadata, sys; sys.path.insert(1, '.'); importlib.metadata.version('mlflow')"
    )
    assert not [name for kind, name in told["seen"] if kind == "listing"]


@pytest.mark.parametrize("mode", ["a+", "a", "r+"])
def test_what_it_appends_to_it_may_read(observe: Any, mode: str) -> None:
    Path("data.txt").write_text("a")
    path = str(Path("data.txt").absolute())
    before = value_of("content", path)
    assert observe(f"open('data.txt', {mode!r}).close()")["seen"]["content", path] == before


@pytest.mark.parametrize(
    "code",
    [
        "import importlib.util; importlib.util.find_spec('localplugin')",
        "import importlib.machinery; importlib.machinery.PathFinder.find_spec('localplugin')",
        "import pkgutil; pkgutil.resolve_name('localplugin') if False else list(pkgutil.iter_modules(['.']))",
    ],
)
def test_a_module_that_is_looked_for_and_comes_later(observe: Any, code: str) -> None:
    told = observe(code)
    now = installed().resolution(frozenset(told["names"])), value_of("listing", str(Path.cwd()))
    Path("localplugin.py").write_text("")
    sys.path.insert(0, str(Path.cwd()))
    try:
        later = installed().resolution(frozenset(told["names"])), value_of("listing", str(Path.cwd()))
    finally:
        sys.path.pop(0)
    listed = told["seen"]["listing", str(Path.cwd())] is not None
    assert now[0] != later[0] if "localplugin" in told["names"] else listed and now[1] != later[1]


def test_a_package_without_init_of_which_another_folder_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        monkeypatch.syspath_prepend(tmp_path / folder)
    (tmp_path / "one/spread").mkdir()
    before = installed().resolution(frozenset({"spread"}))
    (tmp_path / "two/spread").mkdir()
    assert installed().resolution(frozenset({"spread"})) != before


def test_neighbours_of_the_model_are_not_the_model(observe: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    Path(str(script) + ".json").write_text("{}")
    told = observe(f"open({str(script) + '.json'!r}).read(); open({str(script)!r}).read()")
    assert told["seen"]["content", str(script) + ".json"] is not None
    assert told["seen"]["content", str(script)] is None


@pytest.mark.parametrize("code", ["import os; os.getcwd()", "import pathlib; pathlib.Path.cwd()"])
def test_the_working_folder(observe: Any, code: str) -> None:
    assert observe(code)["seen"]["folder", ""] == str(Path.cwd())


def test_what_it_wrote_itself_is_no_dependency(observe: Any) -> None:
    told = observe("open('own.txt', 'w').write('a'); open('own.txt').read()")
    assert ("content", str(Path("own.txt").absolute())) not in told["seen"]


@pytest.mark.parametrize("code", ["os.environ['ASKED']", "os.getenv('ASKED')", "'ASKED' in os.environ"])
def test_environment_variables(observe: Any, code: str) -> None:
    told = observe(f"import os; {code}", ASKED="1", NOT_ASKED="1")
    assert ("environ", "ASKED") in told["seen"]
    assert ("environ", "NOT_ASKED") not in told["seen"]


@pytest.mark.parametrize(
    "code", ["dict(os.environ)", "os.environ.copy()", "list(os.environ.items())", "list(os.environ)"]
)
def test_user_code_that_looks_at_all_variables_depends_on_all(observe: Any, code: str) -> None:
    seen = observe(f"import os; {code}", ANY="1", LAST="1")["seen"]
    assert ("prefix", "") in seen
    assert not {("environ", "ANY"), ("environ", "LAST")} & set(seen)


def test_a_variable_that_is_named_after_all_were_looked_at(observe: Any) -> None:
    assert ("environ", "ANY") in observe("import os; dict(os.environ); os.environ.get('ANY')", ANY="1")[
        "seen"
    ]


def test_who_copies_all_variables_does_not_depend_on_the_test_that_runs() -> None:
    def value(**environ: Any) -> Any:
        return value_of("prefix", "", {"A": "1", "MLFLOW_TRACKING_URI": "sqlite:///a", **environ})

    assert value() == value(MLFLOW_TRACKING_URI="sqlite:///b")
    assert value(PYTEST_CURRENT_TEST="a") == value(PYTEST_CURRENT_TEST="b")
    assert len({value(), value(A="2"), value(B="1"), value(MLFLOW_TRACKING_URI="databricks")}) == 4


def test_a_library_that_looks_at_all_variables_depends_on_its_own(
    observe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A library is what MLflow has a flavor for.
    (tmp_path / "site/prophet-1.dist-info").mkdir(parents=True)
    (tmp_path / "site/prophet-1.dist-info/RECORD").write_text("chooser.py,,\nchooser_script.py,,\n")
    (tmp_path / "site/chooser.py").write_text(
        "import os\n"
        "chosen = {k: v for k, v in os.environ.items() if k.startswith('CHOOSER_')}\n"
        "for name in os.environ:\n"
        "    if name == 'NAMED': os.environ[name]\n"
        "os.environ.get('COLUMNS')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    script = tmp_path / "site/chooser_script.py"
    script.write_text("def main():\n    import chooser\n")
    told = observe(None, script, ANY="1", NAMED="1")
    assert ("prefix", "CHOOSER") in told["seen"]
    assert ("environ", "NAMED") in told["seen"]
    assert ("environ", "ANY") not in told["seen"]
    assert ("environ", "COLUMNS") not in told["seen"]
    assert ("environ", "COLUMNS") in observe("import os; os.environ.get('COLUMNS')")["seen"]


def test_a_variable_that_libraries_read_loosely_counts_fully_when_user_code_reads_it(observe: Any) -> None:
    told = observe("import os; os.environ.get('MLFLOW_TRACKING_URI')")
    assert ("environ", "MLFLOW_TRACKING_URI") in told["seen"]


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])",
        "import os; os.system('true')",
        "import socket; socket.socket().connect_ex(('127.0.0.1', 9))",
        "import socket; socket.gethostbyname('localhost')",
        "import sqlite3; sqlite3.connect(':memory:')",
        "open('/proc/self/status').read()",
        f"{THREADS}; list(pool.map(subprocess.getoutput, ['true']))",
        f"{THREADS}; import requests; pool.submit(requests.get, 'http://127.0.0.1:9').exception()",
    ],
)
def test_what_cannot_be_checked_later_is_a_doubt(observe: Any, code: str) -> None:
    assert observe(code)["doubts"]


def test_a_library_that_looks_at_the_machine_is_none(observe: Any) -> None:
    told = observe("import psutil, joblib; joblib.cpu_count(); psutil.virtual_memory()")
    assert not told["doubts"]


def test_secrets_are_told_as_hashes_only(observe: Any, tmp_path: Path) -> None:
    Path("token.txt").write_text("hunter2-content")
    told = observe("import os; os.environ['TOKEN']; open('token.txt').read()", TOKEN="hunter2-variable")
    assert told["seen"]["content", str(Path("token.txt").absolute())]
    assert "hunter2" not in (tmp_path / "r").read_text()


def test_what_runs_in_the_inferring_process_imports_nothing_of_ours() -> None:
    for path in Path(child.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                named = ["." * node.level + (node.module or "")]
            else:
                continue
            for name in named:
                beside = name.startswith(".") and (path.parent / f"{name.removeprefix('.')}.py").is_file()
                assert beside or name.partition(".")[0] in sys.stdlib_module_names, (path.name, name)
