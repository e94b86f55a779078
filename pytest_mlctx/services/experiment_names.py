"""Experiments by name: what a name may be, and the id of the one that has it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pytest_mlctx.services.errors import ServiceError

_LONGEST = 500  # characters (mlflow.utils.validation.MAX_EXPERIMENT_NAME_LENGTH)


def mistake(name: str) -> str | None:
    """What is wrong with a name and what to do, as the end of a sentence; None where nothing is."""
    if not name.strip() or re.search(r"[\r\n]", name):
        return f"{name!r} is not the name of an experiment: give one line that is not blank"
    if len(name) > _LONGEST:
        shown = f"{name[:20]}…"
        return f"{shown!r} has {len(name)} characters as the name of an experiment: use {_LONGEST} at most"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"{name!r} has characters that no store can keep: write the name of the experiment in UTF-8"
    return None


def found_or_made(name: str, what: str, find: Callable[[str], Any], make: Callable[[str], Any]) -> str:
    """The id of the experiment of this name, which is made where it is missing.

    Args:
        name: the name.
        what: who asks for it, for the sentence.
        find: gives the ``mlflow.entities.Experiment`` of a name, or None.
        make: makes an experiment of a name, and gives its id.

    Raises:
        ServiceError: it was deleted in the store.
    """
    experiment = find(name)
    if experiment is None:
        try:
            return str(make(name))
        except Exception:
            experiment = find(name)  # another process may have been faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise ServiceError(
            f"{what} {name!r} was deleted in this store: restore it "
            f"(`mlflow experiments restore -x {experiment.experiment_id}`) or choose another."
        )
    return str(experiment.experiment_id)
