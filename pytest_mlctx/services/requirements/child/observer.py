"""What a process depends on, seen from inside: files, modules, environment variables.

What C code opens, asks or lists by itself is not seen (https://docs.python.org/3/library/audit_events.html).
"""

# Nothing is imported here before MLflow that need not be.
# ruff: noqa: PTH100, PTH117, PTH118, PTH120
from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import opcode
import os
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

from .dependencies import DISPLAY, LOOSE, Trust, value_of  # the inferring process has no other name for it

# Not files: libraries ask them for the machine, user code for whatever it likes.
_SYSTEM = ("/proc/", "/sys/", "/dev/")
_HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_SUBSCRIPT = ("BINARY_SUBSCR", "BINARY_OP")  # how an expression reads an item, until 3.13 and since
_stat, _getcwd = os.stat, os.getcwd
_KINDS = {os.access: "exists", os.readlink: "link"}
# The functions of os.path, pathlib and glob by which nothing but presence, kind and size is asked.
_PRESENCE = (
    *("exists", "lexists", "isfile", "isdir", "islink", "ismount", "getsize", "_exists", "_lexists"),
    *("is_file", "is_dir", "is_symlink", "is_mount", "is_fifo", "is_socket", "is_block_device"),
    *("updatecache", "checkcache"),  # of linecache: a traceback shows no times
)


