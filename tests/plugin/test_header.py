from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("ours_imported", "no_other_plugin")

PLAIN = "def test(): pass"
LOGS = "def test(logger_service): pass"
LISTS = "def test(mlflow_service, alerts_outbox): pass"  # for sessions that are read up to their header


def header(pytester: pytest.Pytester, source: str, *args: str) -> list[str]:
    pytester.makepyfile(source)
    result = pytester.runpytest_inprocess(*args)
    return [line for line in result.outlines if line.startswith("mlctx:")]


@pytest.fixture
def listed(pytester: pytest.Pytester) -> None:
    """Tests are collected and not run: mlflow would take seconds, and only the header is looked at."""
    pytester.makeconftest("def pytest_runtestloop(): return True")


def test_nothing_where_nothing_is_given_and_used(pytester: pytest.Pytester) -> None:
    assert header(pytester, PLAIN) == []


def test_what_is_given_is_told_at_the_top(pytester: pytest.Pytester, listed: None) -> None:
    pytester.makeini("[pytest]\nmlctx_log_level = INFO\nmlctx_autouse = logger")
    pytester.makepyfile(PLAIN)
    lines = pytester.runpytest_inprocess("--mlctx-experiment=demo", "--mlctx-remote=allow").outlines
    (line,) = [line for line in lines if line.startswith("mlctx:")]
    assert line == (
        "mlctx: mlflow_service: temporary store, experiment 'demo'; logger_service: temporary file, INFO; "
        "alerts_service: console; remote: allow; autouse: logger; from ini: log_level autouse"
    )
    assert lines.index(line) < next(number for number, line in enumerate(lines) if "collected" in line)


def test_what_is_used_is_told_after_collection(pytester: pytest.Pytester, listed: None) -> None:
    assert header(pytester, LOGS) == ["mlctx: logger_service: temporary file, DEBUG"]
    (line,) = header(pytester, LISTS)
    assert line == (
        f"mlctx: mlflow_service: temporary store, experiment {pytester.path.name!r}; alerts_service: console"
    )


def test_a_fixture_of_the_suite_with_the_name_of_one_of_ours_is_not_told(
    pytester: pytest.Pytester, listed: None
) -> None:
    suite = """
        import pytest

        @pytest.fixture
        def mlflow_run(): return "the suite's own"

        def test_own(mlflow_run, logger_service): pass
    """
    assert header(pytester, suite) == ["mlctx: logger_service: temporary file, DEBUG"]


@pytest.mark.parametrize("args", [["-q"], ["--no-header"], ["--collect-only", "-q"], ["-qq"]])
def test_nothing_where_pytest_has_no_header(pytester: pytest.Pytester, listed: None, args: list[str]) -> None:
    assert header(pytester, LOGS, *args) == []
    assert header(pytester, LOGS, "--mlctx-alerts=off", *args) == []


def test_listing_says_nothing_of_what_would_be_used(pytester: pytest.Pytester) -> None:
    assert header(pytester, LOGS, "--collect-only") == []


def test_ambient_variables_that_are_not_followed_are_told_without_credentials(
    pytester: pytest.Pytester, listed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:geheim@prod:5000")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "postgresql://prod/x?password=geheim")
    (line,) = header(pytester, LISTS)
    assert (
        "(MLFLOW_TRACKING_URI=https://***@prod:5000, MLFLOW_REGISTRY_URI=postgresql://prod/x?password=*** "
        "not followed)"
    ) in line
    assert header(pytester, LOGS) == ["mlctx: logger_service: temporary file, DEBUG"]
    (line,) = header(pytester, PLAIN, "--mlctx-tracking-uri=https://me:geheim@prod:5000")
    assert "mlflow_service: https://***@prod:5000, experiment" in line
    assert "MLFLOW_TRACKING_URI" not in line
    assert "MLFLOW_REGISTRY_URI" in line


def test_what_the_user_named_is_told(pytester: pytest.Pytester, listed: None) -> None:
    (line,) = header(
        pytester,
        PLAIN,
        "--mlctx-tracking-uri=sqlite:///demo.db",
        "--mlctx-registry-uri=https://me:geheim@prod",
        "--mlctx-log-sink=run.log",
        "--mlctx-alerts=off",
        "--mlctx-leaks=warn",
    )
    sink = Path(pytester.path, "run.log")
    assert line == (
        f"mlctx: mlflow_service: sqlite:///{pytester.path}/demo.db, registry https://***@prod, experiment "
        f"{pytester.path.name!r}; logger_service: {sink}, DEBUG; alerts_service: off; leaks: warn"
    )


def test_a_name_with_characters_of_any_script_fits_on_the_line(
    pytester: pytest.Pytester, listed: None
) -> None:
    (line,) = header(pytester, PLAIN, "--mlctx-experiment=ürün 🚀 'x' #1")
    assert "experiment \"ürün 🚀 'x' #1\"" in line
