"""What a saved object is made of, read from its pickle or skops file without loading it.

Nothing that a pickle names is imported or called: its classes and functions are stubs that note arguments.
"""

from __future__ import annotations

import contextlib
import copyreg
import hashlib
import io
import json
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# What a pickle calls to have text evaluated or to look around: who looks then cannot be seen.
_ACTING = re.compile(
    r"(builtins\.(eval|exec|compile|open|__import__)|_?io\.open|(os|posix|nt|posixpath|ntpath|genericpath|glob|runpy"
    r"|subprocess)\..*)"
)
WORD = re.compile(rb"[A-Za-z_][A-Za-z_:.\-]{3,}")
"""What counts of a learned model that is kept as text or bytes: a word can be a setting."""
_TEXT = 1000  # characters; what is longer is such a model
_LONG = 64  # bytes; of more a hash is noted
_RUN_ID = "_mlflow_run_id"  # an attribute that autologging gives what it has seen trained, new in each run
_SHORT = 8  # characters; a setting's number has no more, most that is learned has
_INTEGERS = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_FLOATS = {"f2": "e", "f4": "f", "f8": "d"}  # of numpy, and how struct calls them
_TRACKER = re.compile(r"[0-9a-f]{32}")  # cloudpickle's name for a class by value, new in each process
_ADDRESS = re.compile(r":\d{6,}(?![\w.])")  # pydantic names a class by where it lies in memory


class UnreadableError(Exception):
    """Not a pickle that can be read without loading it."""


class _Call:
    """A stub: the class or function ``origin``, or what came of calling it."""

    origin = ""
    arguments: tuple[Any, ...] = ()

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        made: Any
        if cls.origin.startswith("cloudpickle.") and "_make_skeleton" in cls.origin:
            made = type(
                cls.__name__, (_Call,), {"origin": "made"}
            )  # a class by value: it will be instantiated
        else:
            made = super().__new__(cls)
        made.arguments = (*arguments, *options.items())
        made.state = []
        return made

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> _Call:
        made = _Call(self, *arguments)
        made.origin = "()"
        return made

    def __setstate__(self, state: Any) -> None:
        self.state.append(state)  # type: ignore[attr-defined]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state.append((key, value))  # type: ignore[attr-defined]

    def extend(self, values: Iterable[Any]) -> None:
        self.state.extend(values)  # type: ignore[attr-defined]

    append = add = __setstate__


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.calls: list[Any] = []  # all of them: what a pickle makes and drops counts too
        self.named: dict[tuple[str, str], type[_Call]] = {}

    def find_class(self, module: str, name: str) -> Any:
        stub = self.named.get((module, name))
        if stub is None:
            calls = self.calls

            def noted(cls: type[_Call], *arguments: Any, **options: Any) -> Any:
                made = _Call.__new__(cls, *arguments, **options)
                calls.append(made)
                return made

            stub = type(name, (_Call,), {"origin": f"{module}.{name}", "__new__": noted})
            self.named[module, name] = stub
        return stub

    def persistent_load(self, pid: Any) -> Any:
        self.calls.append(made := _Call(pid))
        return made


class Saved:
    """An object as a file holds it: the modules that it names, and a digest of what it is made of."""

    def __init__(self, named: set[tuple[str, str]], by_value: bool, write: Callable[[_Digest], None]) -> None:
        self.modules: set[str] = {module for module, _ in named}
        self.by_value = by_value
        """Whether the file holds code itself (cloudpickle)."""
        self.acts: list[str] = sorted(".".join(one) for one in named if _ACTING.fullmatch(".".join(one)))
        """The functions that it calls on text or files."""
        self._write = write

    def tokens(self, strict: bool) -> list[Any]:
        """What the object is made of, without what it learned: classes, names, strings, booleans, settings.

        Learned are the numbers in arrays and long texts, those of more than eight characters, and those below
        a name that begins or ends with an underscore, as scikit-learn has it.

        Args:
            strict: all of it, in its order and structure, as user code may act on any value.
        """
        digest = _Digest(strict)
        self._write(digest)
        return digest.tokens()


def read_pickle(content: bytes) -> Saved:
    """Read a pickle.

    Raises:
        UnreadableError: it is none, or has more in it than stubs can stand for.
    """
    if copyreg._inverted_registry:  # type: ignore[attr-defined]
        raise UnreadableError("extension codes give classes, not their names")
    file = io.BytesIO(content)
    reader = _Reader(file)
    try:
        root = reader.load()
    except Exception as error:
        raise UnreadableError(str(error)) from error
    if file.read(1):
        raise UnreadableError("more follows")

    def write(digest: _Digest) -> None:
        for named in reader.named:
            digest.add("named", *named)
        digest.walk(root, "")
        with digest.learned("_"):
            for made in reader.calls:  # what is no part of the root counts too
                digest.walk(made, "")

    by_value = any(module.startswith("cloudpickle") for module, _ in reader.named)
    return Saved({*reader.named}, by_value, write)


def read_skops(schema: bytes) -> Saved:
    """Read the ``schema.json`` of a skops file.

    Raises:
        UnreadableError: it is no such thing.
    """
    try:
        root = json.loads(schema)
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    named: set[tuple[str, str]] = set()
    _skops_names(root, named)
    return Saved(named, False, lambda digest: digest.walk_skops(root, ""))


def _skops_names(node: Any, named: set[tuple[str, str]]) -> None:
    if isinstance(node, dict):
        module = node.get("__module__")
        if isinstance(module, str):
            named.add((module, str(node.get("__class__"))))
        for value in node.values():
            _skops_names(value, named)
    elif isinstance(node, list):
        for value in node:
            _skops_names(value, named)


