"""MLflow's answers for each kind of model, kept while what they depended on is the same."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_mlctx.services.cache import Cache
from pytest_mlctx.services.requirements.child.dependencies import value_of
from pytest_mlctx.services.requirements.distributions import Installed, installed, interpreter
from pytest_mlctx.services.requirements.key import Model

FORMAT = 5  # of the entries; another one is another kind
_MOST = 4  # answers for one kind, each with what it depended on: those of other circumstances come back
_OWN_WAY = frozenset({"spark"})  # flavors whose loading starts more than one process


@dataclass(frozen=True)
class Question:
    """What MLflow is asked.

    Args:
        about: the name of MLflow's function.
        path: the model's folder or file.
        settings: the other arguments.
    """

    about: str
    path: Path
    flavor: str
    settings: Mapping[str, Any]


@dataclass
class Observation:
    """What one inference was seen to do, collected while MLflow runs it."""

    reports: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    """Why the answer must not be kept."""


@dataclass
class Answer:
    """What MLflow answered, the warnings that came with it, and whether it was given before."""

    lines: list[str]
    warnings: list[str]
    reused: bool


class Memory:
    """Answers by the kind of model, of this process and, from the cache folder, of others.

    Args:
        cache: the folder that outlives the process.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.refused: str | None = cache.refusal
        """Why nothing is kept for other processes, in one sentence."""
        self._entries: dict[str, dict[str, Any]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._born = installed().digest  # MLflow reads once per process which module belongs to which package

    def answer(self, question: Question, infer: Callable[[Observation], list[str]]) -> Answer:
        """The answer, remembered or asked for now; what ``infer`` raises passes through.

        Raises:
            OSError: the model's files cannot be read.
            ValueError: they are not what MLflow writes.
        """
        kind = _Kind(question, installed())
        if kind.installed.digest != self._born:
            return self._ask(None, kind, infer)
        key = self._key(kind)
        with self._locks.setdefault(key, threading.Lock()):
            entry = self._valid(key, kind)
            if entry is None:
                with self._cache.lock(key):
                    self._entries.pop(key, None)  # another process may have asked meanwhile
                    key = self._key(kind)  # and have seen user code at work
                    entry = self._valid(key, kind)
                    if entry is None:
                        return self._ask(key, kind, infer)
        return Answer(list(entry["answer"]), list(entry["warnings"]), reused=True)

    def packages(self, read: Callable[[], Mapping[str, list[str]]]) -> dict[str, list[str]]:
        """The distributions that each top-level module belongs to, as ``read`` finds them in all files."""
        version = importlib.metadata.version("importlib_metadata")
        circumstances = repr((FORMAT, "packages", version, sys.version, installed().digest))
        key = hashlib.sha256(circumstances.encode()).hexdigest()
        content = self._cache.read(key)
        if content is None:
            content = json.dumps(read()).encode()
            self._cache.publish(key, content)
        found: dict[str, list[str]] = json.loads(content)
        return found

    def _key(self, kind: _Kind) -> str:
        """The key of the kind, ``strict`` where user code was named by the model or seen at work before."""
        if not kind.model.user_code:
            key = kind.key(strict=False)
            entry = self._read(key)
            if entry is None or not entry.get("user_code"):
                return key
        return kind.key(strict=True)

    def _ask(self, key: str | None, kind: _Kind, infer: Callable[[Observation], list[str]]) -> Answer:
        environ = dict(os.environ)
        observation = Observation()
        lines = infer(observation)
        if key and observation.reports and not observation.doubts:
            with contextlib.suppress(OSError, ValueError):  # files that went away meanwhile: not kept
                self._note(key, kind, observation, lines, environ)
        return Answer(lines, observation.warnings, reused=False)

    def _note(
        self, key: str, kind: _Kind, observation: Observation, lines: list[str], environ: Mapping[str, str]
    ) -> None:
        names = frozenset(name for report in observation.reports for name in report["names"])
        seen = {
            (what, name): value or value_of(what, name, environ)
            for report in observation.reports
            for what, name, value in report["seen"]
        }
        entry = {
            "answer": lines,
            "warnings": observation.warnings,
            "seen": [[*dependency, value] for dependency, value in seen.items()],
            "names": sorted(names),
            "resolution": kind.installed.resolution(names),
        }
        strict = kind.key(strict=True)
        if any(report["user_code"] for report in observation.reports) and key != strict:
            self._keep(key, {"user_code": True, "answers": []})
            key = strict
        self._entries.pop(key, None)  # what another process has added since is kept
        answers = (self._read(key) or {}).get("answers", [])
        self._keep(key, {"answers": [*answers, entry][-_MOST:]})

    def _valid(self, key: str, kind: _Kind) -> dict[str, Any] | None:
        entry = self._read(key) or {}
        answers: list[dict[str, Any]] = entry.get("answers", [])
        return next((answer for answer in reversed(answers) if _holds(answer, kind.installed)), None)

    def _read(self, key: str) -> dict[str, Any] | None:
        entry = self._entries.get(key)
        if entry is None:
            content = self._cache.read(key)
            if content is not None:
                entry = self._entries[key] = json.loads(content)
        return entry

    def _keep(self, key: str, entry: dict[str, Any]) -> None:
        self._entries[key] = entry
        self._cache.publish(key, json.dumps(entry).encode())


class _Kind:
    """The kind of a model in this environment."""

    def __init__(self, question: Question, now: Installed) -> None:
        self.installed = now
        self.model = Model(question.path, now.provides)
        self._circumstances = repr(
            (
                FORMAT,
                question.about,
                question.flavor,
                sorted(question.settings.items()),
                sys.executable,
                sys.version,
                platform.platform(),
                now.digest,
                interpreter(os.environ),
                os.environ.get("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT"),  # one too short is to fail
            )
        )

    def key(self, strict: bool) -> str:
        text = f"{strict}\0{self._circumstances}\0{self.model.digest(strict)}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _holds(entry: dict[str, Any], now: Installed) -> bool:
    """Whether everything that the answer was seen to depend on is as it was."""
    return (
        all(value_of(what, name) == value for what, name, value in entry["seen"])
        and now.resolution(frozenset(entry["names"])) == entry["resolution"]
    )


def left_to_mlflow(question: Question) -> bool:
    """Whether this is MLflow's own: no local files, or an inference that does not stay in one process."""
    return (
        question.flavor in _OWN_WAY
        or "DATABRICKS_RUNTIME_VERSION" in os.environ
        or not question.path.exists()
    )
