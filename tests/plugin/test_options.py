from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from pytest_mlctx import options

pytestmark = pytest.mark.usefixtures("ours_imported", "no_other_plugin")

TELL = """
    import json
    from pytest_mlctx.session import Session

    def test_tell(pytestconfig):
        print("TOLD", json.dumps(Session.of(pytestconfig).settings._asdict(), default=str))
"""

# The option, a bad value, and what the sentence must say beside both.
BAD = [
    ("log_level", "LOUD", ["level of loguru's", "use one of TRACE, DEBUG, INFO"]),
    ("log_level", "WARN", ["did you mean 'WARNING'?"]),
    ("log_level", "", ["''", "use one of"]),
    ("log_sink", "nowhere/run.log", ["nowhere", "does not exist", "create it"]),
    ("log_sink", ".", ["not the path of a file"]),
    ("log_sink", "", ["not the path of a file"]),
    ("log_sink", "test_tell.py/run.log", ["test_tell.py", "does not exist"]),
    ("log_sink", "x" * 300, ["cannot be written (File name too long)"]),
    ("experiment", "", ["''", "one line that is not blank"]),
    ("experiment", "  ", ["one line that is not blank"]),
    ("experiment", "two\nlines", ["two\\nlines", "one line that is not blank"]),
    ("tracking_uri", "sqllite:///x.db", ["sqllite", "did you mean 'sqlite:'?"]),
    ("tracking_uri", "htp://host:5000", ["htp", "did you mean 'http:'?"]),
    ("tracking_uri", "ftp://me:geheim@host/x", ["ftp", "use one of"]),
    ("tracking_uri", "sqlite:///a?b.db", ["?", "choose a path"]),
    ("tracking_uri", "sqlite:///a%41.db", ["%41", "choose a path"]),
    ("tracking_uri", "", ["is empty"]),
    ("registry_uri", "postgre://me:geheim@host/x", ["postgre", "did you mean 'postgresql:'?"]),
    ("tag", "novalue", ["novalue", "KEY=VALUE", "team=fraud"]),
    ("tag", "=x", ["=x", "KEY=VALUE"]),
    ("tag", "te(am=x", ["te(am", "characters"]),
    ("tag", "/team=x", ["/team", "plain path"]),
    ("tag", "..=x", ["'..'", "plain path"]),
    ("tag", "a//b=x", ["a//b", "plain path"]),
    ("tag", f"{'k' * 251}=x", ["kkk", "251 characters", "250 at most"]),
    ("tag", "http://me:geheim@host", ["KEY=VALUE"]),
    ("alerts", "dekstop", ["dekstop", "did you mean 'desktop'?"]),
    ("stores", "templates", ["did you mean 'template'?"]),
    ("record", "sqllite:///x.db", ["sqllite", "did you mean 'sqlite:'?"]),
    ("record", "http://", ["names no host"]),
    ("baseline", "records", ["did you mean 'record'?"]),
    ("baseline_branch", " ", ["not the name of a branch", "'main'"]),
    ("notify", "fail", ["did you mean 'failure'?"]),
    ("alerts", "no", ["use one of console, desktop, off"]),
    ("remote", "deny", ["use one of refuse, redirect, allow"]),
    ("isolation", "tests", ["did you mean 'test'?"]),
    ("leaks", "warning", ["did you mean 'warn'?"]),
    ("autouse", "mlfow", ["mlfow", "did you mean 'mlflow'?"]),
    ("autouse", "logger nothing", ["nothing", "use one of logger, alerts, mlflow"]),
]


def told(result: pytest.RunResult) -> str:
    return next(line for line in result.outlines if "TOLD" in line)


