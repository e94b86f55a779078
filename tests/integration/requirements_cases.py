"""Cases of an adversary: models and code of users that decide in unusual ways what they import.

Each saves a model into a folder; those of a pair differ by one thing alone, which they put back.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CASES: dict[str, Any] = {}
NEVER_KEPT = {"asks_a_process", "asks_a_database", "raises_errors"}  # these are inferred each time

FILES = {
    "adversary/__init__.py": "",
    "adversary/functions.py": """
        def scale(x):
            import loguru
            return x * 2
        """,
    "adversary/deciders.py": '''
        """Each function decides by something of its own whether loguru is imported."""
        import mlflow.pyfunc

        def chosen():
            import loguru

        def parent_of_variables():
            import os
            return "ADVERSARY" in os.environ

        def all_variables():
            import os
            return {**os.environ}.get("ADVERSARY") == "1"

        def bytes_variable():
            import os
            return os.environb.get(b"ADVERSARY") == b"1"

        def a_plugin():
            import pkgutil, adversary.plugins
            return "extra" in [one.name for one in pkgutil.iter_modules(adversary.plugins.__path__)]

        def a_glob():
            import glob
            return any("extra" in name for name in glob.glob("adversary/plugins/*.py"))

        def a_walk():
            import os
            return any("extra.py" in files for _, _, files in os.walk("adversary/plugins"))

        def a_pathlib_glob():
            from pathlib import Path
            return any(Path("adversary/plugins").rglob("extra*"))

        def a_failed_import():
            try:
                import adversary.plugins.extra
            except ImportError:
                return False
            return True

        def a_spec():
            import importlib.util
            return importlib.util.find_spec("adversary.plugins.extra") is not None

        def a_resource():
            import importlib.resources
            return importlib.resources.files("adversary").joinpath("list.txt").read_text() == "loguru"

        def a_run_path():
            import runpy
            return runpy.run_path("adversary/script.txt")["CHOSEN"]

        def a_mapped_file():
            import mmap
            with open("adversary/list.txt", "rb") as file, mmap.mmap(file.fileno(), 0, access=1) as content:
                return content[:] == b"loguru"

        def a_descriptor():
            import os
            descriptor = os.open("adversary/list.txt", os.O_RDONLY)
            return os.read(descriptor, 100) == b"loguru"

        def numpy_reads():
            import numpy
            return numpy.fromfile("adversary/list.txt", "u1").tobytes() == b"loguru"

        def pandas_reads():
            import pandas
            return pandas.read_csv("adversary/list.txt").columns[0] == "loguru"

        def arrow_reads():
            import pyarrow
            with pyarrow.OSFile("adversary/list.txt") as file:
                return file.read() == b"loguru"

        def a_zipped_module():
            import sys
            sys.path.append("adversary/zipped.zip")
            import zipped_settings
            return zipped_settings.CHOSEN

        def a_link():
            import os
            return os.readlink("adversary/link") == "loguru"

        def a_time():
            import os
            return os.path.getmtime("adversary/list.txt") == 7

        def a_file_of_variables():
            import dotenv
            return dotenv.dotenv_values("adversary/list.txt")["CHOSEN"] == "loguru"

        def threads():
            import concurrent.futures, os
            with concurrent.futures.ThreadPoolExecutor() as pool:
                return all(pool.map(os.path.exists, ["adversary/flag"]))

        def a_line_that_is_shown():
            import traceback, warnings
            warnings.warn("an old way")
            traceback.print_stack()
            return __import__("os").path.exists("adversary/flag")

        def a_version():
            import importlib.metadata
            return importlib.metadata.version("numpy") == "0"

        def a_process():
            import subprocess
            return subprocess.check_output(["cat", "adversary/list.txt"]) == b"x"

        def a_database():
            import sqlite3
            return sqlite3.connect("adversary/list.db").execute("select 1").fetchone() == (2,)

        class Decider(mlflow.pyfunc.PythonModel):
            def __init__(self, by):
                self.by = by

            def predict(self, context, model_input, params=None):
                if globals()[self.by]():
                    chosen()
                return model_input

        class Meta(type):
            def __call__(cls, *arguments):
                if cls.lazily:
                    chosen()
                return super().__call__(*arguments)

        class Made(metaclass=Meta):
            lazily = True

            def __reduce__(self):
                return Made, ()

        class Plain(Made):
            lazily = False

            def __reduce__(self):
                return Plain, ()

        class Holder(mlflow.pyfunc.PythonModel):
            def __init__(self, value):
                self.value = value

            def predict(self, context, model_input, params=None):
                if str(self.value).endswith(("7", "True]", "TWO: 2>")):
                    chosen()
                return model_input

        class WithParams(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                if params and params.get("mode") == "seven":
                    chosen()
                return model_input

        class WithArtifact(mlflow.pyfunc.PythonModel):
            def load_context(self, context):
                if open(context.artifacts["data"]).read() == "loguru":
                    chosen()

            def predict(self, context, model_input, params=None):
                return model_input
        ''',
    "adversary/plugins/__init__.py": "",
    "adversary/list.txt": "json",
    "adversary/script.txt": "CHOSEN = False\n",
    "adversary/lazy.py": """
        def __getattr__(name):
            import importlib
            if name.startswith("_"):
                raise AttributeError(name)
            return importlib.import_module(name)
        """,
    "adversary/flavor.py": """
        import scipy

        class Loaded:
            def predict(self, data, params=None):
                return data

        def _load_pyfunc(path):
            with open(path + "/settings.txt") as file:
                if file.read() == "rounds 7":
                    import loguru
            return Loaded()
        """,
    "adversary/configured.py": """
        import importlib
        import mlflow.pyfunc
        from mlflow.models import ModelConfig, set_model

        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                importlib.import_module(ModelConfig(development_config="adversary/config.yaml").get("module"))
                return model_input

        set_model(Model())
        """,
    "adversary/config.yaml": "module: json\n",
    "adversary/chat.py": """
        import mlflow.pyfunc
        from mlflow.types.llm import ChatChoice, ChatCompletionResponse, ChatMessage

        class Chat(mlflow.pyfunc.ChatModel):
            def predict(self, context, messages, params=None):
                import loguru
                answer = ChatMessage(role="assistant", content=messages[-1].content)
                return ChatCompletionResponse(choices=[ChatChoice(index=0, message=answer)])
        """,
    "shippedpackage/__init__.py": "",
    "shippedpackage/inner.py": "import json as chosen\n",
    "required.txt": "requests\n",
    "constrained.txt": "urllib3<99\n",
}


def write_cases(folder: Path) -> None:
    """The code of users that the cases need."""
    for name, content in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(inspect.cleandoc(content) + "\n" if name.endswith(".py") else content)
    _zip(folder / "adversary/zipped.zip", chosen=False)
    (folder / "adversary/link").symlink_to("json")


def _zip(file: Path, *, chosen: bool) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("zipped_settings.py"), f"CHOSEN = {chosen}\n")
    os.utime(file, (1, 1))  # predict puts it on sys.path, where its time is a part of the key


def case(save: Any) -> Any:
    CASES[save.__name__] = save
    return save


def pair(*values: Any) -> Callable[[Any], Any]:
    """Make a case of each value, in which the function saves what differs by the value alone."""

    def make(save: Any) -> Any:
        for number, value in enumerate(values):
            CASES[f"{save.__name__}_{number}"] = functools.partial(save, value=value)
        return save

    return make


@contextlib.contextmanager
def _instead(file: str, content: str | None) -> Iterator[None]:
    place = Path(file)
    before = place.read_text() if place.exists() else None
    _put(place, content)
    yield
    _put(place, before)


def _put(place: Path, content: str | None) -> None:
    if content is None:
        place.unlink(missing_ok=True)
    else:
        place.write_text(content)


def sample_data() -> Any:
    import numpy as np

    X = np.random.default_rng(7).random((20, 3))  # noqa: N806
    return X, (X[:, 0] > 0.5).astype(int)


def sample_frame() -> Any:
    import pandas as pd

    return pd.DataFrame(sample_data()[0], columns=["a", "b", "c"])


def save_sklearn(model: Any, path: Path, **options: Any) -> None:
    import mlflow.sklearn

    if "skops_trusted_types" in inspect.signature(mlflow.sklearn.save_model).parameters:
        options.setdefault("serialization_format", "cloudpickle")
    mlflow.sklearn.save_model(model.fit(*sample_data()), path, **options)


def _pyfunc(path: Path, model: Any, **options: Any) -> None:
    import mlflow.pyfunc

    options.setdefault("input_example", sample_frame())
    mlflow.pyfunc.save_model(path, python_model=model, **options)


def _decides(path: Path, by: str) -> None:
    from adversary.deciders import Decider

    _pyfunc(path, Decider(by))


# scikit-learn


def _step(function: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    return make_pipeline(FunctionTransformer(function), LogisticRegression())


@pair(None, True)
def step_of_a_named_function(path: Path, value: Any) -> None:
    from adversary.functions import scale

    save_sklearn(_step(scale), path, **({"input_example": sample_data()[0][:2]} if value else {}))


@pair("json", "loguru")
def step_that_closes_over_a_name(path: Path, value: str) -> None:
    def load(x: Any) -> Any:
        importlib.import_module(value)
        return x

    save_sklearn(_step(load), path, input_example=sample_data()[0][:2])


@pair(1, 7)
def step_that_closes_over_a_global(path: Path, value: int) -> None:
    made: dict[str, Any] = {"__name__": "__main__", "MODE": value}
    exec("def load(x):\n    if MODE == 7:\n        import loguru\n    return x\n", made)
    save_sklearn(_step(made["load"]), path, input_example=sample_data()[0][:2])


@pair("predict", "predict_proba")
def with_another_predict_function(path: Path, value: str) -> None:
    from sklearn.linear_model import LogisticRegression

    save_sklearn(LogisticRegression(), path, input_example=sample_data()[0][:2], pyfunc_predict_fn=value)


@pair(1, 2)
def of_several_jobs(path: Path, value: int) -> None:
    from sklearn.ensemble import BaggingClassifier

    save_sklearn(BaggingClassifier(n_estimators=4, n_jobs=value), path, input_example=sample_data()[0][:2])


@pair("json", "loguru")
def reduced_to_an_evaluation(path: Path, value: str) -> None:
    from sklearn.linear_model import LinearRegression

    class Evaluated:
        def __reduce__(self) -> Any:
            return eval, (f"__import__({value!r}) and None",)

    model = LinearRegression()
    model.note_ = Evaluated()
    save_sklearn(model, path)


@pair(None, "")
def evaluation_that_looks_for_a_file(path: Path, value: str | None) -> None:
    from sklearn.linear_model import LinearRegression

    class Evaluated:
        def __reduce__(self) -> Any:
            question = "__import__('os').path.exists('adversary/flag')"
            return eval, (f"__import__('loguru' if {question} else 'json') and None",)

    model = LinearRegression()
    model.note_ = Evaluated()
    with _instead("adversary/flag", value):
        save_sklearn(model, path)


# what is given


@case
def with_extra_requirements_of_a_file(path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    save_sklearn(LinearRegression(), path, extra_pip_requirements=["-r required.txt", "-c constrained.txt"])


@case
def with_all_requirements_of_a_file(path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    save_sklearn(LinearRegression(), path, pip_requirements="required.txt")


@case
def with_an_environment_given(path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    environment = {"name": "e", "dependencies": ["python=3.11", "pip", {"pip": ["mlflow", "requests"]}]}
    save_sklearn(LinearRegression(), path, conda_env=environment)


@case
def with_a_signature_and_no_example(path: Path) -> None:
    from adversary.deciders import Holder
    from mlflow.models import infer_signature

    _pyfunc(path, Holder(7), input_example=None, signature=infer_signature(sample_frame(), sample_frame()))


@case
def with_resources_and_metadata(path: Path) -> None:
    from adversary.deciders import Holder
    from mlflow.models.resources import DatabricksServingEndpoint

    _pyfunc(
        path,
        Holder(1),
        resources=[DatabricksServingEndpoint(endpoint_name="e")],
        metadata={"module": "loguru"},
    )


# pyfunc


@pair(1, 7)
def holding_a_number(path: Path, value: int) -> None:
    from adversary.deciders import Holder

    _pyfunc(path, Holder(value))


@pair(False, True)
def holding_an_array(path: Path, value: bool) -> None:
    import numpy as np
    from adversary.deciders import Holder

    _pyfunc(path, Holder(np.full(100, value)))


@pair(False, True)
def holding_an_instance_of_a_metaclass(path: Path, value: bool) -> None:
    from adversary.deciders import Holder, Made, Plain

    _pyfunc(path, Holder(Made() if value else Plain()), input_example=None)


@pair("one", "seven")
def with_params(path: Path, value: str) -> None:
    from adversary.deciders import WithParams

    _pyfunc(path, WithParams(), input_example=(sample_frame(), {"mode": value}))


@pair("json", "loguru")
def with_an_artifact(path: Path, value: str) -> None:
    from adversary.deciders import WithArtifact

    with _instead("adversary/list.txt", value):
        _pyfunc(path, WithArtifact(), artifacts={"data": "adversary/list.txt"}, input_example=None)


@pair(False, True)
def a_typed_function(path: Path, value: bool) -> None:
    _pyfunc(path, _typed_functions()[value], input_example=[{"text": "a"}])


def _typed_functions() -> Any:
    """Two functions of a class of pydantic's, which keeps what is local where it is made."""
    import pydantic

    class Message(pydantic.BaseModel):
        text: str

    def plain(model_input: list[Message]) -> list[str]:
        return [message.text for message in model_input]

    def lazily(model_input: list[Message]) -> list[str]:
        import loguru

        return [message.text for message in model_input if loguru]

    for function in (plain, lazily):
        function.__annotations__ = {"model_input": list[Message], "return": list[str]}
    return plain, lazily


