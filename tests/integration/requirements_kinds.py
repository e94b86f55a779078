"""Saves models of many kinds and tells what MLflow wrote about their environment.

``python requirements_kinds.py OUT {own,fresh,reuse,alone}:KIND…``, in the folder that :func:`write_project`
filled. ``own`` is MLflow's way, ``fresh`` infers as reuse does and remembers nothing, ``alone`` reuses
without the helper process, as where there is no fork.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

from requirements_cases import CASES, sample_data, sample_frame, save_sklearn, write_cases

KINDS: dict[str, Any] = {**CASES}
LIBRARIES = {"lightgbm", "statsmodels", "xgboost"}  # of the kinds that begin with their names
IDENTITY = (
    "model_id",
    "model_uuid",
    "run_id",
    "utc_time_created",
    "artifact_path",
    "model_size_bytes",
    "name",
)


def write_project(folder: Path) -> None:
    """The user's own code that some of the kinds need."""
    package = folder / "userlib"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text("import scipy.stats\n")
    (package / "steps.py").write_text(
        "from sklearn.base import BaseEstimator, TransformerMixin\n"
        "class Step(BaseEstimator, TransformerMixin):\n"
        "    def __init__(self, lazily=False):\n"
        "        self.lazily = lazily\n"
        "    def fit(self, X, y=None):\n"
        "        return self\n"
        "    def transform(self, X):\n"
        "        if self.lazily:\n"
        "            import loguru\n"
        "        return X\n"
    )
    (package / "models.py").write_text(
        "import mlflow.pyfunc\n"
        "from userlib import deep\n"
        "class Model(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        import loguru\n"
        "        return model_input\n"
    )
    (package / "decider.py").write_text(
        "import os, mlflow.pyfunc\n"
        "class Decider(mlflow.pyfunc.PythonModel):\n"
        "    def __init__(self, **attributes):\n"
        "        self.__dict__ = {'boolean': False, 'string': 'one', 'number': 1, **attributes}\n"
        "    def decides(self, data):\n"
        "        yield self.boolean\n"
        "        yield self.string == 'seven'\n"
        "        yield self.number == 7\n"
        "        yield 'seven' in data.columns\n"
        "        yield data.iloc[0, 0] == 7\n"
        "        yield open('data.txt').read() == 'seven'\n"
        "        yield os.environ.get('DECIDER') == 'seven'\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        if any(self.decides(model_input)):\n"
        "            import loguru\n"
        "        return model_input\n"
    )
    (package / "loader.py").write_text(
        "import loguru\n"
        "class Loaded:\n"
        "    def predict(self, data, params=None):\n"
        "        return data\n"
        "def _load_pyfunc(path):\n"
        "    return Loaded()\n"
    )
    (folder / "from_code.py").write_text(
        "import scipy, mlflow.pyfunc\n"
        "from mlflow.models import set_model\n"
        "class Model(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return model_input\n"
        "set_model(Model())\n"
    )
    (folder / "shipped.py").write_text("import loguru\n\ndef helper(x):\n    return x\n")
    (folder / "data.txt").write_text("7\n")
    write_cases(folder)


def kind(save: Any) -> Any:
    KINDS[save.__name__] = save
    return save


