"""What users change by the public API of each library, and the sentences that tell it."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import mlflow
import mlflow.deployments
from loguru import logger

MLFLOW_3 = int(mlflow.__version__.split(".")[0]) >= 3
HELD = []  # collected, a context manager ends what it has opened


def in_thread(work: Any) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def set_trace_destination() -> None:
    if MLFLOW_3:
        from mlflow.entities.trace_location import MlflowExperimentLocation

        mlflow.tracing.set_destination(MlflowExperimentLocation("0"))
    else:
        from mlflow.tracing.destination import MlflowExperiment

        mlflow.tracing.set_destination(MlflowExperiment("0"))


def open_span() -> None:
    HELD.append(mlflow.start_span("forgotten"))
    HELD[-1].__enter__()


def register_store() -> None:
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    _tracking_store_registry.register("mine", lambda store_uri, artifact_uri=None: None)


MLFLOW_CHANGES = {
    "open run": (mlflow.start_run, [r"run \w{8}… \([\w-]+\) left open"]),
    "named run": (lambda: mlflow.start_run(run_name="mine"), [r"run \w{8}… \(mine\) left open"]),
    "nested runs": (
        lambda: [mlflow.start_run(run_name="outer"), mlflow.start_run(run_name="inner", nested=True)],
        [r"run .* \(outer\) left open", r"run .* \(inner\) left open"],
    ),
    "run of an ended thread": (
        lambda: in_thread(mlflow.start_run),
        [r"run .* left open in another thread"],
    ),
    "tracking URI": (
        lambda: mlflow.set_tracking_uri("http://user:hunter2@127.0.0.1:9/?token=hunter2"),
        [r"tracking URI changed to http://\*\*\*@127\.0\.0\.1:9/\?token=\*\*\*$"],
    ),
    "registry URI": (
        lambda: mlflow.set_registry_uri("sqlite:///other.db"),
        ["registry URI changed to sqlite:///other.db"],
    ),
    "experiment": (lambda: mlflow.set_experiment("second"), ["active experiment changed to 'second'"]),
    "autologging of a flavor": (lambda: mlflow.sklearn.autolog(), ["autologging of sklearn left on"]),
    "autologging of a flavor off": (
        lambda: mlflow.sklearn.autolog(disable=True),
        [],
    ),
    "autologging": (lambda: mlflow.autolog(), ["autologging left on"]),
    "system metrics on": (
        mlflow.enable_system_metrics_logging,
        ["`MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING` set"],
    ),
    "asynchronous logging": (mlflow.config.enable_async_logging, ["`MLFLOW_ENABLE_ASYNC_LOGGING` set"]),
    "tracing off": (lambda: mlflow.tracing.disable(), ["tracing disabled"]),
    "trace destination": (set_trace_destination, ["tracing destination set"]),
    "open span": (open_span, ["span 'forgotten' left open"]),
    "variable set": (
        lambda: os.environ.update(MLFLOW_EXPERIMENT_NAME="x"),
        ["`MLFLOW_EXPERIMENT_NAME` set"],
    ),
    "variable changed": (
        lambda: os.environ.update(MLFLOW_TRACKING_URI="sqlite:///x.db"),
        ["`MLFLOW_TRACKING_URI` changed"],
    ),
    "variable deleted": (
        lambda: os.environ.pop("MLFLOW_TRACKING_URI", None),
        ["`MLFLOW_TRACKING_URI` deleted"],
    ),
    "deployments target": (
        lambda: mlflow.deployments.set_deployments_target("http://localhost:1"),
        ["deployments target changed to http://localhost:1"],
    ),
    "store of a scheme": (register_store, ["tracking store for the scheme 'mine' registered"]),
    "level of the logger": (
        lambda: logging.getLogger("mlflow").setLevel("CRITICAL"),
        ["level of MLflow's logger changed to CRITICAL"],
    ),
    "logging off": (
        lambda: mlflow.utils.logging_utils.disable_logging(),
        ["MLflow's logging disabled"],
    ),
}


def contextualize() -> None:
    HELD.append(logger.contextualize(task=1))
    HELD[-1].__enter__()


LOGURU_CHANGES = {
    "handler added": (
        lambda: logger.add(lambda message: None),
        [r"loguru handler \d+ left, with the sink <lambda>"],
    ),
    "handlers removed": (logger.remove, [r"loguru handler \d+ removed"]),
    "handlers replaced": (
        lambda: logger.configure(handlers=[{"sink": lambda message: None}]),
        [r"loguru handler \d+ left", r"loguru handler \d+ removed"],
    ),
    "extra": (lambda: logger.configure(extra={"user": "hunter2"}), ["loguru's extra 'user' set$"]),
    "patcher": (lambda: logger.configure(patcher=lambda record: None), ["loguru's patcher changed"]),
    "level": (lambda: logger.level("NOTE", no=22), ["loguru level NOTE added"]),
    "level changed": (
        lambda: logger.level("INFO", color="<red>", icon="!"),
        ["loguru level INFO changed"],
    ),
    "disabled": (lambda: logger.disable("package.module"), ["loguru disabled for `package.module`"]),
    "disabled for all": (lambda: logger.disable(""), ["loguru disabled for all modules"]),
    "disabled without a name": (lambda: logger.disable(None), ["loguru disabled for modules without a name"]),
    "context": (contextualize, [r"loguru's contextualize\(task=…\) left open"]),
}


LOGGING_CHANGES = {
    "disabled": (lambda: logging.disable(logging.ERROR), "logging disabled up to ERROR"),
    "level": (
        lambda: logging.root.setLevel(logging.DEBUG - 3),
        "level of the root logger changed to Level 7",
    ),
    "level renamed": (lambda: logging.addLevelName(logging.INFO, "NOTE"), "logging level 20 renamed"),
    "handler": (
        lambda: logging.root.addHandler(logging.StreamHandler()),
        "root logging handler <StreamHandler .*> left",
    ),
}
