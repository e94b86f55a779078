"""Validation of experiment names, for MLflow and for the one line of a header."""

from __future__ import annotations

import re

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