@kind
def linear(path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    save_sklearn(LinearRegression(), path)


@kind
def linear_with_example(path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    save_sklearn(LinearRegression(), path, input_example=sample_data()[0][:2])


@kind
def linear_with_frame(path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    save_sklearn(LinearRegression(), path, input_example=sample_frame())


@kind
def linear_with_extra(path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    save_sklearn(LinearRegression(), path, extra_pip_requirements=["requests"])


@kind
def linear_given(path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    save_sklearn(LinearRegression(), path, pip_requirements=["scikit-learn"])


@kind
def forest(path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    save_sklearn(RandomForestClassifier(5), path, input_example=sample_data()[0][:2])


@kind
def clusters(path: Path) -> None:
    from sklearn.cluster import KMeans

    save_sklearn(KMeans(2), path)


@kind
def pipeline(path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    save_sklearn(make_pipeline(StandardScaler(), LogisticRegression()), path)


@kind
def frame_pipeline(path: Path) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    columns = ColumnTransformer([("scaled", StandardScaler(), [0, 1])]).set_output(transform="pandas")
    save_sklearn(make_pipeline(columns, LogisticRegression()), path)


@kind
def user_step_by_reference(path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from userlib.steps import Step

    save_sklearn(make_pipeline(Step(), LogisticRegression()), path, input_example=sample_data()[0][:2])


@kind
def user_step_other_attribute(path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from userlib.steps import Step

    save_sklearn(
        make_pipeline(Step(lazily=True), LogisticRegression()), path, input_example=sample_data()[0][:2]
    )


@kind
def user_step_by_value(path: Path) -> None:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    class Local(BaseEstimator, TransformerMixin):
        def fit(self, X: Any, y: Any = None) -> Any:  # noqa: N803
            return self

        def transform(self, X: Any) -> Any:  # noqa: N803
            import loguru

            return X if loguru else None

    save_sklearn(make_pipeline(Local(), LogisticRegression()), path, input_example=sample_data()[0][:2])


@kind
def lambda_step(path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    save_sklearn(make_pipeline(FunctionTransformer(lambda x: x * 2), LogisticRegression()), path)


@kind
def skops(path: Path) -> None:
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    mlflow.sklearn.save_model(LogisticRegression().fit(*sample_data()), path)


@kind
def transformer_without_predict(path: Path) -> None:
    from sklearn.preprocessing import StandardScaler

    save_sklearn(StandardScaler(), path)


@kind
def pyfunc_class(path: Path) -> None:
    import mlflow.pyfunc

    class Local(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            import scipy

            return model_input if scipy else None

    mlflow.pyfunc.save_model(path, python_model=Local(), input_example=sample_frame())


@kind
def pyfunc_class_without_example(path: Path) -> None:
    import mlflow.pyfunc
    from userlib.models import Model

    mlflow.pyfunc.save_model(path, python_model=Model())


@kind
def pyfunc_class_by_reference(path: Path) -> None:
    import mlflow.pyfunc
    from userlib.models import Model

    mlflow.pyfunc.save_model(path, python_model=Model(), input_example=sample_frame())


@kind
def pyfunc_function(path: Path) -> None:
    import mlflow.pyfunc

    def predict(model_input: list[str]) -> list[str]:
        return model_input

    mlflow.pyfunc.save_model(path, python_model=predict, input_example=["a"])


@kind
def pyfunc_from_code(path: Path) -> None:
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(path, python_model="from_code.py", input_example=sample_frame())


@kind
def pyfunc_code_paths(path: Path) -> None:
    import mlflow.pyfunc
    import shipped

    class Local(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return shipped.helper(model_input)

    mlflow.pyfunc.save_model(path, python_model=Local(), code_paths=["shipped.py"])


@kind
def pyfunc_infer_code_paths(path: Path) -> None:
    import mlflow.pyfunc
    from userlib.models import Model

    mlflow.pyfunc.save_model(path, python_model=Model(), infer_code_paths=True)


@kind
def pyfunc_loader_module(path: Path) -> None:
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(path, loader_module="userlib.loader", data_path="data.txt")


@kind
def pyfunc_artifacts(path: Path) -> None:
    import mlflow.pyfunc
    from userlib.models import Model

    mlflow.pyfunc.save_model(
        path, python_model=Model(), artifacts={"data": "data.txt"}, input_example=sample_frame()
    )


@kind
def lightgbm(path: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    X, y = sample_data()  # noqa: N806
    booster = lightgbm.train({"verbose": -1, "min_data_in_leaf": 1}, lightgbm.Dataset(X, y), 2)
    mlflow.lightgbm.save_model(booster, path)


@kind
def lightgbm_classifier(path: Path) -> None:
    import inspect

    import mlflow.lightgbm
    from lightgbm import LGBMClassifier

    options = {}
    if "serialization_format" in inspect.signature(mlflow.lightgbm.save_model).parameters:
        options = {"serialization_format": "cloudpickle"}
    model = LGBMClassifier(n_estimators=2, verbose=-1, min_child_samples=1).fit(*sample_data())
    mlflow.lightgbm.save_model(model, path, input_example=sample_data()[0][:2], **options)


@kind
def statsmodels(path: Path) -> None:
    import mlflow.statsmodels
    import statsmodels.api as sm

    X, y = sample_data()  # noqa: N806
    mlflow.statsmodels.save_model(sm.OLS(y, X).fit(), path)


@kind
def xgboost(path: Path) -> None:
    import mlflow.xgboost
    import xgboost

    booster = xgboost.train({}, xgboost.DMatrix(*sample_data()), 2)
    mlflow.xgboost.save_model(booster, path)


@kind
def xgboost_classifier(path: Path) -> None:
    import mlflow.xgboost
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=2).fit(*sample_data())
    mlflow.xgboost.save_model(model, path, input_example=sample_data()[0][:2])


@kind
def autologged(path: Path) -> None:
    import mlflow
    import mlflow.sklearn
    from sklearn.linear_model import Ridge

    mlflow.sklearn.autolog(log_datasets=False, silent=True)
    try:
        with mlflow.start_run() as run:
            Ridge().fit(*sample_data())
    finally:
        mlflow.sklearn.autolog(disable=True)
    mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/model", dst_path=str(path))


@kind
def logged(path: Path) -> None:
    import mlflow
    from sklearn.linear_model import Lasso

    options = (
        {"artifact_path": "m"}
        if mlflow.__version__.startswith("2.")
        else {"name": "m", "serialization_format": "cloudpickle"}
    )
    with mlflow.start_run():
        uri = mlflow.sklearn.log_model(Lasso().fit(*sample_data()), **options).model_uri
    mlflow.artifacts.download_artifacts(uri, dst_path=str(path))


@kind
def pyfunc_failing(path: Path) -> None:
    import mlflow.pyfunc

    class Local(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            import os

            if "MLFLOW_IN_CAPTURE_MODULE_PROCESS" in os.environ:
                raise RuntimeError("only there")
            return model_input

    mlflow.pyfunc.save_model(path, python_model=Local(), input_example=sample_frame())


DECISIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "boolean": {"boolean": True},
    "string": {"string": "seven"},
    "number": {"number": 7},
    "schema": {"column": "seven"},
    "value": {"value": 7.0},
    "file": {"file": "seven"},
    "variable": {"variable": "seven"},
}


def _decided(
    path: Path,
    column: str = "a",
    value: float = 1.0,
    file: str = "one",
    variable: str = "one",
    **attributes: Any,
) -> None:
    import os

    import mlflow.pyfunc
    import pandas as pd
    from userlib.decider import Decider

    data = Path("data.txt")
    before = data.read_text()
    data.write_text(file)
    os.environ["DECIDER"] = variable
    mlflow.pyfunc.save_model(
        path, python_model=Decider(**attributes), input_example=pd.DataFrame({column: [value]})
    )
    data.write_text(before)
    del os.environ["DECIDER"]


for name, decision in DECISIONS.items():
    KINDS[f"decided_by_{name}"] = functools.partial(_decided, **decision)


def environment_files(path: Path) -> dict[str, str]:
    """What MLflow wrote about the environment, and the code that it took along."""
    import yaml

    files = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.name == "MLmodel":
            model = yaml.safe_load(file.read_text())
            for key in IDENTITY:
                model.pop(key, None)
            files[name] = yaml.safe_dump(model)
        elif file.name in ("requirements.txt", "conda.yaml", "python_env.yaml") or "code" in file.parts:
            files[name] = file.read_text() if file.is_file() and file.suffix != ".pyc" else ""
    return files


def main() -> None:
    """Save the models, and put what was told into ``told.json``."""
    from pytest_mlctx.services import requirements
    from pytest_mlctx.services.cache import Cache
    from pytest_mlctx.services.requirements import helper, wrappers
    from pytest_mlctx.services.requirements.memory import Memory

    out, *steps = sys.argv[1:]
    sys.path.insert(0, "")
    mode = "reuse"
    reuse = requirements.install(when=lambda: mode != "own")
    assert "mlflow" not in sys.modules

    import mlflow
    import mlflow.utils.environment

    mlflow.set_tracking_uri(f"sqlite:///{Path(out).absolute()}/mlflow.db")
    models = []
    run_in_fork = helper.run
    was_fresh = False
    for number, step in enumerate(steps):
        mode, _, name = step.partition(":")
        helper.run = run_in_fork if mode != "alone" else lambda *_: False
        path = Path(out, f"{number}-{name}")
        print(f"--- {step}", file=sys.stderr, flush=True)
        wrappers._memory = Memory(Cache(None)) if mode == "fresh" else None if was_fresh else wrappers._memory
        was_fresh = mode == "fresh"
        began, inferred = time.perf_counter(), reuse.statistics.inferred
        KINDS[name](path)
        models.append(
            {
                "mode": mode,
                "kind": name,
                "files": environment_files(path),
                "seconds": time.perf_counter() - began,
                "inferred": reuse.statistics.inferred - inferred,
            }
        )
    requirements.uninstall(reuse)
    assert mlflow.utils.environment._infer_requirements.__module__ == "mlflow.utils.requirements_utils"
    assert "__wrapped__" not in vars(mlflow.utils.environment._infer_requirements)
    Path(out, "told.json").write_text(json.dumps({"models": models, "statistics": vars(reuse.statistics)}))


if __name__ == "__main__":
    main()
