"""What is remembered is given again only while nothing that it depended on has changed."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_mlctx.services import cache
from pytest_mlctx.services.requirements.child.dependencies import value_of
from pytest_mlctx.services.requirements.memory import Memory, Observation, Question

MLMODEL = "flavors:\n  sklearn:\n    pickled_model: model.pkl\nmodel_uuid: {}\nutc_time_created: {}\n"


@pytest.fixture
def model(tmp_path: Path) -> Any:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text(MLMODEL.format("a", "b"))
    (folder / "model.pkl").write_bytes(pickle.dumps({"a": "b"}))
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Any:
    return cache.at(tmp_path / "cache")


class Asked:
    """Stands for MLflow's inference: counts, and tells what it was made to depend on."""

    def __init__(
        self, *seen: Any, names: Any = (), user_code: Any = False, doubts: Any = (), warnings: Any = ()
    ) -> None:
        self.times = 0
        self._told = {
            "seen": [[kind, name, "" if kind == "environ" else value_of(kind, name)] for kind, name in seen],
            "names": list(names),
            "user_code": user_code,
        }
        self._doubts, self._warnings = doubts, warnings

    def __call__(self, observation: Observation) -> list[str]:
        self.times += 1
        observation.reports.append(self._told)
        observation.doubts += self._doubts
        observation.warnings += self._warnings
        return [f"answer-{self.times}"]


def question(model: Path, about: Any = "requirements", **settings: Any) -> Any:
    return Question(about, model, "sklearn", settings)


def test_a_second_model_of_a_kind_is_not_asked_for_here_nor_in_a_later_process(model: Any, kept: Any) -> None:
    asked = Asked(warnings=["local version"])
    memory = Memory(kept)
    first = memory.answer(question(model), asked)
    (model / "MLmodel").write_text(MLMODEL.format("another", "time"))
    for again in (memory.answer(question(model), asked), Memory(kept).answer(question(model), asked)):
        assert (again.lines, again.warnings, again.reused) == (first.lines, ["local version"], True)
    assert asked.times == 1


def test_answers_of_several_circumstances_are_kept_side_by_side_the_oldest_goes(
    model: Any, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(("environ", "CI"))

    def answer(value: Any) -> Any:
        monkeypatch.setenv("CI", value)
        asked._told["seen"] = [["environ", "CI", ""]]
        return Memory(kept).answer(question(model), asked).lines

    first = [answer(str(number)) for number in range(4)]
    assert asked.times == 4
    assert [answer(str(number)) for number in range(4)] == first
    assert asked.times == 4
    answer("another")
    assert answer("1") == first[1]
    assert asked.times == 5
    assert answer("0") != first[0]


def test_one_that_waited_for_another_of_its_kind_takes_its_answer_also_where_user_code_was_seen(
    model: Any, kept: Any
) -> None:
    asked, first, second = Asked(user_code=True), Memory(kept), Memory(kept)
    waiting = threading.Thread(target=lambda: second.answer(question(model), asked))

    def slow(observation: Any) -> Any:
        waiting.start()
        time.sleep(0.3)
        return asked(observation)

    first.answer(question(model), slow)
    waiting.join()
    assert asked.times == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda model: (model / "model.pkl").write_bytes(pickle.dumps({"a": "c"})),
        lambda model: (model / "MLmodel").write_text(MLMODEL.format("a", "b").replace("sklearn", "other")),
        lambda model: (model / "more.json").write_text("{}"),
        lambda model: (model / "code.py").write_text(""),
        lambda model: os.environ.__setitem__("PYTHONOPTIMIZE", "1"),
    ],
)
def test_another_kind_is_asked_for(
    model: Any, kept: Any, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "0")
    asked, memory = Asked(), Memory(kept)
    memory.answer(question(model), asked)
    change(model)
    assert not memory.answer(question(model), asked).reused


def test_other_settings_and_questions_are_asked_for(model: Any, kept: Any) -> None:
    asked, memory = Asked(), Memory(kept)
    for one in (question(model), question(model, raise_on_error=True), question(model, about="modules")):
        assert not memory.answer(one, asked).reused
        assert memory.answer(one, asked).reused