@case
def a_chat(path: Path) -> None:
    from adversary.chat import Chat

    _pyfunc(path, Chat(), input_example={"messages": [{"role": "user", "content": "a"}]})


@pair("json", "loguru")
def from_code_with_a_configuration(path: Path, value: str) -> None:
    _pyfunc(path, "adversary/configured.py", model_config={"module": value})


@pair("module: json\n", "module: loguru\n")
def from_code_with_a_configuration_of_its_own(path: Path, value: str) -> None:
    with _instead("adversary/config.yaml", value):
        _pyfunc(path, "adversary/configured.py")


@pair("import json as chosen\n", "import loguru as chosen\n")
def with_code_that_is_shipped(path: Path, value: str) -> None:
    def predict(model_input: list[str]) -> list[str]:
        import shippedpackage.inner

        return model_input if shippedpackage else []

    predict.__annotations__ = {"model_input": list[str], "return": list[str]}
    with _instead("shippedpackage/inner.py", value):
        _pyfunc(path, predict, code_paths=["shippedpackage"], input_example=["a"])


@pair("json", "loguru")
def by_a_lazy_attribute(path: Path, value: str) -> None:
    import mlflow.pyfunc

    class Local(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            import adversary.lazy

            getattr(adversary.lazy, value)
            return model_input

    _pyfunc(path, Local())


@pair("rounds 1", "rounds 7")
def of_a_flavor_of_its_own(path: Path, value: str) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model, infer_pip_requirements

    path.mkdir()
    (path / "settings.txt").write_text(value)
    model = Model()
    mlflow.pyfunc.add_to_model(model, loader_module="adversary.flavor", data=".")
    model.add_flavor("adversary.flavor", version=1)
    model.save(path / "MLmodel")
    found = infer_pip_requirements(str(path), "adversary.flavor", fallback=["none"])
    (path / "requirements.txt").write_text("\n".join(found))


# what user code looks at


for _by, (_file, _values) in {
    **dict.fromkeys(
        ("a_plugin", "a_glob", "a_walk", "a_pathlib_glob", "a_failed_import", "a_spec"),
        ("adversary/plugins/extra.py", (None, "")),
    ),
    **dict.fromkeys(
        (
            *("a_resource", "a_mapped_file", "a_descriptor", "numpy_reads", "pandas_reads", "arrow_reads"),
            "a_version",
        ),
        ("adversary/list.txt", ("json", "loguru")),
    ),
    "a_file_of_variables": ("adversary/list.txt", ("CHOSEN=json", "CHOSEN=loguru")),
    **dict.fromkeys(("threads", "a_line_that_is_shown"), ("adversary/flag", (None, ""))),
    "a_run_path": ("adversary/script.txt", ("CHOSEN = False\n", "CHOSEN = True\n")),
}.items():

    def _by_file(path: Path, value: str | None, by: str = _by, file: str = _file) -> None:
        with _instead(file, value):
            importlib.invalidate_caches()
            _decides(path, by)
        for name in [name for name in sys.modules if name.startswith("adversary.plugins.")]:
            del sys.modules[name]

    for _number, _value in enumerate(_values):
        CASES[f"by_{_by}_{_number}"] = functools.partial(_by_file, value=_value)


@pair(None, "1")
def by_the_presence_of_a_variable(path: Path, value: str | None) -> None:
    _by_variable(path, value, "parent_of_variables")


@pair(None, "1")
def by_all_variables(path: Path, value: str | None) -> None:
    _by_variable(path, value, "all_variables")


@pair(None, "1")
def by_a_variable_of_bytes(path: Path, value: str | None) -> None:
    _by_variable(path, value, "bytes_variable")


def _by_variable(path: Path, value: str | None, by: str) -> None:
    if value is not None:
        os.environ["ADVERSARY"] = value
    _decides(path, by)
    os.environ.pop("ADVERSARY", None)


@pair(False, True)
def by_a_zipped_module(path: Path, value: bool) -> None:
    _zip(Path("adversary/zipped.zip"), chosen=value)
    _decides(path, "a_zipped_module")
    _zip(Path("adversary/zipped.zip"), chosen=False)
    sys.path[:] = [one for one in sys.path if not one.endswith("zipped.zip")]
    sys.modules.pop("zipped_settings", None)


@pair("json", "loguru")
def by_a_link(path: Path, value: str) -> None:
    link = Path("adversary/link")
    link.unlink()
    link.symlink_to(value)
    _decides(path, "a_link")
    link.unlink()
    link.symlink_to("json")


@pair(1, 7)
def by_a_time(path: Path, value: int) -> None:
    os.utime("adversary/list.txt", (value, value))
    _decides(path, "a_time")
    os.utime("adversary/list.txt", (1, 1))


@case
def asks_a_process(path: Path) -> None:
    _decides(path, "a_process")


@case
def asks_a_database(path: Path) -> None:
    _decides(path, "a_database")


@case
def raises_errors(path: Path) -> None:
    """The inference fails, and is to be told."""
    import mlflow.pyfunc

    class Local(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            if "MLFLOW_IN_CAPTURE_MODULE_PROCESS" in os.environ:
                raise RuntimeError("only there")
            return model_input

    os.environ["MLFLOW_REQUIREMENTS_INFERENCE_RAISE_ERRORS"] = "true"
    try:
        _pyfunc(path, Local())
    except Exception as error:
        path.mkdir(exist_ok=True)
        (path / "requirements.txt").write_text(type(error).__name__)
    finally:
        del os.environ["MLFLOW_REQUIREMENTS_INFERENCE_RAISE_ERRORS"]