def one_sentence(result: pytest.RunResult) -> str:
    """The only line of the output, of a session that ended before any test."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.no_fnmatch_line("*Traceback*")
    assert "INTERNALERROR" not in str(result.stdout)
    sentences = [
        line for line in result.errlines + result.outlines if "mlctx" in line and "plugins:" not in line
    ]
    assert len(sentences) == 1, sentences
    assert "geheim" not in str(result.stdout) + str(result.stderr)
    return sentences[0]


@pytest.mark.parametrize("where", ["command line", "ini"])
@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_a_bad_value_is_one_sentence_before_any_test(
    pytester: pytest.Pytester, name: str, value: str, words: list[str], where: str
) -> None:
    option = next(option for option in options.OPTIONS if option.name == name)
    pytester.makepyfile(test_tell=TELL)
    if where == "ini" or option.ini_only:
        if value == "" and option.ini_type != "string":
            pytest.skip("an empty list is a list")
        result = pytester.runpytest_inprocess("-o", f"{option.ini}={value}")
        named = f"ini option {option.ini}"
    else:
        result = pytester.runpytest_inprocess(f"{option.flag}={value}")
        named = option.flag
    sentence = one_sentence(result)
    assert named in sentence
    assert not [word for word in words if word not in sentence], sentence


@pytest.mark.parametrize("extra", [["-p", "xdist", "-n", "2"], ["--collect-only"], ["-q"], ["-W", "error"]])
@pytest.mark.parametrize("bad", [["--mlctx-alerts=no"], ["-o", "mlctx_autouse=mlfow"]])
def test_it_is_said_once_whatever_else_was_asked(
    pytester: pytest.Pytester, bad: list[str], extra: list[str]
) -> None:
    pytester.makepyfile(TELL)
    assert "use one of" in (sentence := one_sentence(pytester.runpytest_inprocess(*bad, *extra))) or (
        "did you mean" in sentence
    )


@pytest.mark.parametrize("ask", ["--help", "--version", "--markers", "--fixtures", "--fixtures-per-test"])
@pytest.mark.parametrize(
    "bad", [["--mlctx-alerts=no"], ["-o", "mlctx_autouse=mlfow"], ["--mlctx-log-level=X"]]
)
def test_help_works_beside_a_bad_value(pytester: pytest.Pytester, bad: list[str], ask: str) -> None:
    pytester.makepyfile("def test(logger_service): pass")
    result = pytester.runpytest_inprocess(*bad, ask)
    assert result.ret == pytest.ExitCode.OK
    assert "is not" not in str(result.stderr)


def test_command_line_beats_ini_beats_default(pytester: pytest.Pytester) -> None:
    pytester.makeini("""
        [pytest]
        mlctx_experiment = from ini
        mlctx_log_level = info
        mlctx_tag =
            team = fraud
            stage=ini
    """)
    pytester.makepyfile(TELL)
    line = told(pytester.runpytest_inprocess("-s", "--mlctx-experiment=given", "--mlctx-tag=a=b=c"))
    assert '"experiment": "given", "log_level": "INFO"' in line
    assert '"tags": {"a": "b=c"}' in line
    assert '"alerts": "console"' in line
    line = told(pytester.runpytest_inprocess("-s", "-o", "mlctx_log_level=ERROR"))
    assert '"experiment": "from ini", "log_level": "ERROR"' in line
    assert '"team": " fraud", "stage": "ini"' in line


def test_what_is_unset_is_the_default(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TELL)
    line = told(pytester.runpytest_inprocess("-s"))
    assert f'"experiment": "{pytester.path.name}"' in line
    assert '"log_level": "DEBUG", "log_sink": null, "tracking_uri": null, "registry_uri": null' in line
    assert '"tags": {}' in line
    assert '"autouse": []' in line
    assert "ini" not in line.partition('"origins"')[2]


def test_a_value_set_to_its_default_is_given_nevertheless(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TELL)
    line = told(pytester.runpytest_inprocess("-s", "--mlctx-alerts=console", "-o", "mlctx_remote=refuse"))
    assert '"alerts": "command line"' in line
    assert '"remote": "ini"' in line


@pytest.mark.parametrize("name", ["ürün 🚀", "a 'b' \"c\"", "100 % # ?", "$(rm -rf) \\n"])
def test_an_experiment_may_have_any_characters_of_one_line(pytester: pytest.Pytester, name: str) -> None:
    pytester.makepyfile("""
        import os
        from pytest_mlctx.session import Session

        def test(pytestconfig):
            assert Session.of(pytestconfig).settings.experiment == os.environ["NAME"]
    """)
    os.environ["NAME"] = name
    pytester.runpytest_inprocess(f"--mlctx-experiment={name}").assert_outcomes(passed=1)
    pytester.runpytest_inprocess("-o", f"mlctx_experiment={name}").assert_outcomes(passed=1)


def test_a_relative_sink_of_ini_lies_beside_the_ini_file(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmlctx_log_sink = run.log")
    folder = pytester.mkdir("sub")
    (folder / "test_log.py").write_text("def test(logger_service): logger_service.logger().info('hello')")
    os.chdir(folder)
    assert pytester.runpytest_inprocess().ret == 0
    assert "hello" in (pytester.path / "run.log").read_text()
    assert pytester.runpytest_inprocess("--mlctx-log-sink=here.log").ret == 0
    assert "hello" in (folder / "here.log").read_text()


@pytest.mark.parametrize("uri", ["sqlite:///runs.db", "runs"])
def test_a_relative_store_of_ini_lies_beside_the_ini_file(pytester: pytest.Pytester, uri: str) -> None:
    pytester.makeini(f"[pytest]\nmlctx_tracking_uri = {uri}\nmlctx_registry_uri = {uri}")
    folder = pytester.mkdir("sub")
    (folder / "test_tell.py").write_text(textwrap.dedent(TELL))
    os.chdir(folder)
    line = told(pytester.runpytest_inprocess("-s"))
    assert line.count(f"{pytester.path}/runs") == 2
    line = told(pytester.runpytest_inprocess("-s", f"--mlctx-tracking-uri={uri}"))
    assert line.count(f"{folder}/runs") == 1


def test_a_conftest_may_bring_a_level_and_set_an_option(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        from loguru import logger

        if "REMARK" not in logger._core.levels:
            logger.level("REMARK", no=22)

        def pytest_configure(config):
            config.option.mlctx_experiment = "by the conftest"
    """)
    pytester.makepyfile(TELL)
    line = told(pytester.runpytest_inprocess("-s", "--mlctx-log-level=remark"))
    assert '"experiment": "by the conftest", "log_level": "REMARK"' in line


