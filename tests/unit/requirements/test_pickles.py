"""A pickle read without loading it tells what decides imports, and not what a model learned."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import warnings
import zipfile
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from pytest_mlctx.services.requirements.pickles import UnreadableError, read_pickle, read_skops


def learned(model: Any, seed: Any) -> Any:
    generator = np.random.default_rng(seed)
    data = generator.random((40, 3))
    return model.fit(data, data[:, 0] * np.pi if isinstance(model, Pipeline) else data[:, 0] > 0.5)


def tokens(value: Any, strict: Any) -> Any:
    return read_pickle(cloudpickle.dumps(value)).tokens(strict)


class Described(NamedTuple):
    dtype: np.dtype
    modules: tuple[str, ...]


class Step:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize("model", [LogisticRegression, lambda: RandomForestClassifier(3)])
def test_what_was_learned_is_no_part_of_it(model: Any) -> None:
    assert tokens(learned(model(), 1), strict=False) == tokens(learned(model(), 2), strict=False)


def test_of_a_model_that_is_kept_as_text_the_words_count() -> None:
    """As LightGBM pickles its trees."""

    def text(tree: str, number: float) -> Any:
        return Step(_handle=f"{tree}\n" + "\n".join(f"leaf_value={number / n}" for n in range(1, 100)))

    assert tokens(text("binary", 1.5), strict=False) == tokens(text("binary", 2.5), strict=False)
    assert tokens(text("binary", 1.5), strict=False) != tokens(text("multiclass", 1.5), strict=False)
    assert tokens(text("binary", 1.5), strict=True) != tokens(text("binary", 2.5), strict=True)


@pytest.mark.parametrize("strict", [False, True])
def test_the_run_that_autologging_writes_on_it_is_no_part_of_it(strict: bool) -> None:
    """As MLflow's patch of fit does; with its id each model would be of a kind of its own."""
    one, other = (learned(LogisticRegression(), 1) for _ in range(2))
    one._mlflow_run_id, other._mlflow_run_id = "1" * 32, "2" * 32
    assert tokens(one, strict) == tokens(other, strict)


def test_beside_user_code_what_was_learned_counts_and_seeded_training_learns_the_same() -> None:
    def model(seed: Any) -> Any:
        return learned(make_pipeline(FunctionTransformer(np.abs), StandardScaler(), Ridge()), seed)

    assert tokens(model(1), strict=True) == tokens(model(1), strict=True) != tokens(model(2), strict=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LogisticRegression(), LogisticRegression(solver="saga")),
        (LogisticRegression(), LogisticRegression(fit_intercept=False)),
        (LogisticRegression(), StandardScaler()),
        (make_pipeline(StandardScaler(with_mean=False)), make_pipeline(StandardScaler())),
    ],
)
def test_a_class_a_string_or_a_boolean_makes_another_kind(one: Any, other: Any) -> None:
    assert tokens(one, strict=False) != tokens(other, strict=False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mode": 1}, {"mode": 2}),
        ({"mode": 0.5}, {"mode": 0.25}),
        ({"mode": np.float32(0.1)}, {"mode": np.float32(0.2)}),
        ({"mode": np.int64(1)}, {"mode": np.int64(2)}),
        ({"mode": np.array([True, False])}, {"mode": np.array([False, True])}),
        ({"mode": b"a"}, {"mode": b"b"}),
        ({"mode": {"a", "b"}}, {"mode": {"a", "c"}}),
        ({"a": True, "b": False}, {"a": False, "b": True}),
        ({"order": ["x", "y"]}, {"order": ["y", "x"]}),
        ({"mode": None}, {"mode": ()}),
        ({"mode": 0.123456789}, {"mode": 0.987654321}),
        ({"mode": np.zeros(100, bool)}, {"mode": np.ones(100, bool)}),
        ({"mode": 1}, {"mode": "1"}),
        ({"mode": [["x"], "y"]}, {"mode": ["x", [], "y"]}),
        ({"mode": "0" * 32}, {"mode": "1" * 32}),
        ({"mode": Described(np.dtype("f8"), ("json",))}, {"mode": Described(np.dtype("f8"), ("xgboost",))}),
    ],
)
def test_user_code_may_act_on_any_value(one: Any, other: Any) -> None:
    assert tokens(Step(**one), strict=True) != tokens(Step(**other), strict=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Ridge(alpha=0.5), Ridge(alpha=0.25)),
        (Ridge(max_iter=1), Ridge(max_iter=2)),
        (Ridge(alpha=np.float64(0.5)), Ridge(alpha=np.float64(0.25))),
        (Ridge(alpha=np.float32(0.1)), Ridge(alpha=np.float32(0.2))),
        (
            make_pipeline(StandardScaler(), Ridge(max_iter=1)),
            make_pipeline(StandardScaler(), Ridge(max_iter=2)),
        ),
        (Step(version=1), Step(version=2)),
    ],
)
def test_a_setting_makes_another_kind_though_a_library_alone_takes_part(one: Any, other: Any) -> None:
    assert tokens(one, strict=False) != tokens(other, strict=False)


