"""Where requirements of models are reused, and what the summary says of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")

HEAD = """
    import mlflow, pytest
    from pytest_mlctx.services.requirements import wrappers
    from sklearn.linear_model import LinearRegression

    def reuses():
        return any(reuse.when() for reuse in wrappers._installed)

    def save(folder):
        model = LinearRegression().fit([[0], [1]], [0, 1])
        mlflow.sklearn.save_model(model, str(folder / "model"), serialization_format="cloudpickle")
        return (folder / "model" / "requirements.txt").read_text()
"""


@pytest.fixture
def session(mlflow_imported: None, no_other_plugin: None, pytester: pytest.Pytester) -> Any:
    import sklearn.linear_model  # noqa: F401  # numpy cannot be loaded twice

    def run(source: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=textwrap.dedent(HEAD) + textwrap.dedent(source))
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)

    return run


@pytest.mark.parametrize("named", [False, True], ids=["temporary", "named"])
@pytest.mark.parametrize(
    ("mode", "nothing", "service", "sandbox"),
    [(None, False, "temporary", True), ("infer", False, False, False), ("reuse", True, True, True)],
)
def test_where_they_are_reused(
    session: Any,
    pytester: pytest.Pytester,
    mode: Any,
    nothing: bool,
    service: Any,
    sandbox: bool,
    named: bool,
) -> None:
    expected = not named if service == "temporary" else service
    result = session(
        f"""
        def test_before(): assert reuses() is {nothing}
        def test_service(mlflow_service): assert reuses() is {expected}
        def test_sandbox(mlflow_sandbox): assert reuses() is {sandbox}
        def test_elsewhere(mlflow_service, tmp_path):
            mlflow.set_tracking_uri(f"sqlite:///{{tmp_path}}/own.db")
            assert reuses() is {nothing}
        """,
        *([f"--mlctx-requirements={mode}"] if mode else []),
        *([f"--mlctx-tracking-uri=sqlite:///{pytester.path}/user.db"] if named else []),
    )
    result.assert_outcomes(passed=4)
    from pytest_mlctx.services.requirements import wrappers

    assert wrappers._installed == []


def test_reuse_imports_nothing_of_the_suite(pytester: pytest.Pytester, no_other_plugin: None) -> None:
    pytester.makepyfile("""
        import sys

        def test():
            assert not {"mlflow", "loguru", "pydantic", "numpy"} & sys.modules.keys()
    """)
    result = pytester.runpytest_subprocess("--mlctx-requirements=reuse")
    result.assert_outcomes(passed=1)
    assert "requirements of" not in str(result.stdout)


def test_a_suite_without_any_fixture_of_ours_infers_once(
    session: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(tmp_path / "cache"))
    source = """
        @pytest.mark.parametrize("number", range(3))
        def test(tmp_path, number):
            assert "scikit-learn==" in save(tmp_path)
    """
    result = session(source, "--mlctx-requirements=reuse")
    result.assert_outcomes(passed=3)
    (line,) = [line for line in result.outlines if "requirements of" in line]
    assert re.fullmatch(r"mlctx: requirements of 1 kind of model inferred in \d+\.\d s, 2 reused", line)
    again = session(source, "--mlctx-requirements=reuse")  # from the cache: nothing worth a word
    again.assert_outcomes(passed=3)
    assert "requirements of" not in str(again.stdout)


def test_a_cache_folder_that_others_may_write_is_one_line(
    session: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(folder))
    result = session("""
        def test_one(mlflow_service, tmp_path): save(tmp_path)
        def test_two(mlflow_service, tmp_path): save(tmp_path)
    """)
    result.assert_outcomes(passed=2)
    told = [line for line in result.outlines if str(folder) in line]
    assert len(told) == 1
    assert told[0].startswith("mlctx: ")
    assert list(Path(folder).iterdir()) == []


@pytest.mark.slow
def test_workers_are_counted_together(
    pytester: pytest.Pytester, mlflow_imported: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(tmp_path / "cache"))
    pytester.makepyfile(
        textwrap.dedent(HEAD)
        + textwrap.dedent("""
        @pytest.mark.parametrize("number", range(4))
        def test(mlflow_service, tmp_path, number): save(tmp_path)
    """)
    )
    result = pytester.runpytest_subprocess("-n2", "-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)
    (line,) = [line for line in result.outlines if "requirements of" in line]
    assert re.search(r"of 1 kind of model inferred in \d+\.\d s, 3 reused", line)


def test_a_mock_wins_and_nothing_of_it_is_kept(
    session: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(pytester.path / "cache"))
    result = session(
        """
        import importlib_metadata
        from unittest import mock

        version = importlib_metadata.version

        def old(name):
            return "0.0.1" if name == "scikit-learn" else version(name)

        def test_with_an_old_version(tmp_path):
            with mock.patch("importlib_metadata.version", old):
                assert "scikit-learn==0.0.1" in save(tmp_path)

        def test_without(tmp_path):
            assert f"scikit-learn=={version('scikit-learn')}" in save(tmp_path)

        def test_remembered_and_mocked_again(tmp_path, monkeypatch):
            monkeypatch.setattr("importlib_metadata.version", old)
            assert "scikit-learn==0.0.1" in save(tmp_path)

        def test_modules_are_mocked(tmp_path):
            with mock.patch(
                "mlflow.utils.requirements_utils._capture_imported_modules", return_value=["pytest"]
            ):
                assert f"pytest=={version('pytest')}" in save(tmp_path)

        def test_at_last(tmp_path):
            assert f"scikit-learn=={version('scikit-learn')}" in save(tmp_path)
        """,
        "--mlctx-requirements=reuse",
    )
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["mlctx: requirements of 1 kind of model inferred in *, 1 reused"])


@pytest.mark.parametrize(
    "patch",
    [
        'patch.dict(utils._MODULES_TO_PACKAGES, {"sklearn": ["pytest"]})',
        'patch.object(utils, "_MODULES_TO_PACKAGES", {"sklearn": ["pytest"]})',
        'patch("mlflow.utils.requirements_utils.importlib_metadata.version", lambda name: "0.0.1")',
        'patch("mlflow.utils.environment._logger")',
        'patch.object(utils._logger, "warning")',
        'patch.object(utils, "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT")',
        'patch("subprocess.Popen")',
    ],
)
def test_a_mock_of_anything_that_mlflow_goes_by_wins(session: Any, patch: str) -> None:
    session(
        f"""
        from unittest.mock import patch
        from mlflow.utils import requirements_utils as utils

        def test_it():
            utils._init_modules_to_packages_map()
            for _ in range(2):
                assert wrappers._active()
                with {patch}:
                    assert wrappers._active() == []
            assert wrappers._active()
        """,
        "--mlctx-requirements=reuse",
    ).assert_outcomes(passed=1)


def test_a_table_that_is_mocked_wins_and_is_forgotten_with_the_mock(
    session: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(pytester.path / "cache"))
    session(
        """
        from unittest.mock import patch
        from mlflow.utils import requirements_utils as utils

        def test_it(tmp_path):
            plain = save(tmp_path / "plain")
            with patch.dict(utils._MODULES_TO_PACKAGES, {"sklearn": ["pytest"]}):
                assert "pytest==" in save(tmp_path / "mocked")
            assert save(tmp_path / "after") == plain
            assert wrappers._installed[0].statistics.inferred == 1
        """,
        "--mlctx-requirements=reuse",
    ).assert_outcomes(passed=1)


@pytest.mark.slow
def test_a_table_that_mlflow_filled_under_a_mock_is_trusted_never_again(
    session: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(pytester.path / "cache"))
    result = session(
        """
        from unittest.mock import patch
        from mlflow.utils import requirements_utils as utils

        def test_it(tmp_path, monkeypatch):
            monkeypatch.setattr(utils, "_MODULES_TO_PACKAGES", None)
            with patch("importlib_metadata.packages_distributions", lambda: {"sklearn": ["pytest"]}):
                assert "pytest==" in save(tmp_path / "mocked")
            assert "pytest==" in save(tmp_path / "after"), "MLflow remembers it by itself"
            assert wrappers._installed[0].statistics.reused == 0
            monkeypatch.undo()
            assert "scikit-learn==" in save(tmp_path / "undone")
            assert wrappers._installed[0].statistics.inferred == 1
        """,
        "--mlctx-requirements=reuse",
    )
    result.assert_outcomes(passed=1)


def test_patching_with_monkeypatch_leaves_warnings_as_they_were(session: Any) -> None:
    result = session(
        """
        from mlflow.utils import requirements_utils as utils

        def test_it(monkeypatch, caplog):
            for _ in range(2):
                said = []
                with monkeypatch.context() as patched:
                    patched.setattr(utils._logger, "warning", said.append)
                    utils._logger.warning("x")
                    assert wrappers._active() == []
                assert said == ["x"]
                assert wrappers._active()
            utils._logger.warning("once")
        """,
        "--mlctx-requirements=reuse",
    )
    result.assert_outcomes(passed=1)


CHILD = """
    import subprocess, sys
    from pathlib import Path

    def child(folder, *options, **environ):
        program = Path(__file__).with_name("cli.py")
        return subprocess.run(
            [sys.executable, *options, program, folder],
            capture_output=True, text=True, check=True, env={**os.environ, **environ},
        ).stdout
