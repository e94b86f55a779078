"""Of a saved model's files, what decides imports makes its kind, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_mlctx.services.requirements.key import Model

SKLEARN = {
    "flavors": {
        "sklearn": {"pickled_model": "model.pkl"},
        "python_function": {"loader_module": "mlflow.sklearn"},
    }
}
SPLIT = {"columns": ["a", "b"], "data": [[1, 2.5], [3, 4.5]]}


class Step:
    """Of the user, by reference."""


@pytest.fixture
def kind(tmp_path: Path) -> Any:
    """The kind of a model with these files, and whether user code takes part in it."""

    def read(configuration: Any = SKLEARN, **files: Any) -> Any:
        for name, content in {"MLmodel": yaml.safe_dump(configuration), **files}.items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Model(tmp_path, lambda module: module in ("mlflow", "sklearn", "builtins"))

    return read


def digests(*models: Any) -> Any:
    return {model.digest(strict=False) for model in models}


@pytest.mark.parametrize("name", ["model_uuid", "utc_time_created", "run_id", "model_id", "model_size_bytes"])
def test_what_is_new_for_each_model_is_no_part_of_it(kind: Any, name: str) -> None:
    assert len(digests(kind({**SKLEARN, name: "1"}), kind({**SKLEARN, name: "2"}), kind())) == 1


def test_the_configuration_is(kind: Any) -> None:
    assert len(digests(kind(), kind({**SKLEARN, "signature": "x"}), kind({"flavors": {"other": {}}}))) == 3


def test_a_set_that_mlflow_writes_in_any_order_is_the_same(kind: Any) -> None:
    one, other = (
        {"flavors": {"sklearn": {"skops_trusted_types": types}}} for types in (["a", "b"], ["b", "a"])
    )
    assert len(digests(kind(one), kind(other))) == 1


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"columns": ["a", "b"], "data": [[5, 6.5]]}, True),
        ({"columns": ["a", "c"], "data": [[1, 2.5]]}, False),
        ({"columns": ["a", "b"], "data": [["1", 2.5]]}, False),
        ({"columns": ["a"], "data": [[1]]}, False),
        ([[1, 2.5]], False),
        ({"a": 1}, False),
    ],
)
@pytest.mark.parametrize("name", ["input_example.json", "serving_input_example.json"])
def test_of_an_input_example_the_schema_counts_and_for_user_code_the_values(
    kind: Any, name: str, other: Any, same: bool
) -> None:
    one, other = (kind(**{name: json.dumps(example)}) for example in (SPLIT, other))
    assert (len(digests(one, other)) == 1) is same
    assert one.digest(strict=True) != other.digest(strict=True)


def test_of_weights_the_words_count_and_for_user_code_small_ones_fully(kind: Any) -> None:
    one, other, third = (
        kind(**{"model.ubj": content}) for content in (b"tree\x00\x01", b"tree\x00\x02", b"linear")
    )
    assert len(digests(one, other)) == 1
    assert len(digests(one, third)) == 2
    assert one.digest(strict=True) != other.digest(strict=True)


def test_any_other_file_counts_fully(kind: Any) -> None:
    assert len(digests(kind(**{"settings.bin": b"1"}), kind(**{"settings.bin": b"2"}))) == 2


@pytest.mark.parametrize(
    ("configuration", "files"),
    [
        ({"flavors": {"python_function": {"loader_module": "mlflow.pyfunc.model"}}}, {}),
        ({"flavors": {"python_function": {"loader_module": "mlflow.pyfunc.loaders.code_model"}}}, {}),
        ({"flavors": {"python_function": {"loader_module": "userlib.loader"}}}, {}),
        ({"flavors": {"python_function": {"loader_module": "mlflow.sklearn", "code": "code"}}}, {}),
        (SKLEARN, {"helper.py": ""}),
        (SKLEARN, {"model.pkl": pickle.dumps(Step)}),
    ],
)
def test_user_code_is_told(kind: Any, configuration: Any, files: Any) -> None:
    assert not kind().user_code
    assert kind(configuration, **files).user_code


class Looking:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "call", [(eval, "1"), (exec, "1"), (os.path.exists, "flag"), (open, "flag"), (os.getenv, "FLAG")]
)
def test_a_pickle_that_evaluates_text_or_looks_around_is_refused(kind: Any, call: Any) -> None:
    with pytest.raises(ValueError, match="calls"):
        kind(**{"model.pkl": pickle.dumps(Looking(*call))})


def test_a_configuration_that_is_none_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="mapping"):
        kind("text")