@pytest.mark.parametrize(
    "model",
    [
        lambda seed: RandomForestClassifier(5, random_state=seed),
        lambda seed: GradientBoostingClassifier(n_estimators=3),
        lambda seed: KMeans(3, random_state=seed),
        lambda seed: MLPClassifier((3,), max_iter=9),
        lambda seed: KNeighborsClassifier(2),
        lambda seed: SVC(),
        lambda seed: make_pipeline(StandardScaler(), LogisticRegression()),
    ],
)
def test_training_without_a_seed_and_on_other_rows_is_no_setting(model: Any) -> None:
    def trained(rows: Any, seed: Any) -> Any:
        data = np.random.default_rng(seed).random((rows, 3))
        return tokens(model(None).fit(data, data[:, 0] > 0.5), strict=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len({repr(trained(rows, seed)) for rows in (40, 60) for seed in range(3)}) == 1


def test_a_number_that_a_learned_and_another_attribute_share_counts() -> None:
    def sharing(number: Any) -> Any:
        shared = [number]
        return tokens(Step(learned_=shared, setting=shared), strict=False)

    assert sharing(1) != sharing(2)


def test_code_by_value_is_part_of_it() -> None:
    assert tokens(lambda x: x + 1, strict=True) != tokens(lambda x: x + 2, strict=True)
    assert read_pickle(cloudpickle.dumps(lambda x: x)).by_value


def test_a_class_by_value_reads_the_same_in_each_process() -> None:
    program = (
        "import cloudpickle, pydantic, sys\n"
        "class Message(pydantic.BaseModel):\n"
        "    text: str\n"
        "class Step:\n"
        "    message = Message\n"
        "    names = {'a', 'b', 'c', 'd'}\n"
        "    def run(self, x): return x in {'u', 'v', 'w', 'x'}\n"
        "sys.stdout.buffer.write(cloudpickle.dumps(Step()))"
    )
    one, other = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        for _ in range(2)
    )
    assert one != other
    assert read_pickle(one).tokens(True) == read_pickle(other).tokens(True)


class Danger:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the pickle was loaded",))


def test_nothing_is_called() -> None:
    assert "_pytest.outcomes" in read_pickle(pickle.dumps(Danger())).modules


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04", b"no pickle", pickle.dumps(1) + b"more", b"\x80\x04\x82\x01."]
)
def test_what_is_no_plain_pickle_is_refused(content: Any) -> None:
    with pytest.raises(UnreadableError):
        read_pickle(content)


def test_skops_files_differ_by_what_they_name_alone() -> None:
    skops = pytest.importorskip("skops.io")

    def schema(model: Any) -> Any:
        with zipfile.ZipFile(io.BytesIO(skops.dumps(model))) as archive:
            return read_skops(archive.read("schema.json"))

    one = schema(learned(LogisticRegression(), 1))
    other = learned(LogisticRegression(), 2)
    other._mlflow_run_id = "2" * 32
    assert one.tokens(False) == schema(other).tokens(False)
    assert one.tokens(False) != schema(learned(LogisticRegression(solver="saga"), 1)).tokens(False)
    assert one.tokens(False) != schema(learned(LogisticRegression(C=2), 1)).tokens(False)
    assert "sklearn.linear_model._logistic" in one.modules
