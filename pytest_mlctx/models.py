"""The models that tests log: what MLflow infers of them is reused, and counted for the summary."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict

import pytest

from pytest_mlctx.services import requirements, store


class Models:
    """Reuses requirements from its making to `close`, always or while a temporary store is in force."""

    def __init__(self, *, always: bool) -> None:
        self._reuse = requirements.install((lambda: True) if always else _on_temporary_store)
        self._told = asdict(self._reuse.statistics)

    def close(self) -> None:
        """Leave it to MLflow again."""
        requirements.uninstall(self._reuse)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hand over with each test what became of its models, to xdist's controller too."""
        report = yield
        now = asdict(self._reuse.statistics)
        if call.when == "teardown" and now != self._told:
            vars(report)["mlctx_models"] = {
                "reused": now["reused"] - self._told["reused"],
                "inferred": now["inferred"] - self._told["inferred"],
                "seconds": now["seconds"] - self._told["seconds"],
                "refused": now["refused"],
            }
            self._told = now
        return report


def _on_temporary_store() -> bool:
    import mlflow

    return store.is_temporary(mlflow.get_tracking_uri())
