"""pytest-xdist's workers: what one is told and tells, and what the controller knows of them all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from pytest_mlctx.settings import Settings

# The keys of what the controller and its workers hand to each other.
_CONTROLLER, _HEADER, _ACTIVE = "mlctx_controller", "mlctx_header", "mlctx_active"


def given(config: pytest.Config) -> Mapping[str, Any]:
    """What xdist gave to this worker, such as its ``workerid``; empty in any other process."""
    found: Mapping[str, Any] = getattr(config, "workerinput", {})
    return found


def is_controller(config: pytest.Config) -> bool:
    """Whether the tests of this session run in workers."""
    return not given(config) and config.pluginmanager.hasplugin("dsession")


def controller(config: pytest.Config) -> int | None:
    """The process id of the controller; None in another process than a worker."""
    return given(config).get(_CONTROLLER)


def tell_active(config: pytest.Config) -> None:
    """Tell the controller, where there is one, that this worker has used a service."""
    getattr(config, "workeroutput", {})[_ACTIVE] = True


def tell_header(config: pytest.Config, lines: list[str]) -> None:
    """Tell the controller what the header of this worker would say."""
    getattr(config, "workeroutput", {})[_HEADER] = lines


class Workers:
    """What the controller knows of its workers.

    Attributes:
        header: the lines that a worker would have written.
        active: whether one of them used a service.
        left_open: why runs of those that were killed may still be open.
    """

    def __init__(self) -> None:
        self.header: list[str] = []
        self.active: bool = False
        self.left_open: list[str] = []
        self._lost: dict[str, str] = {}  # the ids of those that were killed, with the session's

    def starts(self, node: Any) -> None:
        """Tell a worker with which process the session ends."""
        node.workerinput[_CONTROLLER] = os.getpid()

    def ended(self, node: Any, error: object) -> None:
        """Keep what a worker has told; its controller collects nothing."""
        output = getattr(node, "workeroutput", {})
        self.header = output.get(_HEADER, self.header)
        self.active |= output.get(_ACTIVE, False)
        if error:
            self._lost[node.gateway.id] = node.workerinput["testrunuid"]

    def close_lost(self, settings: Settings) -> None:
        """End the runs of workers that were killed, on a store that all workers track to."""
        if self._lost and settings.tracking_uri is not None:
            from pytest_mlctx import tracking

            self.left_open = tracking.close_lost(self._lost, settings.tracking_uri, settings.experiment)
