"""What MLflow infers of a model, asked once for each kind of model and reused."""

from pytest_mlctx.services.requirements.hook import (
    RequirementsWarning,
    Reuse,
    Statistics,
    install,
    reuse_requirements,
    uninstall,
)

__all__ = ["RequirementsWarning", "Reuse", "Statistics", "install", "reuse_requirements", "uninstall"]
