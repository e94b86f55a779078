"""What a saved object is made of, read from its pickle or skops file without loading it.

Nothing that a pickle names is imported or called: its classes and functions are stubs that note arguments.
"""

from __future__ import annotations

import copyreg
import io
import json
import pickle
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any

_SMALL = 64  # bytes of numbers up to which an array of them can be a setting; longer ones were learned
_DIGITS = {4: 7, 8: 17}  # that a number of so many bytes has for sure
_TRACKER = re.compile(r"[0-9a-f]{32}")  # cloudpickle's name for a class by value, new in each process


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

    def __init__(self, modules: set[str], by_value: bool, write: Callable[[_Digest], None]) -> None:
        self.modules = modules
        self.by_value = by_value
        """Whether the file holds code itself (cloudpickle)."""
        self._write = write

    def tokens(self, strict: bool) -> list[Any]:
        """What the object is made of, without what it learned: classes, names, strings, booleans.

        Args:
            strict: in their order, with small numbers and code, as user code may act on any of them.
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
        for made in reader.calls:
            digest.walk(made, "")
        digest.walk(root, "")

    modules = {module for module, _ in reader.named}
    return Saved(modules, any(module.startswith("cloudpickle") for module in modules), write)


def read_skops(schema: bytes) -> Saved:
    """Read the ``schema.json`` of a skops file.

    Raises:
        UnreadableError: it is no such thing.
    """
    try:
        root = json.loads(schema)
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    modules: set[str] = set()
    _skops_modules(root, modules)
    return Saved(modules, False, lambda digest: digest.walk_skops(root, ""))


def _skops_modules(node: Any, modules: set[str]) -> None:
    if isinstance(node, dict):
        module = node.get("__module__")
        if isinstance(module, str):
            modules.add(module)
        for value in node.values():
            _skops_modules(value, modules)
    elif isinstance(node, list):
        for value in node:
            _skops_modules(value, modules)


class _Digest:
    """Collects what decides which modules an object imports."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._tokens: list[Any] = []
        self._met: dict[int, int] = {}

    def tokens(self) -> list[Any]:
        return self._tokens if self.strict else sorted(set(self._tokens), key=repr)

    def add(self, *token: Any) -> None:
        self._tokens.append(token)

    def walk(self, value: Any, where: str) -> None:
        """Note ``value``, met at the attribute or key ``where``."""
        if isinstance(value, (str, bool)) or value is None:
            self.add(where, value)
        elif isinstance(value, (int, float, complex)):
            if self.strict and _is_setting(value):
                self.add(where, repr(value))
        elif isinstance(value, (bytes, bytearray)):
            if self.strict:
                self.add(where, bytes(value))
        elif isinstance(value, dict):
            for key, item in value.items():
                self.walk(key, where)
                self.walk(item, f"{where}.{key}" if isinstance(key, str) else where)
            self._end()
        elif isinstance(value, (set, frozenset)):
            self.add(where, tuple(sorted(repr(self._alone(item)) for item in value)))
        elif isinstance(value, (list, tuple)):
            kind = _element_kind(value)
            for item in value:
                if kind and isinstance(item, (bytes, bytearray)):
                    self._walk_numbers(bytes(item), kind, where)
                elif not (kind and isinstance(item, tuple)):  # nor the shape of an array
                    self.walk(item, where)
            self._end()
        else:
            self._walk_call(value, where)

    def _walk_call(self, made: Any, where: str) -> None:
        met = self._met.get(id(made))
        if met is not None:
            if self.strict:
                self.add("met", met)
            return
        self._met[id(made)] = len(self._met)
        origin: str = getattr(made, "origin", type(made).__name__)
        self.add(where, origin)
        arguments = getattr(made, "arguments", ())
        if origin == "made":
            arguments = tuple(a for a in arguments if not (isinstance(a, str) and _TRACKER.fullmatch(a)))
        self.walk(arguments, origin)
        self.walk(getattr(made, "state", []), origin)

    def _alone(self, value: Any) -> Any:
        if isinstance(value, (str, int, float, bytes)):
            return value
        digest = _Digest(self.strict)
        digest._met = dict(self._met)
        digest.walk(value, "")
        return digest.tokens()

    def _walk_numbers(self, content: bytes, kind: str, where: str) -> None:
        """The bytes of an array or scalar of numpy: numbers that were learned are none of the digest."""
        if not self.strict or kind == "V":
            return
        if kind in "fc":
            setting = len(content) in _DIGITS and _is_setting(_written(content))
        else:
            setting = kind in "SUT" or len(content) <= _SMALL
        if setting:
            self.add(where, kind, content)

    def _end(self) -> None:
        if self.strict:
            self.add()

    def walk_skops(self, node: Any, where: str) -> None:
        """Note a node of a skops schema, whose ids and file names are new in each file."""
        if isinstance(node, dict):
            if node.get("__class__") in ("str", "int", "float", "bool", "NoneType") and "content" in node:
                try:
                    self.walk(json.loads(node["content"]), where)
                    return
                except (TypeError, ValueError):
                    pass
            for key, item in node.items():
                if key not in ("__id__", "file"):
                    self.walk_skops(item, key if key != "content" else where)
            self._end()
        elif isinstance(node, list):
            for item in node:
                self.walk_skops(item, where)
            self._end()
        else:
            self.walk(node, where)


def _written(content: bytes) -> float:
    """A number of numpy's as somebody would have written it, without what its precision adds."""
    (number,) = struct.unpack("<f" if len(content) == 4 else "<d", content)
    return float(f"{number:.{_DIGITS[len(content)]}g}")


def _is_setting(number: complex) -> bool:
    """Whether somebody wrote this number down; those that were learned have more digits."""
    return isinstance(number, int) or len(repr(number)) <= 8


def _element_kind(values: Iterable[Any]) -> str:
    """The kind of the elements (numpy's letter), where these are the parts of an array or a scalar."""
    for value in values:
        if getattr(value, "origin", "") in ("numpy.dtype", "numpy.dtypes"):
            arguments = value.arguments
            if arguments and isinstance(arguments[0], str):
                return arguments[0].lstrip("<>|=")[:1]
    return ""