def test_services_for_every_test_may_be_separated_by_commas(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TELL)
    line = told(pytester.runpytest_inprocess("-s", "-o", "mlctx_autouse=logger, alerts logger"))
    assert '"autouse": ["logger", "alerts"]' in line


@pytest.mark.parametrize("table", ["tool.pytest.ini_options", "tool.pytest"])
def test_toml(pytester: pytest.Pytester, table: str) -> None:
    if table == "tool.pytest" and pytest.version_tuple < (9,):
        pytest.skip("native TOML came with pytest 9")
    pytester.makepyprojecttoml(f"""
        [{table}]
        mlctx_experiment = "from toml"
        mlctx_autouse = ["logger"]
        mlctx_tag = ["team=fraud"]
    """)
    pytester.makepyfile(TELL)
    line = told(pytester.runpytest_inprocess("-s"))
    assert '"experiment": "from toml"' in line
    assert '"tags": {"team": "fraud"}' in line
    assert '"autouse": ["logger"]' in line


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="native TOML came with pytest 9")
@pytest.mark.parametrize("line", ['mlctx_autouse = "mlflow"', "mlctx_log_level = 10", 'mlctx_tag = "a=b"'])
def test_a_toml_value_of_another_type_is_one_sentence(pytester: pytest.Pytester, line: str) -> None:
    pytester.makepyprojecttoml(f"[tool.pytest]\n{line}")
    pytester.makepyfile(TELL)
    sentence = one_sentence(pytester.runpytest_inprocess())
    assert line.split()[0] in sentence
    assert "expects a" in sentence


AS_ANOTHER_USER = """
import os, sys, pytest, loguru
import pytest_mlctx.fixtures, pytest_mlctx.report, pytest_mlctx.services.credentials, pytest_mlctx.validation
# They may lie where that user cannot look.

class User:
    @pytest.hookimpl(trylast=True)
    def pytest_configure(self):
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

sys.exit(pytest.main(["-p", "no:cacheprovider", "--rootdir=.", *sys.argv[1:]], plugins=[User()]))
"""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user, whom mode bits stop"
)
@pytest.mark.parametrize("shut", ["folder", "file", "above"])
def test_a_sink_that_may_not_be_written(shut: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own is shut to others, TMPDIR may be
        folder = Path(name, "above", "folder")
        folder.mkdir(parents=True)
        (folder / "run.log").touch(0o644)
        Path(name).chmod(0o755)
        if shut == "above":
            folder.parent.chmod(0o700)
        sink = folder / ("new.log" if shut == "folder" else "run.log")
        command = [sys.executable, "-c", AS_ANOTHER_USER, f"--mlctx-log-sink={sink}"]
        environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, env=environment)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line]
    assert "--mlctx-log-sink: " in sentence
    assert "may not be written" in sentence or "Permission denied" in sentence
    assert "choose another file" in sentence


def test_the_docs_show_the_table_of_the_code() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "options.md").read_text(encoding="utf-8")
    _, start, rest = page.partition("<!-- options -->\n")
    table, end, _ = rest.partition("\n<!-- /options -->")
    assert start
    assert end
    assert table.strip() == options.table(), "put the output of pytest_mlctx.options.table() there"


def test_each_option_has_a_line_of_help_with_its_default(pytester: pytest.Pytester) -> None:
    text = " ".join(str(pytester.runpytest_inprocess("--help").stdout).split())
    for option in options.OPTIONS:
        assert f"{option.help} (default: {option.told_default})" in text
        assert option.ini in text
        assert option.ini_only or f"{option.flag}={option.placeholder}" in text