class _Digest:
    """Collects what decides which modules an object imports."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._tokens: list[Any] = []
        self._met: dict[int, int] = {}
        self._learned = False
        self._met_learned: set[int] = set()

    def tokens(self) -> list[Any]:
        return self._tokens if self.strict else sorted(set(self._tokens), key=repr)

    def add(self, *token: Any) -> None:
        self._tokens.append(token)

    @contextlib.contextmanager
    def learned(self, name: Any) -> Iterator[None]:
        """Leave numbers out, where this attribute holds what was learned."""
        before = self._learned
        self._learned = before or (
            isinstance(name, str) and "_" in (name[:1], name[-1:]) and name[:2] != "__"
        )
        yield
        self._learned = before

    def walk(self, value: Any, where: str) -> None:
        """Note ``value``, met at the attribute or key ``where``."""
        if isinstance(value, str) and where.startswith("pydantic_core."):
            self.add(where, _ADDRESS.sub("", value))
        elif isinstance(value, str) and len(value) > _TEXT and not self.strict:
            self.add(where, *sorted(set(WORD.findall(value.encode("utf-8", "surrogatepass")))))
        elif isinstance(value, (str, bool)) or value is None:
            self.add(where, value)
        elif isinstance(value, (int, float, complex)):
            if self.strict or not (self._learned or len(repr(value)) > _SHORT):
                self.add(where, type(value).__name__, repr(value))
        elif isinstance(value, (bytes, bytearray)):
            if self.strict:
                self._add_bytes(value, where)
        elif isinstance(value, (dict, set, frozenset, list, tuple)):
            self._walk_container(value, where)
        else:
            self._walk_call(value, where)

    def _add_bytes(self, value: bytes | bytearray, where: str, kind: str = "") -> None:
        short = bytes(value) if len(value) <= _LONG else hashlib.sha256(value).hexdigest()
        self.add(where, kind or type(value).__name__, short)

    def _walk_container(self, value: Any, where: str) -> None:
        if not isinstance(value, (tuple, frozenset)) and self._is_met(value):
            return
        if self.strict:
            self.add(where, type(value).__name__, len(value))
        if isinstance(value, dict):
            for key, item in value.items():
                if key == _RUN_ID:
                    continue
                self.walk(key, where)
                with self.learned(key):
                    self.walk(item, f"{where}.{key}" if isinstance(key, str) else where)
        elif isinstance(value, (set, frozenset)):
            self.add(where, tuple(sorted(repr(self._alone(item)) for item in value)))
        else:
            text = "" if self.strict else _text_kind(value)
            for item in value:
                if text and isinstance(item, (bytes, bytearray)):
                    self._add_bytes(item, where, text)
                else:
                    self.walk(item, where)

    def _is_met(self, value: Any) -> bool:
        """Whether this very object was noted before, which is noted instead."""
        if not self.strict:
            met_before = id(value) in self._met or (self._learned and id(value) in self._met_learned)
            if self._learned:
                self._met_learned.add(id(value))
            else:
                self._met[id(value)] = 0
            return met_before
        met = self._met.get(id(value))
        if met is None:
            self._met[id(value)] = len(self._met)
        else:
            self.add("met", met)
        return met is not None

    def _walk_call(self, made: Any, where: str) -> None:
        if self._is_met(made):
            return
        origin: str = getattr(made, "origin", type(made).__name__)
        self.add(where, origin)
        arguments = getattr(made, "arguments", ())
        if origin == "made" and isinstance(made, type):
            arguments = tuple(a for a in arguments if not (isinstance(a, str) and _TRACKER.fullmatch(a)))
        self.walk(arguments, origin)
        if not self.strict and origin.endswith(".multiarray.scalar"):
            self.walk(_number(*arguments), f"{where} scalar")
        if hasattr(made, "state"):
            self.walk(made.state, origin)

    def _alone(self, value: Any) -> Any:
        digest = _Digest(self.strict)
        digest._met = dict(self._met)
        digest.walk(value, "")
        return digest.tokens()

    def walk_skops(self, node: Any, where: str) -> None:
        """Note a node of a skops schema, whose ids and file names are new in each file."""
        if isinstance(node, dict):
            if node.get("__class__") in ("str", "int", "float", "bool", "NoneType") and "content" in node:
                try:
                    self.walk(json.loads(node["content"]), where)
                    return
                except (TypeError, ValueError):
                    pass
            if self.strict:
                self.add(where, "dict", len(node))
            for key, item in node.items():
                if key not in ("__id__", "file", _RUN_ID):
                    with self.learned(key):
                        self.walk_skops(item, key if key != "content" else where)
        elif isinstance(node, list):
            if self.strict:
                self.add(where, "list", len(node))
            for item in node:
                self.walk_skops(item, where)
        else:
            self.walk(node, where)


def _number(dtype: Any = None, content: Any = b"", *_: Any) -> int | float | None:
    """The number that a scalar of numpy's is."""
    code = {**_INTEGERS, **_FLOATS}.get(str(next(iter(getattr(dtype, "arguments", ())), None)))
    if code is None or not isinstance(content, bytes) or len(content) != struct.calcsize(code):
        return None
    (number,) = struct.unpack(f"={code}", content)
    return float(f"{number:.7g}") if code in "ef" else number


def _text_kind(values: Iterable[Any]) -> str:
    """The kind of the elements, numpy's letter, where these are the parts of an array of text or booleans."""
    for value in values:
        if getattr(value, "origin", "") in ("numpy.dtype", "numpy.dtypes"):
            arguments = value.arguments
            if arguments and isinstance(arguments[0], str):
                kind = arguments[0].lstrip("<>|=")[:1]
                return kind if kind in "SUTb" else ""
    return ""