"""
CLI = """
    import sys
    import mlflow
    from sklearn.linear_model import LinearRegression
    from pytest_mlctx.services.requirements import wrappers

    model = LinearRegression().fit([[0], [1]], [0, 1])
    mlflow.sklearn.save_model(model, sys.argv[1] + "/model", serialization_format="cloudpickle")
    counted = [(one.statistics.inferred, one.statistics.reused) for one in wrappers._installed if one.when()]
    print(counted, open(sys.argv[1] + "/model/requirements.txt").read())
"""


@pytest.fixture
def with_children(pytester: pytest.Pytester, no_other_plugin: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sessions whose tests start a program that saves a model."""
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(pytester.path / "cache"))
    started = subprocess.run(
        [sys.executable, "-c", "import sys; print('pytest_mlctx.services.children' in sys.modules)"],
        env={**os.environ, "MLCTX_CHILDREN": "always"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "False" in started.stdout and sys.prefix != sys.base_prefix:
        pytest.skip("installed before pytest_mlctx_children.pth was there: install anew")
    pytester.makepyfile(cli=textwrap.dedent(CLI))

    def run(source: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(test_it="import os\n" + textwrap.dedent(CHILD) + textwrap.dedent(source))
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *args)

    return run


@pytest.mark.slow
def test_child_processes_reuse_where_their_parent_does(with_children: Any) -> None:
    result = with_children(
        """
        def test_on_the_temporary_store(mlflow_service, tmp_path):
            first = child(tmp_path / "a")
            second = child(tmp_path / "b")
            assert first.startswith("[(1, 0)]") and "scikit-learn==" in first
            assert second == first.replace("[(1, 0)]", "[(0, 1)]")

        def test_in_a_sandbox(mlflow_sandbox, tmp_path):
            assert child(tmp_path / "a").startswith("[(0, 1)]")

        def test_on_another_store(mlflow_service, tmp_path):
            other = f"sqlite:///{tmp_path}/own.db"
            assert child(tmp_path / "a", MLFLOW_TRACKING_URI=other).startswith("[]")

        def test_without_the_variable(mlflow_service, tmp_path, monkeypatch):
            monkeypatch.delenv("MLCTX_CHILDREN")
            assert child(tmp_path / "a").startswith("[]")
        """
    )
    result.assert_outcomes(passed=4)


@pytest.mark.slow
def test_a_session_within_a_test_goes_by_its_own_settings(with_children: Any, tmp_path: Path) -> None:
    inner = tmp_path
    (inner / "test_inner.py").write_text(
        textwrap.dedent(HEAD)
        + "def test_it(tmp_path):\n"
        + "    import os\n"
        + "    assert not reuses() and 'MLCTX_CHILDREN' not in os.environ\n"
    )
    with_children(
        f"""
        def test_it():
            command = [sys.executable, "-m", "pytest", "-p", "mlctx", {str(inner)!r}]
            subprocess.run([*command, "--mlctx-requirements=infer"], check=True)
        """,
        "--mlctx-requirements=reuse",
    ).assert_outcomes(passed=1)


def test_a_child_that_does_not_import_mlflow_imports_next_to_nothing_of_ours(with_children: Any) -> None:
    with_children(
        """
        PROGRAM = "import sys; print(*sorted(m for m in sys.modules if 'mlctx' in m or m == 'loguru'))"

        def test_it():
            told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True).stdout
            assert told.split() == [
                "pytest_mlctx", "pytest_mlctx.services", "pytest_mlctx.services.children"
            ]
        """,
        "--mlctx-requirements=reuse",
    ).assert_outcomes(passed=1)
