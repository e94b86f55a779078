"""What MLflow does in the background: it is let finish before anything else is put back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Hashable, Iterable
from typing import Any

from pytest_mlctx.services.state.deadline import within
from pytest_mlctx.services.state.kinds import ABSENT, Kind

_DEADLINE = 3.0  # seconds


class Worker(Kind):
    """A thread of MLflow's that logs runs, artifacts, traces or links of prompts."""

    name = "mlflow.thread"

    _PREFIXES = ("link_prompt", "MLflowAsync", "MLflowTraceLogging")

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The threads that are alive, and told by name."""
        return [
            (id(thread), thread) for thread in threading.enumerate() if thread.name.startswith(self._PREFIXES)
        ]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Let a new thread finish; one that has ended is not missed, MLflow starts them as needed."""
        if before is ABSENT:
            queue: Any = getattr(getattr(now, "_target", None), "__self__", None)
            if hasattr(queue, "shut_down_async_logging"):
                within(_DEADLINE, queue.shut_down_async_logging)
            elif hasattr(queue, "_stop_event"):
                within(_DEADLINE, lambda: queue.flush(terminate=True))
                queue._stop_event.clear()  # else it exports in the caller's thread from now on
            else:
                now.join(_DEADLINE)


class SystemMetrics(Kind):
    """The thread that samples the machine for a run, by run id."""

    name = "mlflow.system_metrics"

    def _monitors(self) -> dict[str, Any]:
        return getattr(sys.modules.get("mlflow.tracking.fluent"), "run_id_to_system_metrics_monitor", {})

    def read(self) -> Iterable[tuple[Hashable, object]]:
        """The monitors that MLflow knows of."""
        return [*self._monitors().items()]

    def undo(self, key: Any, before: Any, now: Any) -> None:
        """Stop the new monitor; one that has ended with its run is not started again."""
        if before is ABSENT and self._monitors().pop(key, None) is not None:
            within(_DEADLINE, now.finish)


KINDS: tuple[Kind, ...] = (Worker(), SystemMetrics())