@pytest.mark.parametrize("name", ["executable", "version"])
def test_another_python_makes_another_kind(
    model: Any, kept: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked()
    Memory(kept).answer(question(model), asked)
    monkeypatch.setattr(sys, name, "another")
    assert not Memory(kept).answer(question(model), asked).reused


def test_an_installed_distribution_makes_another_kind(
    model: Any, kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "thing-1.dist-info").mkdir(parents=True)
    (site / "thing-1.dist-info/RECORD").write_text("thing/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    asked = Asked()
    Memory(kept).answer(question(model), asked)
    assert Memory(kept).answer(question(model), asked).reused
    (site / "thing-1.dist-info").rename(site / "thing-2.dist-info")
    assert not Memory(kept).answer(question(model), asked).reused


def test_what_is_installed_while_the_process_runs_is_not_kept_nor_taken_from_others(
    model: Any, kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, memory = Asked(), Memory(kept)
    (tmp_path / "thing-1.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not memory.answer(question(model), asked).reused
    assert not Memory(kept).answer(question(model), asked).reused
    assert not memory.answer(question(model), asked).reused


def test_which_module_is_whose_is_read_once_for_the_same_distributions(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def read() -> Any:
        asked.append(1)
        return {"yaml": ["PyYAML"]}

    for _ in range(2):
        assert Memory(kept).packages(read) == {"yaml": ["PyYAML"]}
    assert len(asked) == 1
    site = tmp_path / "site"
    (site / "thing.egg-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(site))
    for name, content in (("top_level.txt", "thing"), ("top_level.txt", "more"), ("requires.txt", "numpy")):
        (site / f"thing.egg-info/{name}").write_text(content)
        (site / f"{content}{name}").mkdir()
        for _ in range(2):
            Memory(kept).packages(read)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("content", lambda file: file.write_text("other")),
        ("content", lambda file: file.unlink()),
        ("exists", lambda file: file.unlink()),
        ("listing", lambda file: (file / "more").write_text("")),
    ],
)
def test_a_changed_file_is_asked_for(model: Any, kept: Any, tmp_path: Path, kind: str, change: Any) -> None:
    file = tmp_path / "dependency"
    file.mkdir() if kind == "listing" else file.write_text("first")
    asked, memory = Asked((kind, str(file))), Memory(kept)
    memory.answer(question(model), asked)
    assert memory.answer(question(model), asked).reused
    change(file)
    assert not memory.answer(question(model), asked).reused


def test_a_changed_variable_is_asked_for(model: Any, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETTING", "1")
    asked, memory = Asked(("environ", "SETTING")), Memory(kept)
    memory.answer(question(model), asked)
    monkeypatch.setenv("OTHER", "1")
    assert memory.answer(question(model), asked).reused
    monkeypatch.setenv("SETTING", "2")
    assert not memory.answer(question(model), asked).reused


def test_a_module_that_begins_to_hide_another_is_asked_for(
    model: Any, kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    asked, memory = Asked(names=["numpy", "helper"]), Memory(kept)
    memory.answer(question(model), asked)
    (tmp_path / "unrelated.py").write_text("")
    assert memory.answer(question(model), asked).reused
    (tmp_path / "numpy.py").write_text("")
    assert not memory.answer(question(model), asked).reused


def test_a_doubtful_answer_and_an_unobserved_one_are_not_kept(model: Any, kept: Any) -> None:
    memory = Memory(kept)
    doubtful = Asked(doubts=["predict failed"])
    for _ in range(2):
        assert not memory.answer(question(model), doubtful).reused
    for _ in range(2):
        assert not memory.answer(question(model), lambda observation: ["a"]).reused


def test_where_user_code_was_seen_at_work_small_values_count_from_then_on(model: Any, kept: Any) -> None:
    asked, memory = Asked(user_code=True), Memory(kept)
    memory.answer(question(model), asked)
    assert memory.answer(question(model), asked).reused
    (model / "model.pkl").write_bytes(pickle.dumps({"a": "b", "n": 1}))
    memory.answer(question(model), asked)
    (model / "model.pkl").write_bytes(pickle.dumps({"a": "b", "n": 2}))
    assert not memory.answer(question(model), asked).reused
    assert Memory(kept).answer(question(model), asked).reused


def test_an_error_passes_through_and_is_not_kept(model: Any, kept: Any) -> None:
    memory = Memory(kept)

    def fail(observation: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        memory.answer(question(model), fail)
    assert not memory.answer(question(model), Asked()).reused


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-5], lambda b: b"", lambda b: b"{}", lambda b: b[:40] + b"x" + b[41:]]
)
def test_a_damaged_entry_is_asked_for(model: Any, kept: Any, damage: Any) -> None:
    Memory(kept).answer(question(model), Asked())
    for file in kept.path.iterdir():
        if file.suffix != ".lock":
            file.write_bytes(damage(file.read_bytes()))
    assert not Memory(kept).answer(question(model), Asked()).reused


def test_an_entry_of_another_kind_is_asked_for(model: Any, kept: Any) -> None:
    asked = Asked()
    Memory(kept).answer(question(model), asked)
    (entry,) = (file for file in kept.path.iterdir() if file.suffix != ".lock")
    foreign = entry.read_bytes()
    Memory(kept).answer(question(model, raise_on_error=True), asked)
    for file in kept.path.iterdir():
        if file.suffix != ".lock" and file != entry:
            file.write_bytes(foreign)
    assert not Memory(kept).answer(question(model, raise_on_error=True), asked).reused


def test_an_entry_that_others_can_write_is_asked_for(model: Any, kept: Any) -> None:
    Memory(kept).answer(question(model), Asked())
    for file in kept.path.iterdir():
        file.chmod(0o666)
    assert not Memory(kept).answer(question(model), Asked()).reused


def test_threads_that_meet_a_kind_together_ask_once(model: Any, kept: Any) -> None:
    asked, memory = Asked(), Memory(kept)
    threads = [threading.Thread(target=memory.answer, args=(question(model), asked)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked.times == 1