class Observer:
    """Notes what this process reads, from :meth:`watch` on."""

    def __init__(self, trust: Trust, ours: list[str]) -> None:
        """Take what is trusted, and paths (the model's) that the asking process knows anyway."""
        self.seen: dict[tuple[str, str], str] = {}
        self._asked: set[str] = set()  # modules, found or not
        self.doubts: set[str] = set()  # why the answer can't be kept
        self.user_code: bool = False
        self._trust = trust
        self.skip(ours)
        self._written: set[str] = set()
        self._threads: weakref.WeakSet[Any] = weakref.WeakSet()  # those that user code started
        self._own = threading.local()
        self._user: dict[tuple[str, str], bool] = {}

    def watch(self) -> None:
        """Install the hooks, which stay until the process ends."""
        for module in list(sys.modules.values()):  # what .pth files and sitecustomize brought along
            if module is not sys.modules["__main__"]:
                self._read(str(getattr(module, "__file__", None) or ""))
        self.user_code = False
        sys.addaudithook(self._audit)
        self._watch_environ()
        self._watch_finder()
        self._watch_threads()
        for name in ("stat", "lstat", "access", "readlink"):
            ask = getattr(os, name)
            watched = functools.partial(self._ask, ask)
            for supported in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
                if ask in supported:
                    supported.add(watched)
            setattr(os, name, watched)
        os.getcwd = functools.partial(self._ask_folder, os.getcwd)

    def _watch_environ(self) -> None:
        variables: Any = os._Environ
        read = variables.__getitem__

        def watched(environ: Any, key: Any) -> Any:
            self._read_variable(key)
            return read(environ, key)

        each = variables.__iter__

        def watched_each(environ: Any) -> Iterator[Any]:
            self._read_variables()
            iterated = self._own.__dict__.setdefault("iterated", set())
            for key in each(environ):
                iterated.add(key)  # dict() takes all names before it reads the first
                yield key

        variables.__getitem__ = watched
        variables.__iter__ = watched_each

    def _watch_finder(self) -> None:
        """Note what is looked for along ``sys.path``: ``importlib.util.find_spec`` is no import."""
        finder: Any = importlib.machinery.PathFinder
        find = finder.find_spec

        def watched(fullname: str, *arguments: Any, **options: Any) -> Any:
            if not getattr(self._own, "busy", False):
                self._asked.add(fullname)
            return find(fullname, *arguments, **options)

        finder.find_spec = staticmethod(watched)

    def _watch_threads(self) -> None:
        """Note who starts them, which their own frames do not tell."""
        threads: Any = threading.Thread
        start = threads.start

        def watched(thread: Any) -> None:
            if self._asked_by_user(through_libraries=True):
                self._threads.add(thread)
            start(thread)

        threads.start = watched

    def skip(self, ours: list[str]) -> None:
        """Note nothing of these files and of what lies in these folders."""
        self._skipped = frozenset(ours)
        self._folders_skipped = tuple(os.path.join(path, "") for path in ours)

    def _is_skipped(self, path: str) -> bool:
        return path in self._skipped or path.startswith(self._folders_skipped)

    def pause(self) -> None:
        """Note nothing that this thread does."""
        self._own.busy = True

    def resume(self) -> None:
        """End :meth:`pause`."""
        self._own.busy = False

    def report(self) -> dict[str, Any]:
        """What was noted, as JSON can hold it."""
        for module in self._asked:
            package, _, name = module.rpartition(".")
            for folder in list(getattr(sys.modules.get(package), "__path__", ())):
                for suffix in ("", *importlib.machinery.all_suffixes()):
                    self._note("exists", os.path.join(folder, f"{name}{suffix}"))
        return {
            "seen": [[kind, name, value] for (kind, name), value in sorted(self.seen.items())],
            "names": sorted({module.partition(".")[0] for module in self._asked}),
            "doubts": sorted(self.doubts),
            "user_code": self.user_code,
        }

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        note = _EVENTS.get(event)
        if note is None or getattr(self._own, "busy", False):
            return
        self._own.busy = True
        try:
            note(self, event, arguments)
        except Exception as error:
            self.doubts.add(f"{event}: {error!r}")
        finally:
            self._own.busy = False

    def _on_import(self, event: str, arguments: tuple[Any, ...]) -> None:
        self._asked.add(str(arguments[0]))
        if arguments[1]:
            self._read(os.fspath(arguments[1]))

    def _on_open(self, event: str, arguments: tuple[Any, ...]) -> None:
        path, mode, flags = arguments
        if path is None or isinstance(path, int):
            return
        path = self._absolute(path)
        writes = mode[:1] in ("w", "x", "a") if mode else flags & (os.O_WRONLY | os.O_TRUNC)
        appends = mode[:1] == "a" if mode else flags & os.O_APPEND
        if path not in self._written and (appends or not writes):
            self._read(path)
        if writes:
            self._written.add(path)

    def _on_list(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = "." if arguments[0] is None else arguments[0]
        if isinstance(path, int) or self._importing() or not self._asked_by_user():
            return
        self._note("listing", self._absolute(path))

    def _on_library(self, event: str, arguments: tuple[Any, ...]) -> None:
        name = arguments[0]
        if isinstance(name, str) and os.sep in name:
            self._read(self._absolute(name))

    def _on_outside(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Another process, the network or a database: what it says can't be checked later."""
        if self._asked_by_user(through_libraries=True):
            self.doubts.add(f"user code asks outside of the process: {event}")

    def _read(self, path: str) -> None:
        if path.endswith(".pyc"):
            path = self._source(path)
        if not path or path in self._trust or path.startswith(_HERE) or self._is_skipped(path):
            return
        if path.startswith(_SYSTEM):
            if self._asked_by_user():
                self.doubts.add(f"user code reads {path}")
            return
        self.user_code = self.user_code or path.endswith((".py", ".pyc"))
        self._note("content", path)

    @staticmethod
    def _source(path: str) -> str:
        try:
            source = importlib.util.source_from_cache(path)
            _stat(source)
        except (ValueError, NotImplementedError, OSError):
            return path
        return source

    def _read_variable(self, key: Any) -> None:
        if not (getattr(self._own, "busy", False) or self._iterates(key)):
            name = os.fsdecode(key) if isinstance(key, (bytes, str)) else str(key)
            user = self._asked_by_user(through_libraries=True)
            if not user and name in DISPLAY:
                return
            self.seen["environ" if user else LOOSE.get(name, "environ"), name] = ""

    def _read_variables(self) -> None:
        """All are looked at: user code may want any, a library wants those that bear its name."""
        if getattr(self._own, "busy", False):
            return
        if self._asked_by_user(through_libraries=True):
            self.seen["prefix", ""] = ""
            return
        for module in {module.partition(".")[0] for _, module in self._callers()} - sys.stdlib_module_names:
            if not _nobodys(module) and module != "__main__":
                self.seen["prefix", module.upper()] = ""

    def _iterates(self, key: Any) -> bool:
        """Whether a variable is read only because all of them are, by ``items()`` or ``dict()``."""
        iterated: set[Any] = getattr(self._own, "iterated", set())
        if key not in iterated:
            return False
        iterated.remove(key)
        frame = sys._getframe(3)
        code, at = frame.f_code.co_code, frame.f_lasti
        while opcode.opname[code[at]] == "CACHE":
            at -= 2
        return frame.f_code.co_name == "__iter__" or opcode.opname[code[at]] not in _SUBSCRIPT

    def _ask_folder(self, ask: Any) -> Any:
        if not getattr(self._own, "busy", False) and self._asked_by_user():
            self.seen["folder", ""] = ask()
        return ask()

    def _ask(self, ask: Any, path: Any, *arguments: Any, **options: Any) -> Any:
        if not getattr(self._own, "busy", False) and not isinstance(path, int) and self._asked_by_user():
            kind = _KINDS.get(ask) or ("exists" if self._asks_presence() else "status")
            self._own.busy = True
            try:
                self._note(kind, self._absolute(path))
            finally:
                self._own.busy = False
        return ask(path, *arguments, **options)

    def _asks_presence(self) -> bool:
        """Whether size and kind are all that is looked at; the caller of ``stat`` may look at times."""
        for code, module in self._callers():
            if code.co_name in _PRESENCE:
                return True
            if not self._is_standard(code.co_filename, module):
                return False
        return False

    def _note(self, kind: str, path: str) -> None:
        known = path in self._trust or path in self._written or self._is_skipped(path)
        if not known and (kind, path) not in self.seen:
            self.seen[kind, path] = value_of(kind, path)

    def _absolute(self, given: Any) -> str:
        path: str = os.fsdecode(given)
        if not os.path.isabs(path):
            self.seen["folder", ""] = _getcwd()
        return os.path.abspath(path)

    def _asked_by_user(self, through_libraries: bool = False) -> bool:
        """Whether user code is what asks: directly, the standard library aside, or ``through_libraries``.

        A thread is whose code started it.
        """
        for code, module in self._callers():
            if self._is_user(code.co_filename, module):
                self.user_code = True
                return True
            if not through_libraries and not self._is_standard(code.co_filename, module):
                return False
        return threading._active.get(threading.get_ident()) in self._threads  # type: ignore[attr-defined]

    def _importing(self) -> bool:
        """Whether it is for modules or distributions, which are known by their names and a digest."""
        return any(
            code.co_filename.startswith("<frozen importlib") or module == "importlib.metadata"
            for code, module in self._callers(1)
        )

    def _callers(self, most: int = sys.maxsize) -> Iterator[tuple[types.CodeType, str]]:
        frame: types.FrameType | None = sys._getframe()
        while frame is not None and most:
            if not frame.f_code.co_filename.startswith(_HERE):
                yield frame.f_code, str(frame.f_globals.get("__name__"))
                most -= 1
            frame = frame.f_back

    def _is_user(self, path: str, module: str) -> bool:
        known = self._user.get((path, module))
        if known is None:  # what exec or pickle made has no file: it belongs to whom its module belongs
            made = path.startswith("<")
            known = (
                not (_nobodys(module) or self._trust.provides(module)) if made else path not in self._trust
            )
            self._user[path, module] = known
        return bool(known)

    def _is_standard(self, path: str, module: str) -> bool:
        if path.startswith("<"):
            return _nobodys(module) or module.partition(".")[0] in sys.stdlib_module_names
        return self._trust.is_standard(path)


def _nobodys(module: str) -> bool:
    """Whether exec made this without a module, as ``collections.namedtuple`` does."""
    return module == "None" or module.startswith("namedtuple_")


_EVENTS = {
    "import": Observer._on_import,
    "open": Observer._on_open,
    "os.listdir": Observer._on_list,
    "os.scandir": Observer._on_list,
    "ctypes.dlopen": Observer._on_library,
    **dict.fromkeys(
        (
            "subprocess.Popen",
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "os.fork",
            "socket.connect",
            "socket.getaddrinfo",
            "socket.gethostbyname",
            "sqlite3.connect",
        ),
        Observer._on_outside,
    ),
}
