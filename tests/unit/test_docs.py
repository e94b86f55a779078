"""README and docs: their code compiles and runs, and what they name exists."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from pytest_mlctx import fixtures, options
from pytest_mlctx.services import traces

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
FRAMEWORKS = ("lightning", "torch", "transformers", "xgboost")
FIXTURE = re.compile(r"(?:mlflow|logger|alerts)_[a-z_]+")

each_page = pytest.mark.parametrize("page", TEXT)


class Block(NamedTuple):
    """A fenced block: its language, what file it is, its section."""

    language: str
    title: str
    text: str
    section: str


def blocks(page: str) -> Iterator[Block]:
    section = ""
    heading, opening = r"#+ (?P<section>[^\n]+)", r'```(?P<language>\w+)(?: title="(?P<title>[^"\n]+)")?'
    parts = rf"^(?:{heading}|{opening}\n(?P<text>.*?)^```)$"
    for found in re.finditer(parts, TEXT[page], re.MULTILINE | re.DOTALL):
        section = found["section"] or section
        if found["language"]:
            yield Block(found["language"], found["title"] or "", found["text"], section)


def suites() -> Iterator[object]:
    """Each test file of the pages, with each of the configurations that its section has for it."""
    for page in TEXT:
        for section in dict.fromkeys(block.section for block in blocks(page)):
            named = [block for block in blocks(page) if block.section == section and block.title]
            tests = [block for block in named if block.title.startswith("test_")]
            ways = [block for block in named if block.title.split()[0] in ("conftest.py", "pyproject.toml")]
            modules = [block for block in named if block not in tests + ways]
            if not tests:
                continue
            for way in ways or [None]:
                files = [*modules, *tests, *([way] if way else [])]
                yield pytest.param(files, id=f"{page}: {section}: {way.title if way else 'as it is'}")


@pytest.mark.parametrize("files", list(suites()))
def test_the_tests_of_the_pages_pass(
    files: list[Block],
    pytester: pytest.Pytester,
    mlflow_imported: None,
    no_other_plugin: None,
    put_back: None,
) -> None:
    text = "".join(block.text for block in files)
    if "mlflow_traces" in text and (reason := traces.incompatibility()):
        pytest.skip(reason)
    if "mlflow_server" in text:
        pytest.importorskip("flask", reason="mlflow-skinny has no server")
    frameworks = {name for name in FRAMEWORKS if re.search(rf"^(?:import|from) {name}\b", text, re.MULTILINE)}
    if missing := [name for name in sorted(frameworks) if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    for block in files:
        # Not as a module of this suite is called, which is imported in this process.
        name = re.sub("^test_", "test_page_", block.title.split()[0])
        pytester.path.joinpath(name).write_text(block.text, encoding="utf-8")
    pytester.syspathinsert()
    # Most of them cannot be loaded twice in a process.
    run = pytester.runpytest_subprocess if frameworks else pytester.runpytest_inprocess
    result = run("--mlctx-stores=template")  # quicker where a page shows MLflow's way
    outcomes = result.parseoutcomes()
    assert set(outcomes) <= {"passed", "warnings", "warning"}
    assert outcomes["passed"] == len(re.findall("^def test_", text, re.MULTILINE))


@each_page
def test_python_compiles_and_yaml_loads(page: str) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{page}: {block.section}", "exec", dont_inherit=True)
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)


def known_fixtures() -> set[str]:
    tree = ast.parse(Path(fixtures.__file__).read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.decorator_list and not node.name.startswith("_")
    }


@each_page
def test_fixtures_that_are_named_exist(page: str) -> None:
    named = set(re.findall(rf"`({FIXTURE.pattern})`", TEXT[page]))
    for block in blocks(page):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.FunctionDef):
                    named |= {each.arg for each in node.args.args if FIXTURE.fullmatch(each.arg)}
    assert named <= known_fixtures()


def test_each_fixture_has_a_place() -> None:
    assert [name for name in sorted(known_fixtures()) if f"`{name}`" not in TEXT["fixtures.md"]] == []


@each_page
def test_options_that_are_named_exist(page: str) -> None:
    flags = {option.flag for option in options.OPTIONS if not option.ini_only}
    inis = {option.ini for option in options.OPTIONS}
    markers = {marker.partition("(")[0] for marker in (options.RECORD_MARKER, options.TRIALS_MARKER)}
    assert set(re.findall(r"--mlctx-[a-z-]*[a-z]", TEXT[page])) <= flags
    assert set(re.findall(r"\bmlctx_[a-z_]+", TEXT[page])) <= inis | markers


@each_page
def test_values_of_options_exist(page: str) -> None:
    choices = {option.name: option.choices for option in options.OPTIONS if option.choices}
    given = re.findall(r"--mlctx-([a-z-]*[a-z])=([a-z]+)", TEXT[page])
    given += re.findall(r'mlctx_([a-z_]+) = "([a-z]+)"', TEXT[page])
    for name, value in given:
        assert value in choices.get(name.replace("-", "_"), (value,))


@pytest.mark.parametrize("name", [*TEXT, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_local_links_lead_to_files(name: str) -> None:
    page = ROOT / name if (ROOT / name).exists() else ROOT / "docs" / name
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@each_page
def test_examples_that_are_named_exist(page: str) -> None:
    named = set(re.findall(r"\bexamples/[\w/]+", TEXT[page]))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def sentences() -> list[str]:
    """What the package can say: the texts of its source, what varies as an ellipsis."""
    found = []
    for source in (ROOT / "pytest_mlctx").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_of_the_troubleshooting_page_are_ours() -> None:
    said = sentences()
    _, _, ours = TEXT["troubleshooting.md"].partition("## Options")
    messages = re.findall(r"\*\*`(.+?)`\*\*", ours)
    assert len(messages) > 60
    pieces = [piece.strip(" '`") for message in messages for piece in re.split("…|[,:;] ", message)]
    long = [piece for piece in pieces if len(piece) > 8]
    assert not [piece for piece in long if not any(piece in sentence for sentence in said)]


def test_the_first_commands_of_the_readme_are_the_newcomers() -> None:
    first, second = [block.text for block in blocks("README.md") if block.language == "sh"][:2]
    assert "pytest examples/quickstart --mlctx-experiment=demo" in first
    assert "tox run -e py" in second
