"""Fail unless each declared dependency is installed in its lowest declared version."""

from __future__ import annotations

import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.version import Version

wrong = []
for requirement in map(Requirement, requires("pytest-mlctx") or []):
    (lowest,) = [each.version for each in requirement.specifier if each.operator == ">="]
    installed = version(requirement.name)
    print(requirement, "is", installed)
    if Version(installed) != Version(lowest):
        wrong.append(requirement.name)
if wrong:
    sys.exit(f"not the lowest declared version: {', '.join(wrong)}")
