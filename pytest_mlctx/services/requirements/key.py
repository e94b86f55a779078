"""The kind of a model: a key of all in its files that decides which modules it imports."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_mlctx.services.requirements.pickles import WORD, Saved, UnreadableError, read_pickle, read_skops

# Of MLmodel: new for each model, whatever its kind.
_IDENTITY = frozenset(
    {"artifact_path", "model_id", "model_size_bytes", "model_uuid", "run_id", "utc_time_created", "name"}
)
# What models learned, in formats that hold no code; a word in it can be a setting.
_WEIGHTS = frozenset({".cb", ".cbm", ".h5", ".lgb", ".npy", ".npz", ".safetensors", ".ubj", ".xgb"})
_EXAMPLES = frozenset({"input_example.json", "serving_input_example.json"})
_BY_USER = frozenset({"mlflow.pyfunc.model", "mlflow.pyfunc.loaders.code_model"})


class Model:
    """A saved model, or the data file of one that has no MLmodel, read without loading it.

    Args:
        path: the folder or the file.
        provided: whether a top-level module comes from the standard library or an installed distribution.

    Raises:
        OSError: a file cannot be read.
        ValueError: MLmodel is no mapping, or a pickle evaluates text or looks at files.
    """

    def __init__(self, path: Path, provided: Callable[[str], bool]) -> None:
        self._parts: list[tuple[str, Callable[[bool], Any]]] = []
        self.user_code: bool = False
        """Whether code takes part that no installed distribution provides."""
        self._provided = provided
        root = root_of(path)
        self._parts.append((path.relative_to(root).as_posix(), lambda strict: None))
        for file in sorted(file for file in root.rglob("*") if file.is_file()) if root.is_dir() else [root]:
            name = file.relative_to(root).as_posix() if root.is_dir() else file.suffix
            self._parts.append((name, self._reader(name, file.read_bytes())))

    def digest(self, strict: bool) -> str:
        """A hash of the kind; ``strict`` where user code takes part, which may act on any value."""
        parts = [(name, part(strict)) for name, part in self._parts]
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def _reader(self, name: str, content: bytes) -> Callable[[bool], Any]:
        """A function that tells what of this file decides the kind."""
        if name.rpartition("/")[2] == "MLmodel":
            return self._configuration(content)
        if name in _EXAMPLES:
            schema = _schema(json.loads(content))
            return lambda strict: content if strict else schema
        try:
            saved = list(_saved(content))
        except (UnreadableError, zipfile.BadZipFile, NotImplementedError, KeyError, RuntimeError):
            saved = []
        whole = hashlib.sha256(content).digest()
        if saved:
            for _, one in saved:
                if one.acts:
                    raise ValueError(f"{name} calls {', '.join(one.acts)}")
                self.user_code = self.user_code or one.by_value or not all(map(self._knows, one.modules))
            beside = sorted(_members(content))
            return lambda strict: (_tokens(saved, strict, whole), beside if strict else None)
        if Path(name).suffix in _WEIGHTS:
            return lambda strict: whole if strict else sorted(set(WORD.findall(content)))
        self.user_code = self.user_code or name.endswith((".py", ".pyc", ".ipynb"))
        return lambda strict: whole

    def _configuration(self, content: bytes) -> Callable[[bool], Any]:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        model = yaml.load(content, Loader=loader)
        if not isinstance(model, dict):
            raise ValueError("MLmodel is no mapping")
        for flavor in model.get("flavors", {}).values():
            module = str(flavor.get("loader_module", "mlflow"))
            given = flavor.get("code") or flavor.get("model_code_path")
            self.user_code = self.user_code or bool(given) or module in _BY_USER or not self._knows(module)
            if isinstance(trusted := flavor.get("skops_trusted_types"), list):
                trusted.sort(key=str)  # a set, that MLflow writes in the order of the moment
        lasting = {key: value for key, value in model.items() if key not in _IDENTITY}
        text = json.dumps(lasting, sort_keys=True, default=str)
        return lambda strict: text

    def _knows(self, module: str) -> bool:
        return self._provided(module.partition(".")[0])


def root_of(path: Path) -> Path:
    """The model's folder: some flavors are asked with their data file in it and read MLmodel beside it."""
    return path.parent if (path.parent / "MLmodel").is_file() and not (path / "MLmodel").is_file() else path


def _saved(content: bytes) -> Iterator[tuple[str, Saved]]:
    """The objects in a file: a pickle, a skops file, or an archive with pickles as torch writes it."""
    if content[:1] == b"\x80":
        yield "", read_pickle(content)
    elif content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if "schema.json" in names:
                yield "schema.json", read_skops(archive.read("schema.json"))
            elif any(name.endswith("/data.pkl") for name in names) and not any(
                name.endswith(".py") for name in names
            ):
                for name in names:
                    if name.endswith(".pkl"):
                        yield name.rpartition("/")[2], read_pickle(archive.read(name))


def _members(content: bytes) -> Iterator[bytes]:
    """Hashes of what lies in an archive beside its pickles and its schema, under names of the moment."""
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if not name.endswith((".pkl", "schema.json")):
                    yield hashlib.sha256(archive.read(name)).digest()


def _tokens(saved: list[tuple[str, Saved]], strict: bool, whole: bytes) -> Any:
    try:
        return [(name, one.tokens(strict)) for name, one in saved]
    except RecursionError:
        return whole


def _schema(value: Any) -> Any:
    """The shape of JSON data: the names of its columns and the types of its values."""
    if isinstance(value, dict):
        if isinstance(value.get("columns"), list) and "data" in value:
            return value["columns"], _schema(value["data"])
        return {key: _schema(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return sorted({repr(_schema(item)) for item in value})
    return type(value).__name__
