"""What waits for a module is told when it has been imported, however many wait for it."""

from __future__ import annotations

import importlib
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_mlctx.services import import_hooks


def test_several_wait_for_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "waited_for.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    told: list[int] = []
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(
                import_hooks.once_imported("waited_for", lambda number=number: told.append(number))  # type: ignore[misc]
            )
        importlib.import_module("waited_for")
    monkeypatch.delitem(sys.modules, "waited_for")
    assert sorted(told) == [0, 1, 2]


def test_a_module_that_is_nowhere_is_an_import_error() -> None:
    with (
        import_hooks.once_imported("nowhere_at_all", lambda: None),
        import_hooks.once_imported("nowhere_at_all", lambda: None),
        pytest.raises(ModuleNotFoundError),
    ):
        importlib.import_module("nowhere_at_all")
