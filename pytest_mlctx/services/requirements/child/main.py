"""The process that infers requirements: MLflow's capture script under an observer, or forks of it.

``python main.py PLAN SCRIPT ARGUMENTS…`` or ``python main.py --serve PLAN SCRIPT``. A request is a line of
JSON on stdin; the answers are lines on stdout: the pid of the fork, then its exit status.
"""

# Nothing is imported here before MLflow that need not be.
# ruff: noqa: PTH100, PTH120, PTH123
from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import types
from collections.abc import Mapping
from typing import Any

_PATIENCE = 2.0  # seconds between two looks whether the asking process is still there


def _observer(plan: Mapping[str, Any]) -> Any:
    """An observer that watches, loaded in a package whose name cannot hide a module of the user."""
    package: Any = types.ModuleType("_mlctx_requirements")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[package.__name__] = package
    module = importlib.import_module(f"{package.__name__}.observer")
    observer = module.Observer(module.Trust(plan["standard"], plan["sites"]), plan["ours"])
    observer.watch()
    return observer


def _read(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _write(path: str, content: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def _load(script: str, observer: Any) -> types.ModuleType:
    """The script as the main module, loaded as ``python SCRIPT`` would, its ``main()`` not yet called."""
    sys.path[0] = os.path.dirname(script)
    main = types.ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    with open(script, "rb") as file:
        code = compile(file.read(), script, "exec")
    main.__name__ = "loading"
    exec(code, main.__dict__)
    main.__name__ = "__main__"
    observer.user_code = False  # whatever MLflow imports by itself, no model has been loaded
    return main


def _run_once(plan_file: str, script: str, arguments: list[str]) -> None:
    plan = _read(plan_file)
    observer = _observer(plan)
    sys.argv = [script, *arguments]
    _load(script, observer).main()
    observer.pause()
    _write(plan["report"], observer.report())


def _serve(plan_file: str, script: str) -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # what MLflow prints is no answer
    parent = os.getppid()
    observer = _observer(_read(plan_file))
    main = _load(script, observer)
    observer.pause()
    os.write(answers, json.dumps(observer.report()).encode() + b"\n")
    import select

    pending = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], _PATIENCE)[0]:
            continue
        received = os.read(0, 1 << 16)
        if not received:
            return
        pending += received
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            pid = os.fork()
            if pid == 0:
                os.close(answers)
                _fork(observer, main, script, json.loads(line))
            os.write(answers, b"%d\n" % pid)
            os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _fork(observer: Any, main: types.ModuleType, script: str, request: Mapping[str, Any]) -> None:
    """In the fork: become the process that the request would have started, and end."""
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environ"])
        observer.skip(request["ours"])
        observer.resume()
        sys.argv = [script, *request["arguments"]]
        main.main()
        observer.pause()
        _write(request["report"], observer.report())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _serve(*sys.argv[2:])
    else:
        _run_once(sys.argv[1], sys.argv[2], sys.argv[3:])
