from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("ours_imported")

USES = "def test(logger_service): pass"
OFF, ON = {"errors": 1}, {"passed": 1}
OTHERS = ("cacheprovider", "randomly", "asyncio", "hypothesispytest", "anyio", "xdist", "rerunfailures")
QUICK = [f"-pno:{plugin}" for plugin in OTHERS]  # entry points are loaded, but none that takes its time

WAYS = {
    "installed": ((), True),
    "off": (("-p", "no:mlctx"), False),
    "off by the module": (("-p", "no:pytest_mlctx.plugin"), False),
    "off and on again": (("-p", "no:mlctx", "-p", "mlctx"), True),
    "on and off again": (("-p", "mlctx", "-p", "no:mlctx"), False),
    "on and off again by the module": (("-p", "mlctx", "-p", "no:pytest_mlctx.plugin"), False),
    "named as well": (("-p", "mlctx"), True),
    "named by its module as well": (("-p", "pytest_mlctx.plugin"), True),
    "named by its package as well": (("-p", "pytest_mlctx"), True),
    "named in every way": (("-p", "pytest_mlctx", "-p", "pytest_mlctx.plugin", "-p", "mlctx"), True),
}


def run(pytester: pytest.Pytester, *args: str, on: bool) -> pytest.RunResult:
    pytester.makepyfile(USES)
    result = pytester.runpytest_inprocess(*QUICK, *args)
    result.assert_outcomes(**(ON if on else OFF))
    output = str(result.stdout) + str(result.stderr)
    assert "already registered" not in output
    assert ("fixture 'logger_service' not found" in output) != on
    return result


@pytest.mark.parametrize("way", WAYS)
def test_on_and_off_from_the_command_line(pytester: pytest.Pytester, way: str) -> None:
    args, on = WAYS[way]
    run(pytester, *args, on=on)


@pytest.mark.parametrize("name", ["pytest_mlctx.plugin", "pytest_mlctx"])
@pytest.mark.parametrize("where", ["environment", "conftest", "command line"])
@pytest.mark.parametrize("autoload", [True, False], ids=["with entry points", "without"])
def test_named_by_module(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str, where: str, autoload: bool
) -> None:
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    args = ["-p", name] if where == "command line" else []
    if where == "environment":
        monkeypatch.setenv("PYTEST_PLUGINS", name)
    if where == "conftest":
        pytester.makeconftest(f"pytest_plugins = [{name!r}]")
    run(pytester, "--mlctx-log-level=INFO", *args, on=True)
    run(pytester, *args, "-p", "no:pytest_mlctx.plugin", on=False)
    run(pytester, *args, "-p", "no:mlctx", on=False)


def test_without_entry_points_it_is_off_until_it_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    run(pytester, on=False)
    run(pytester, "-p", "mlctx", on=True)


@pytest.mark.parametrize("where", ["entry point", "conftest", "command line"])
def test_services_for_every_test_start_whichever_way_it_came(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    args: list[str] = []
    if where != "entry point":
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    if where == "conftest":
        pytester.makeconftest("pytest_plugins = ['pytest_mlctx.plugin']")
    if where == "command line":
        args = ["-p", "pytest_mlctx"]
    pytester.makepyfile("""
        import unittest
        from pytest_mlctx import LoggerService

        def test():
            assert LoggerService.current().running

        class Test(unittest.TestCase):
            def test(self):
                assert LoggerService.current().running
    """)
    result = pytester.runpytest_inprocess(*QUICK, *args, "-o", "mlctx_autouse=logger")
    result.assert_outcomes(passed=2)
    pytester.runpytest_inprocess(*QUICK, *args, "-o", "mlctx_autouse=lager").stderr.fnmatch_lines(
        ["ERROR: ini option mlctx_autouse: 'lager' is not known, did you mean 'logger'?"]
    )


def test_switched_off_its_options_are_unknown_and_its_ini_is_ignored(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmlctx_autouse = logger")
    pytester.makepyfile("def test(): pass")
    pytester.runpytest_inprocess(*QUICK, "-p", "no:mlctx").assert_outcomes(passed=1)
    result = pytester.runpytest_inprocess(*QUICK, "-p", "no:mlctx", "--mlctx-log-level=INFO")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --mlctx-log-level=INFO"])
