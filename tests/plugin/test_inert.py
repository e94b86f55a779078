from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

import pytest

# Written when the process ends, after every hook of every plugin.
AT_EXIT = """
    import atexit, json, os, pathlib, sys

    def tell():
        pathlib.Path(os.environ["MODULES"], f"{os.getpid()}.json").write_text(json.dumps(sorted(sys.modules)))

    atexit.register(tell)
"""
SUITE = """
    import unittest, warnings
    import pytest

    def test_passes(tmp_path, caplog, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://x")

    def test_fails():
        print("printed")
        assert 1 == 2

    @pytest.mark.skip(reason="why")
    def test_skipped(): pass

    @pytest.mark.xfail
    def test_expected(): assert 0

    @pytest.fixture
    def broken(): raise ValueError("broken")

    def test_error(broken): pass

    @pytest.mark.parametrize("value", [1, "ü"])
    def test_values(value): pass

    def test_warns():
        warnings.warn("a warning of the suite")

    class Test(unittest.TestCase):
        def test(self): self.assertTrue(True)

    def function():
        '''
        >>> 1 + 1
        2
        '''
"""
HEAVY = {"mlflow", "loguru", "plyer", "pydantic", "numpy", "pandas", "sqlalchemy", "platformdirs", "filelock"}
OURS = {
    "",
    ".entrypoint",
    ".fixture_registry",
    ".fixtures",
    ".options",
    ".plugin",
    ".pytest_internals",
    ".session",
    ".settings",
    ".workers",
}


@pytest.fixture
def suite(pytester: pytest.Pytester, no_other_plugin: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite that uses nothing of ours, and the folder where its processes tell what they imported."""
    pytester.makeconftest(AT_EXIT)
    pytester.makepyfile(SUITE)
    folder = pytester.mkdir("told")
    monkeypatch.setenv("MODULES", str(folder))
    return folder


def modules(folder: Path) -> list[set[str]]:
    return [set(json.loads(file.read_text())) for file in folder.glob("*.json")]


def told(result: pytest.RunResult) -> list[str]:
    lines = (result.outlines, result.errlines)
    return [
        re.sub(r"in \d+\.\d+s|0x[0-9a-f]+|pytest-\d+|gw\d", "~", line)
        for line in itertools.chain(*lines)
        if not line.startswith("plugins:")
    ]


@pytest.mark.parametrize(
    "args",
    [["--doctest-modules", "-rA"], ["-W", "error"], ["-p", "xdist", "-n", "2", "-q", "--dist=loadfile"]],
    ids=["plain", "warnings are errors", "xdist"],
)
def test_installed_and_not_used_it_changes_and_imports_nothing(
    pytester: pytest.Pytester, suite: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    with_plugin = pytester.runpytest_subprocess(*args)
    loaded = modules(suite)
    assert len(loaded) == (3 if "xdist" in args else 1)
    for names in loaded:
        assert HEAVY.isdisjoint(names)
        assert {name for name in names if name.startswith("pytest_mlctx")} == {
            f"pytest_mlctx{n}" for n in OURS
        }
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider")
    without = pytester.runpytest_subprocess(*args)
    assert not any(name.startswith("pytest_mlctx") for names in modules(suite) for name in names - loaded[0])
    assert with_plugin.ret == without.ret == pytest.ExitCode.TESTS_FAILED
    assert told(with_plugin) == told(without)
    assert len(without.outlines) > 10


def test_listing_tests_starts_nothing(
    pytester: pytest.Pytester, suite: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Editors discover tests so."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    pytester.makeini("[pytest]\nmlctx_autouse = logger alerts mlflow")
    pytester.makepyfile("def test(mlflow_run, alerts_outbox): pass")
    pytester.makeconftest(
        AT_EXIT + "\n    assert os.environ['MLFLOW_TRACKING_URI'].startswith('sqlite:')\n"
        "    assert os.environ['MLFLOW_REGISTRY_URI'] == os.environ['MLFLOW_TRACKING_URI']\n"
    )
    result = pytester.runpytest_subprocess("--collect-only", "-q", "--basetemp=base")
    assert result.ret == pytest.ExitCode.OK
    assert result.outlines[0] == "test_listing_tests_starts_nothing.py::test"
    (names,) = modules(suite)
    assert not {"mlflow", "plyer", "sqlalchemy", "numpy", "pandas"} & names
    assert list(temporary.iterdir()) == []
    assert not [file.name for file in pytester.path.rglob("*") if "ml" in file.name]


def test_a_second_session_in_one_process_equals_the_first(
    pytester: pytest.Pytester, no_other_plugin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    pytester.makepyfile(
        test_it="""
        import os

        def test_tracks(mlflow_service, alerts_service, logger_service):
            import mlflow
            assert mlflow.get_tracking_uri().startswith("sqlite:")
            with mlflow.start_run():
                mlflow.log_metric("m", 1)
            assert len(mlflow.search_runs(output_format="list")) == 1
            assert alerts_service.sent == []
            alerts_service.notify("title", "message")

        def test_fails(mlflow_run, caplog, logger_service):
            logger_service.logger().success("seen")
            assert caplog.messages == ["seen"]
            assert 0
        """
    )
    script = pytester.makepyfile(
        script="""
        import contextlib, io, os, re, sys
        import pytest

        def session():
            with contextlib.redirect_stdout(io.StringIO()) as output:
                code = pytest.main(["-W", "ignore", "test_it.py", *sys.argv[1:]])
            ids = r"0x[0-9a-f]+|pytest-[0-9]+|[0-9a-f]{32}|[0-9a-f]{8}…"
            varying = rf"in [0-9.]+s ?=+|{ids}|[0-9-]{{10}} [0-9:.]{{12}}"
            text = re.sub(varying, "~", output.getvalue())
            return code, text, dict(os.environ)

        first, second = session(), session()
        print(first[1])
        assert first == second, second[1]
        assert first[0] == 1 and "1 failed, 1 passed" in first[1]
        assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"
        import mlflow
        assert mlflow.get_tracking_uri() == "http://127.0.0.1:9"
        """
    )
    result = pytester.run(sys.executable, script)
    assert result.ret == 0, str(result.stdout) + str(result.stderr)
