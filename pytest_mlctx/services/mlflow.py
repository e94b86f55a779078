"""MlflowService: where MLflow tracks, to which experiment, what it logs by itself; runs and their end."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pytest_mlctx.services import credentials, defaults, experiment_names, remote, runs, state, store, uris
from pytest_mlctx.services.base import Service
from pytest_mlctx.services.deadline import within
from pytest_mlctx.services.errors import ServiceError
from pytest_mlctx.services.state import mlflow_autologging

if TYPE_CHECKING:
    import mlflow


class MlflowService(Service):
    """MLflow on one tracking and registry store, with an active experiment and autologging as configured.

    On a ``sqlite:///`` store the artifacts of new experiments lie in ``mlartifacts/`` beside the database.
    """

    class RunConfig(BaseModel):
        """What ``MlflowService.run_context`` gives to ``mlflow.start_run``."""

        model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, frozen=True, extra="forbid")

        name: str
        """The run's name, not its id; need not be unique."""
        description: str | None = None
        """Shown on the run's page; MLflow renders it as Markdown."""
        tags: dict[str, Any] | None = None
        """Values of any type: MLflow stores their text."""
        log_system_metrics: bool | None = True
        """Sample CPU, memory, disk and network while the run is open; None: as MLflow is set."""

    libraries: ClassVar[tuple[state.Library, ...]] = ("mlflow", "environment")

    tracking_uri: str = "sqlite:///mlflow.db"
    """Any that MLflow takes: ``sqlite:///``, a path, ``http(s)://``, ``postgresql://``, ``databricks``."""
    registry_uri: str | None = Field(default=None, validate_default=True)
    """The model registry; None becomes the tracking URI: the attribute always tells the one in use."""
    experiment_name: str = "default"
    """The active experiment, made where it is missing."""
    registry_name: str = "default"
    """The name that jobs pass to ``mlflow.register_model``; the service itself registers nothing."""
    autolog_disable: bool = False
    """As ``mlflow.autolog(disable=True)``: what a flavor's own ``autolog()`` has turned on stays on."""
    autolog_disable_for_unsupported_versions: bool = False
    """No autologging of libraries in versions that this MLflow was not tested with."""
    autolog_exclusive: bool = False
    """Autologging stays out of runs that the user opened."""
    autolog_log_input_examples: bool = True
    """Log a sample of the training data with each model."""
    autolog_log_model_signatures: bool = True
    """Infer and log the signature of each model."""
    autolog_log_models: bool = False
    """Log trained models themselves."""
    autolog_log_datasets: bool = False
    """Log what the training data was."""
    autolog_silent: bool = False
    """No messages and warnings of MLflow's while autologging."""

    @field_validator("tracking_uri", "registry_uri")
    @classmethod
    def _discreet(cls, uri: str | None, values: ValidationInfo) -> str | None:
        if not uri and values.field_name == "registry_uri":
            return values.data.get("tracking_uri")
        return credentials.discreet(uri or "")

    @field_validator("experiment_name")
    @classmethod
    def _named(cls, name: str) -> str:
        if mistake := experiment_names.mistake(name):
            raise ValueError(mistake)
        return name

    def client(self) -> mlflow.MlflowClient:
        """A client of this service's tracking store and registry, running or not."""
        import mlflow

        return mlflow.MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.registry_uri)

    @contextmanager
    def run_context(self, run_config: RunConfig) -> Iterator[mlflow.ActiveRun]:
        """An active run, nested where one is active, whose start and end are logged at INFO.

        It ends as ``FINISHED``, on ``KeyboardInterrupt`` as ``KILLED``, on another exception as ``FAILED``.

        Args:
            run_config: the run's name, description, tags, and whether system metrics are sampled.

        Yields:
            the run (``mlflow.ActiveRun``) in the active experiment.

        Raises:
            ServiceError: no MlflowService is running.
        """
        import mlflow

        MlflowService.current()  # without one MLflow would make a store of its own in the working folder
        began = time.monotonic()
        run = mlflow.start_run(
            run_name=run_config.name,
            nested=mlflow.active_run() is not None,
            tags={key: str(value) for key, value in (run_config.tags or {}).items()},
            description=run_config.description,
            log_system_metrics=run_config.log_system_metrics,
        )
        run_id = run.info.run_id
        status = "FINISHED"
        try:
            logger.info("MLflow run {} ({}) started", run_config.name, run_id)
            yield run
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except BaseException:
            status = "FAILED"
            raise
        finally:
            try:
                status = _end_run(run_id, status)
            except Exception as error:
                if status == "FINISHED":
                    raise
                # The block's own error is the one to be seen.
                logger.warning("MLflow run {} could not be ended: {}", run_id, credentials.redact(str(error)))
            else:
                seconds = time.monotonic() - began
                logger.info(
                    "MLflow run {} ({}) ended: {}, {:.3f} s", run_config.name, run_id, status, seconds
                )

    def _apply(self) -> None:
        registry_uri = self.registry_uri or self.tracking_uri
        stores = {"tracking_uri": self.tracking_uri}
        if registry_uri != self.tracking_uri:
            stores["registry_uri"] = registry_uri
        for field, uri in stores.items():
            uris.check(f"MlflowService.{field}", uri)
        if any(uris.is_file_store(uri) for uri in stores.values()):
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow 3 refuses the file store without it

        with warnings.catch_warnings():
            # MLflow's of its own dependencies, which are errors under -W error.
            warnings.simplefilter("ignore")
            import mlflow

            for field, uri in stores.items():
                if remote.reaches(uri) and not store.is_temporary(uri):
                    uris.ask(f"MlflowService.{field}", uri, self.experiment_name)
            store.install_builders(*stores.values())
            defaults.track_to(self.tracking_uri, registry_uri)
            ours = store.store_of(self.tracking_uri)
            known = None if ours is None else ours.experiment_id(self.experiment_name)
            if known is not None:
                defaults.activate_experiment(known)  # what a sandbox would wait for longest
            else:
                with self._told_as_service_errors():
                    find = functools.partial(self._experiment_id, self.client())
                    # A server that answers a question may still hang when it is to make the experiment.
                    found = within(uris.DEADLINE, find) if uris.is_server(self.tracking_uri) else find()
                    mlflow.set_experiment(experiment_id=found)  # on Databricks also where traces go
                    defaults.activate_experiment(found)
        self._autolog()

    def _experiment_id(self, client: mlflow.MlflowClient) -> str:
        # Not set_experiment(name): beaten by another process it leaves the active experiment unset.
        return experiment_names.found_or_made(
            self.experiment_name,
            "MlflowService.experiment_name",
            client.get_experiment_by_name,
            client.create_experiment,
        )

    def _autolog(self) -> None:
        import mlflow
        from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

        active = any(config and not config.get("disable") for config in AUTOLOGGING_INTEGRATIONS.values())
        if self.autolog_disable and not active:
            return
        with mlflow_autologging.configuring():
            mlflow.autolog(
                disable=self.autolog_disable,
                disable_for_unsupported_versions=self.autolog_disable_for_unsupported_versions,
                exclusive=self.autolog_exclusive,
                log_input_examples=self.autolog_log_input_examples,
                log_model_signatures=self.autolog_log_model_signatures,
                log_models=self.autolog_log_models,
                log_datasets=self.autolog_log_datasets,
                silent=self.autolog_silent,
            )

    @contextmanager
    def _told_as_service_errors(self) -> Iterator[None]:
        import mlflow

        try:
            yield
        except ServiceError:
            raise
        except Exception as error:
            where = f"MlflowService.tracking_uri {credentials.redact(self.tracking_uri)!r}"
            text = credentials.redact(" ".join(str(error).split()))
            if incompatible := incompatibility(error):
                sentence = incompatible
            elif "out-of-date database schema" in text or "Can't locate revision" in text:
                sentence = (
                    f"{where} was made by another MLflow than {mlflow.__version__}: back it up and run "
                    "`mlflow db upgrade` on it where that MLflow was older, or install the one that made it."
                )
            else:
                sentence = (
                    f"{where} cannot be used by MLflow {mlflow.__version__} ({text[:300]}): "
                    "see to that store, or choose another."
                )
            raise ServiceError(sentence) from None


RunConfig = MlflowService.RunConfig


def incompatibility(error: Exception) -> str | None:
    """What to do where MLflow cannot be used beside another installed package; None for another error."""
    if "FallbackAsyncAdaptedQueuePool" not in str(error):
        return None
    import mlflow

    return (
        f"MLflow {mlflow.__version__} cannot open a SQL store beside SQLAlchemy 2.1: "
        "install 'sqlalchemy<2.1', or MLflow 3.14 or newer."
    )


def _end_run(run_id: str, status: str) -> str:
    """End the run, and the runs that were opened within it and left open; the status that it has then."""
    import mlflow

    stack = runs.active_run_ids()
    if run_id not in stack:  # the block has ended it itself
        with contextlib.suppress(Exception):  # of a server that is away by now
            return str(mlflow.get_run(run_id).info.status)
        return status
    with contextlib.ExitStack() as each:  # one that fails, since it was deleted, keeps none of the others
        for _ in stack[stack.index(run_id) :]:
            each.callback(mlflow.end_run, status)
    return status
